//! A machine as the control domain sees it: domains with pages, ports and parameters, time that is set by hand, calls
//! that can be made to fail.
#![allow(dead_code, reason = "each test file uses its part")]

use ebb_control::script::Script;
use ebb_control::{Control, Machine, Next, Options, Signal};
use ebb_ring::{Consumer, Layout, Page, Producer, SharedPage};
use shared_abi::domctl::{GetDomainInfo, INFO_SHUTDOWN_MASK, INFO_SHUTDOWN_SHIFT, InfoFlags};
use shared_abi::grant_table::GrantRef;
use shared_abi::io::xs_wire::{Header, MessageType};
use shared_abi::sysctl::PhysInfo;
use shared_abi::xen::{DomId, Errno, Gfn, Port};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use zerocopy::{FromBytes, IntoBytes};

pub const OWN: DomId = DomId(0);
pub const MS: u64 = 1_000_000;

/// A domain of the model.
pub struct Domain {
    pub info: GetDomainInfo,
    pub pauses: u32,
    pub pages: BTreeMap<Gfn, Rc<SharedPage>>,
    /// Events that the domain was sent, by its own port; a port that is here exists.
    pub sent: BTreeMap<u32, u64>,
    /// Events for the control domain, by the domain's port.
    pub raised: BTreeMap<u32, Rc<Cell<bool>>>,
    pub grants: BTreeMap<u32, Gfn>,
    pub params: BTreeMap<u32, u64>,
}

/// Everything there is.
#[derive(Default)]
pub struct World {
    pub now: u64,
    pub domains: BTreeMap<DomId, Domain>,
    pub changed: bool,
    pub typed: VecDeque<u8>,
    pub has_input: bool,
    pub printed: Vec<u8>,
    pub mapped: i64,
    pub bound: i64,
    pub free_pages: u64,
    /// The calls made, each with its domain.
    pub calls: Vec<String>,
    /// The call after so many more fails.
    pub fail_in: Option<usize>,
}

impl World {
    fn call(&mut self, what: String) -> Result<(), Errno> {
        self.calls.push(what);
        match &mut self.fail_in {
            Some(0) => {
                self.fail_in = None;
                Err(Errno::ENOMEM)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn domain(&mut self, id: DomId) -> Result<&mut Domain, Errno> {
        self.domains.get_mut(&id).ok_or(Errno::ESRCH)
    }
}

/// The machine: a handle to the world.
#[derive(Clone)]
pub struct Model(pub Rc<RefCell<World>>);

/// A mapped page; counts itself.
pub struct Mapped {
    page: Rc<SharedPage>,
    world: Rc<RefCell<World>>,
}

impl Page for Mapped {
    fn load(&self, offset: usize) -> u32 {
        self.page.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.page.store(offset, value);
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        self.page.read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.page.write(offset, from);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.world.borrow_mut().mapped -= 1;
    }
}

/// A bound channel; counts itself.
pub struct Channel {
    domain: DomId,
    port: u32,
    raised: Rc<Cell<bool>>,
    world: Rc<RefCell<World>>,
}

impl Signal for Channel {
    fn take(&self) -> bool {
        self.raised.replace(false)
    }

    fn send(&self) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        *world.domain(self.domain)?.sent.get_mut(&self.port).ok_or(Errno::EINVAL)? += 1;
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.world.borrow_mut().bound -= 1;
    }
}

impl Machine for Model {
    type Page = Mapped;
    type Signal = Channel;

    fn now(&self) -> u64 {
        self.0.borrow().now
    }
    fn domains_changed(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().changed)
    }
    fn has_input(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().has_input)
    }
    fn domains(&mut self) -> Result<Vec<GetDomainInfo>, Errno> {
        let info = |domain: &Domain| {
            let mut info = domain.info;
            if domain.pauses > 0 {
                info.flags |= InfoFlags::PAUSED.bits();
            }
            info
        };
        Ok(self.0.borrow().domains.values().map(info).collect())
    }
    fn physical_info(&mut self) -> Result<PhysInfo, Errno> {
        Ok(PhysInfo { free_pages: self.0.borrow().free_pages, ..PhysInfo::default() })
    }
    fn weight(&mut self, _: DomId) -> Result<u16, Errno> {
        Ok(256)
    }
    fn max_mem(&mut self, id: DomId, kib: u64) -> Result<(), Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("max_mem {} {kib}", id.0))?;
        world.domain(id)?.info.max_pages = kib / 4;
        Ok(())
    }
    fn pause(&mut self, id: DomId) -> Result<(), Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("pause {}", id.0))?;
        world.domain(id)?.pauses += 1;
        Ok(())
    }
    fn unpause(&mut self, id: DomId) -> Result<(), Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("unpause {}", id.0))?;
        let domain = world.domain(id)?;
        domain.pauses = domain.pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
        Ok(())
    }
    fn destroy(&mut self, id: DomId) -> Result<(), Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("destroy {}", id.0))?;
        world.domain(id)?.info.flags |= InfoFlags::DYING.bits();
        Ok(())
    }
    fn populate(&mut self, id: DomId, gfn: Gfn) -> Result<(), Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("populate {} {gfn}", id.0))?;
        let domain = world.domain(id)?;
        assert!(domain.info.tot_pages < domain.info.max_pages, "more than its maximum");
        domain.info.tot_pages += 1;
        domain.pages.insert(gfn, Rc::new(SharedPage::new()));
        Ok(())
    }
    fn alloc_unbound(&mut self, id: DomId) -> Result<Port, Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("alloc_unbound {}", id.0))?;
        let domain = world.domain(id)?;
        let port = domain.sent.len() as u32 + 1;
        domain.sent.insert(port, 0);
        Ok(Port(port))
    }
    fn set_param(&mut self, id: DomId, index: u32, value: u64) -> Result<(), Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("set_param {} {index}", id.0))?;
        world.domain(id)?.params.insert(index, value);
        Ok(())
    }
    fn grant_to_us(&mut self, id: DomId, own: DomId, entries: &[(GrantRef, Gfn)]) -> Result<(), Errno> {
        assert_eq!(own, OWN);
        let mut world = self.0.borrow_mut();
        world.call(format!("grant {}", id.0))?;
        world.domain(id)?.grants.extend(entries.iter().map(|(entry, gfn)| (entry.0, *gfn)));
        Ok(())
    }
    fn bind(&mut self, id: DomId, port: Port) -> Result<Channel, Errno> {
        let raised = Rc::new(Cell::new(false));
        let mut world = self.0.borrow_mut();
        world.call(format!("bind {} {}", id.0, port.0))?;
        world.domain(id)?.raised.insert(port.0, raised.clone());
        world.bound += 1;
        Ok(Channel { domain: id, port: port.0, raised, world: self.0.clone() })
    }
    fn map(&mut self, id: DomId, entry: GrantRef) -> Result<Mapped, Errno> {
        let mut world = self.0.borrow_mut();
        world.call(format!("map {} {}", id.0, entry.0))?;
        let domain = world.domain(id)?;
        let page = domain.grants.get(&entry.0).and_then(|gfn| domain.pages.get(gfn)).ok_or(Errno::EACCES)?.clone();
        world.mapped += 1;
        Ok(Mapped { page, world: self.0.clone() })
    }
    fn print(&mut self, bytes: &[u8]) {
        self.0.borrow_mut().printed.extend_from_slice(bytes);
    }
    fn read_input(&mut self, buffer: &mut [u8]) -> usize {
        let mut world = self.0.borrow_mut();
        let count = buffer.len().min(world.typed.len());
        buffer[..count].iter_mut().for_each(|byte| *byte = world.typed.pop_front().unwrap());
        count
    }
}

/// A control domain in its world.
pub struct Bench {
    pub world: Rc<RefCell<World>>,
    pub control: Control<Model>,
}

/// A domain's handle for a name.
pub fn handle(name: &str) -> [u8; 16] {
    let mut handle = [0; 16];
    handle[..name.len()].copy_from_slice(name.as_bytes());
    handle
}

impl Bench {
    pub fn new(arguments: &str, script: &str) -> Bench {
        let world = Rc::new(RefCell::new(World { free_pages: 1 << 20, ..World::default() }));
        let options = Options::parse(arguments).unwrap();
        let script = Script::parse(script.as_bytes()).unwrap();
        let control = Control::new(Model(world.clone()), OWN, options, script);
        let bench = Bench { world, control };
        bench.built_as(0, "control", 32, 0);
        bench
    }

    fn built_as(&self, id: u16, name: &str, mib: u64, pauses: u32) {
        let info = GetDomainInfo {
            domain: DomId(id),
            handle: handle(name),
            tot_pages: mib * 256,
            max_pages: mib * 256,
            flags: INFO_SHUTDOWN_MASK << INFO_SHUTDOWN_SHIFT,
            ..GetDomainInfo::default()
        };
        let domain = Domain {
            info,
            pauses,
            pages: BTreeMap::new(),
            sent: BTreeMap::new(),
            raised: BTreeMap::new(),
            grants: BTreeMap::new(),
            params: BTreeMap::new(),
        };
        let mut world = self.world.borrow_mut();
        world.domains.insert(DomId(id), domain);
        world.changed = true;
    }

    /// The hypervisor has built a domain.
    pub fn built(&self, id: u16, name: &str, mib: u64) {
        self.built_as(id, name, mib, 1);
    }

    /// A domain that is privileged.
    pub fn built_privileged(&self, id: u16, name: &str) {
        self.built_as(id, name, 32, 0);
    }

    /// A domain has shut down.
    pub fn shut_down(&self, id: u16, reason: u32) {
        let mut world = self.world.borrow_mut();
        let info = &mut world.domains.get_mut(&DomId(id)).unwrap().info;
        info.flags = (InfoFlags::DYING | InfoFlags::SHUTDOWN).bits() | reason << INFO_SHUTDOWN_SHIFT;
        world.changed = true;
    }

    /// It is gone.
    pub fn gone(&self, id: u16) {
        let mut world = self.world.borrow_mut();
        world.domains.remove(&DomId(id));
        world.changed = true;
    }

    /// Steps until there is nothing more to do; what it waits for then.
    pub fn settle(&mut self) -> Next {
        for _ in 0..10_000 {
            match self.control.step() {
                Next::Again => {}
                next => return next,
            }
        }
        panic!("there is no end of work");
    }

    /// Lets time pass, with a step whenever one is due.
    pub fn pass(&mut self, ns: u64) -> Next {
        let end = self.world.borrow().now + ns;
        loop {
            match self.settle() {
                Next::Wait(due) if due <= end => {
                    let mut world = self.world.borrow_mut();
                    assert!(due >= world.now, "it waits for the past");
                    // Time moves even when a step is due at once.
                    world.now = due.max(world.now + 1);
                }
                next => {
                    self.world.borrow_mut().now = end;
                    return next;
                }
            }
        }
    }

    /// What was printed since the last call.
    pub fn printed(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.world.borrow_mut().printed)).unwrap()
    }

    pub fn page(&self, id: u16, param: u32) -> Rc<SharedPage> {
        let world = self.world.borrow();
        let domain = &world.domains[&DomId(id)];
        domain.pages[&Gfn(domain.params[&param])].clone()
    }

    /// The guest's event on one of its ports, which the parameter names.
    pub fn raise(&self, id: u16, param: u32) {
        let world = self.world.borrow();
        let domain = &world.domains[&DomId(id)];
        let port = domain.params[&param] as u32;
        if let Some(raised) = domain.raised.get(&port) {
            raised.set(true);
        }
    }

    /// The guest prints; how much fitted.
    pub fn print_from(&self, id: u16, text: &[u8]) -> usize {
        use shared_abi::hvm::params::{CONSOLE_EVTCHN, CONSOLE_PFN};
        let page = self.page(id, CONSOLE_PFN);
        let count = Producer::attach(Layout::CONSOLE_OUTPUT, &*page).write(&*page, text).unwrap();
        self.raise(id, CONSOLE_EVTCHN);
        count
    }

    /// What the guest was typed.
    pub fn read_by(&self, id: u16) -> Vec<u8> {
        let page = self.page(id, shared_abi::hvm::params::CONSOLE_PFN);
        let mut bytes = vec![0; 2048];
        let count = Consumer::attach(Layout::CONSOLE_INPUT, &*page).read(&*page, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    /// Somebody types.
    pub fn type_in(&self, text: &[u8]) {
        let mut world = self.world.borrow_mut();
        world.typed.extend(text);
        world.has_input = true;
    }

    /// The guest sends a XenStore request and waits for the answer: its type and payload.
    pub fn store(&mut self, id: u16, type_: MessageType, payload: &[u8]) -> (MessageType, Vec<u8>) {
        use shared_abi::hvm::params::{STORE_EVTCHN, STORE_PFN};
        let page = self.page(id, STORE_PFN);
        let header = Header { type_, req_id: 1, tx_id: 0, len: payload.len() as u32 };
        let mut producer = Producer::attach(Layout::STORE_REQUESTS, &*page);
        assert_eq!(producer.write(&*page, header.as_bytes()), Ok(16));
        assert_eq!(producer.write(&*page, payload), Ok(payload.len()));
        self.raise(id, STORE_EVTCHN);
        self.settle();
        let mut bytes = vec![0; 1024];
        let count = Consumer::attach(Layout::STORE_REPLIES, &*page).read(&*page, &mut bytes).unwrap();
        let (header, rest) = Header::read_from_prefix(&bytes[..count]).unwrap();
        (header.type_, rest[..header.len as usize].to_vec())
    }

    /// The value of a node.
    pub fn node(&mut self, path: &str) -> Option<String> {
        self.control.server().read(path.as_bytes()).ok().map(|value| String::from_utf8(value).unwrap())
    }

    /// Nothing is mapped, nothing bound, and the tree is sound.
    pub fn assert_nothing_held(&mut self) {
        assert_eq!((self.world.borrow().mapped, self.world.borrow().bound), (0, 0));
        self.control.server().check().unwrap();
    }
}
