//! The requests on the wire: what each payload means, who may send it, what the reply carries.

use alloc::format;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::io::xs_wire::{Header, MessageType, PAYLOAD_MAX};
use shared_abi::xen::DomId;

use crate::domains::Notice;
use crate::path;
use crate::permissions::{Permission, parse_domid, parse_number};
use crate::server::Server;
use crate::store::Node;
use crate::transaction::{TRANSACTION_OVERHEAD, Transaction};

/// A reply's payload.
type Reply = Result<Vec<u8>, Errno>;

/// The payload of a reply that says nothing else.
fn acknowledge() -> Reply {
    Ok(b"OK\0".to_vec())
}

/// The payload's only string.
fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::EINVAL),
    }
}

/// All strings that end with a NUL; what follows the last NUL is left out.
fn strings(payload: &[u8]) -> Vec<&[u8]> {
    let mut strings: Vec<_> = payload.split(|byte| *byte == 0).collect();
    strings.pop();
    strings
}

/// Exactly two strings.
fn two(payload: &[u8]) -> Result<[&[u8]; 2], Errno> {
    strings(payload).try_into().map_err(|_| Errno::EINVAL)
}

impl Server {
    /// Carries out a request and queues the reply.
    pub(crate) fn request(&mut self, from: DomId, header: &Header, payload: &[u8]) {
        let mut watch = None;
        let reply = match header.type_ {
            MessageType::WATCH => self.request_watch(from, payload).and_then(|new| {
                watch = Some(new);
                acknowledge()
            }),
            _ => self.reply_to(from, header, payload),
        };
        if let Some(client) = self.clients.get_mut(&from) {
            client.reply(header, reply);
            self.wake(from);
        }
        if let Some(watch) = watch {
            self.fire_new(from, &watch);
        }
    }

    fn reply_to(&mut self, from: DomId, header: &Header, payload: &[u8]) -> Reply {
        let type_ = header.type_;
        let known = type_.0 < MessageType::COUNT
            && ![MessageType::WATCH_EVENT, MessageType::ERROR, MessageType(20)].contains(&type_);
        if !known {
            return Err(Errno::ENOSYS);
        }
        const PRIVILEGED: [MessageType; 6] = [
            MessageType::CONTROL,
            MessageType::INTRODUCE,
            MessageType::RELEASE,
            MessageType::IS_DOMAIN_INTRODUCED,
            MessageType::RESUME,
            MessageType::SET_TARGET,
        ];
        if PRIVILEGED.contains(&type_) && !self.caller(from).privileged {
            return Err(Errno::EACCES);
        }
        if type_ == MessageType::UNWATCH {
            let [path, token] = two(payload)?;
            self.remove_watch(from, path, token)?;
            return acknowledge();
        }
        let open = |server: &Server| {
            server.clients.get(&from).is_some_and(|client| client.transactions.contains_key(&header.tx_id))
        };
        if header.tx_id != 0 && !open(self) {
            return Err(Errno::ENOENT);
        }
        match type_ {
            MessageType::TRANSACTION_START => self.start_transaction(from, header.tx_id),
            MessageType::TRANSACTION_END => self.end_transaction(from, header.tx_id, payload),
            MessageType::RESET_WATCHES => {
                self.reset_client(from);
                acknowledge()
            }
            MessageType::GET_DOMAIN_PATH => {
                let mut home = path::home(parse_domid(one(payload)?)?);
                home.push(0);
                Ok(home)
            }
            _ if PRIVILEGED.contains(&type_) => self.manage(from, type_, payload),
            _ => self.tree(from, header, payload),
        }
    }

    /// Requests about nodes.
    fn tree(&mut self, from: DomId, header: &Header, payload: &[u8]) -> Reply {
        let id = header.tx_id;
        match header.type_ {
            MessageType::READ => {
                let given = one(payload)?;
                self.view(from, id, |view| Ok(view.readable(given, false)?.value.clone()))
            }
            MessageType::DIRECTORY => {
                let given = one(payload)?;
                let limit = PAYLOAD_MAX as usize;
                self.view(from, id, |view| {
                    let node = view.readable(given, false)?;
                    if node.children.len() > limit { Err(Errno::E2BIG) } else { Ok(node.children.clone()) }
                })
            }
            MessageType::DIRECTORY_PART => {
                let [given, offset] = two(payload)?;
                let offset = parse_number(offset).ok_or(Errno::EINVAL)?;
                self.view(from, id, |view| Ok(directory_part(&*view.readable(given, false)?, offset)))
            }
            MessageType::GET_PERMS => {
                let given = one(payload)?;
                self.view(from, id, |view| Ok(view.readable(given, true)?.permissions.print()))
            }
            MessageType::WRITE => {
                let end = payload.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
                self.view(from, id, |view| view.write(&payload[..end], &payload[end + 1..]))?;
                acknowledge()
            }
            MessageType::MKDIR => {
                let given = one(payload)?;
                self.view(from, id, |view| view.make(given))?;
                acknowledge()
            }
            MessageType::RM => {
                let given = one(payload)?;
                self.view(from, id, |view| view.remove(given))?;
                acknowledge()
            }
            MessageType::SET_PERMS => self.request_permissions(from, id, payload),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn request_permissions(&mut self, from: DomId, id: u32, payload: &[u8]) -> Reply {
        let strings = strings(payload);
        let Some((given, texts)) = strings.split_first().filter(|(_, texts)| !texts.is_empty()) else {
            return Err(Errno::EINVAL);
        };
        let privileged = self.caller(from).privileged;
        if !privileged && texts.len() > self.quotas.permissions {
            return Err(Errno::ENOSPC);
        }
        let mut list = Vec::with_capacity(texts.len());
        for text in texts {
            let mut entry = Permission::parse(text)?;
            // Only who prepares domains may name one that is not there yet.
            entry.void = !privileged && entry.domain != self.control && !self.is_introduced(entry.domain);
            list.push(entry);
        }
        self.view(from, id, |view| view.set_permissions(given, &list))?;
        acknowledge()
    }

    fn request_watch(&mut self, from: DomId, payload: &[u8]) -> Result<(path::Path, crate::client::Token), Errno> {
        let [path, token] = two(payload)?;
        self.add_watch(from, path, token)
    }

    fn start_transaction(&mut self, from: DomId, inside: u32) -> Reply {
        if inside != 0 {
            return Err(Errno::EBUSY);
        }
        let Server { clients, quotas, .. } = self;
        let client = clients.get_mut(&from).ok_or(Errno::EINVAL)?;
        if !client.privileged {
            if client.transactions.len() >= quotas.transactions {
                return Err(Errno::ENOSPC);
            }
            if client.memory + TRANSACTION_OVERHEAD > quotas.memory {
                return Err(Errno::ENOMEM);
            }
        }
        let id = client.new_transaction_id();
        let transaction = Transaction::new();
        client.memory += transaction.memory();
        client.transactions.insert(id, transaction);
        Ok(format!("{id}\0").into_bytes())
    }

    fn end_transaction(&mut self, from: DomId, id: u32, payload: &[u8]) -> Reply {
        let commit = match one(payload)? {
            b"T" => true,
            b"F" => false,
            _ => return Err(Errno::EINVAL),
        };
        let Server { clients, store, quotas, .. } = self;
        let client = clients.get_mut(&from).ok_or(Errno::EINVAL)?;
        let transaction = client.transactions.remove(&id).ok_or(Errno::ENOENT)?;
        client.memory -= transaction.memory();
        if commit {
            let quotas = (!client.privileged).then_some(&*quotas);
            let changes = transaction.commit(store, quotas)?;
            self.fire_all(&changes);
        }
        acknowledge()
    }

    /// Requests of privileged clients.
    fn manage(&mut self, from: DomId, type_: MessageType, payload: &[u8]) -> Reply {
        match type_ {
            MessageType::CONTROL => return self.control(payload),
            MessageType::IS_DOMAIN_INTRODUCED => {
                let domain = parse_domid(one(payload)?)?;
                let there = domain == DomId::SELF || self.is_introduced(domain);
                return Ok(if there { b"T\0".to_vec() } else { b"F\0".to_vec() });
            }
            MessageType::INTRODUCE => self.request_introduce(payload)?,
            MessageType::SET_TARGET => {
                let [domain, target] = two(payload)?;
                self.set_target(parse_domid(domain)?, parse_domid(target)?)?;
            }
            _ => {
                let domain = parse_domid(one(payload)?)?;
                if domain == self.control || domain == from {
                    return Err(Errno::EINVAL);
                }
                if !self.is_introduced(domain) {
                    return Err(Errno::ENOENT);
                }
                if type_ == MessageType::RESUME {
                    self.resume(domain)?;
                } else {
                    self.check_notices()?;
                    self.release(domain)?;
                    self.notify(Notice::Released { domain });
                }
            }
        }
        acknowledge()
    }

    fn request_introduce(&mut self, payload: &[u8]) -> Result<(), Errno> {
        let strings = strings(payload);
        let [domain, gfn, port, ..] = strings[..] else { return Err(Errno::EINVAL) };
        let domain = parse_domid(domain)?;
        if domain == self.control {
            return Err(Errno::EINVAL);
        }
        let gfn = parse_number(gfn).ok_or(Errno::EINVAL)?;
        let port = parse_number(port).and_then(|port| u32::try_from(port).ok()).filter(|port| *port != 0);
        let port = port.ok_or(Errno::EINVAL)?;
        self.check_notices()?;
        match self.introduce(domain, false) {
            Err(Errno::EEXIST) => self.reconnect(domain)?,
            other => other?,
        }
        self.notify(Notice::Introduced { domain, gfn, port });
        Ok(())
    }

    /// CONTROL: `help` and `check`.
    fn control(&mut self, payload: &[u8]) -> Reply {
        match strings(payload).first() {
            Some(&b"help") => Ok(b"commands: check help\0".to_vec()),
            Some(&b"check") => match self.check() {
                Ok(()) => acknowledge(),
                Err(_) => Err(Errno::EIO),
            },
            _ => Err(Errno::EINVAL),
        }
    }
}

/// The reply to DIRECTORY_PART: the node's generation, as many whole names from the offset on as fit, and an empty name
/// behind the last one.
fn directory_part(node: &Node, offset: u64) -> Vec<u8> {
    let mut reply = format!("{}\0", node.generation).into_bytes();
    let rest = usize::try_from(offset).ok().and_then(|offset| node.children.get(offset..)).unwrap_or(b"");
    let room = PAYLOAD_MAX as usize - reply.len() - 1;
    if rest.len() <= room {
        reply.extend_from_slice(rest);
        reply.push(0);
    } else {
        let whole = rest[..room].iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        reply.extend_from_slice(&rest[..whole]);
    }
    reply
}
