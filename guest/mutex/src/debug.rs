//! The debug build's rules: who holds what, who waits for what, and what is wrong with that.
//!
//! All of it is in one table, the [`Registry`], under one lock that is a leaf. What a thread holds is noted after it has
//! the mutex and struck out before it lets go, what it waits for is noted before it sleeps. So of the threads of a
//! deadlock the one that waits last finds the whole circle.

use core::fmt;
use core::ops::Range;
use core::panic::Location;
use core::sync::atomic::{AtomicU32, Ordering};

use arrayvec::ArrayVec;

use crate::raw::Rules;
use crate::tasks::{TaskId, Tasks};

/// Threads that can be watched.
pub const TASKS: usize = 64;
/// Mutexes that one may hold.
pub const DEPTH: usize = 8;
/// In a [`Checked`] that was made by its constructor.
const MADE: u32 = 0x6d75_7478;

type Place = &'static Location<'static>;

/// The kernel of a debug build.
pub trait Supervisor: Tasks {
    /// Its one table.
    fn registry(&self) -> &Registry;
    /// A thread's name.
    fn name(&self, task: TaskId) -> &str;
    /// Whether the caller is an interrupt handler.
    fn in_interrupt(&self) -> bool;
    /// Reports and ends the kernel.
    fn misuse(&self, violation: &Violation<'_>) -> !;
}

/// A mutex that a thread holds or waits for, and where it asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The mutex's address.
    pub lock: usize,
    /// Its name.
    pub name: &'static str,
    /// Where it was asked for.
    pub place: Place,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mutex `{}` ({:#x}), at {}", self.name, self.lock, self.place)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    held: ArrayVec<Held, DEPTH>,
    waits: Option<Held>,
}

/// All threads and what they hold and wait for.
#[derive(Debug)]
pub struct Registry {
    entries: spin::Mutex<[Entry; TASKS]>,
}

impl Registry {
    /// Nobody holds anything.
    pub const fn new() -> Self {
        Self { entries: spin::Mutex::new([const { Entry { held: ArrayVec::new_const(), waits: None } }; TASKS]) }
    }

    /// A thread is about to end.
    pub fn task_ends<K: Supervisor>(&self, tasks: &K, task: TaskId) {
        let held = self.entries.lock()[usize::from(task.0)].held.first().copied();
        if let Some(held) = held {
            let place = held.place;
            self.report(tasks, Wrong::EndsHolding, held, place, Some((task, held)));
        }
    }

    /// Memory is about to be given back.
    pub fn memory_ends<K: Supervisor>(&self, tasks: &K, memory: Range<usize>, place: Place) {
        let inside = |held: &&Held| memory.contains(&held.lock);
        let found = find(&self.entries.lock(), |entry| entry.held.iter().chain(&entry.waits).find(inside));
        if let Some((owner, held)) = found {
            self.report(tasks, Wrong::FreedHeld, held, place, Some((owner, held)));
        }
    }

    /// What a thread holds.
    pub fn held(&self, task: TaskId) -> ArrayVec<Held, DEPTH> {
        self.entries.lock()[usize::from(task.0)].held.clone()
    }

    fn report<K: Supervisor>(
        &self,
        tasks: &K,
        wrong: Wrong,
        lock: Held,
        place: Place,
        owner: Option<(TaskId, Held)>,
    ) -> ! {
        // Held while the report is made: the table is too large for a copy on a kernel's stack.
        let entries = self.entries.lock();
        let names = |task| tasks.name(task);
        tasks.misuse(&Violation { wrong, lock, task: tasks.current(), place, owner, entries: &entries, names: &names })
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

fn find<'e>(entries: &'e [Entry; TASKS], pick: impl Fn(&'e Entry) -> Option<&'e Held>) -> Option<(TaskId, Held)> {
    entries.iter().enumerate().find_map(|(task, entry)| Some((TaskId(task as u16), *pick(entry)?)))
}

fn owner(entries: &[Entry; TASKS], lock: usize) -> Option<(TaskId, Held)> {
    find(entries, |entry| entry.held.iter().find(|held| held.lock == lock))
}

/// Whether the wait of `task` for `lock` closes a circle.
fn closes_circle(entries: &[Entry; TASKS], task: TaskId, mut lock: usize) -> bool {
    // No chain without a circle is longer than there are threads.
    for _ in 0..TASKS {
        let Some((holder, _)) = owner(entries, lock) else {
            return false;
        };
        if holder == task {
            return true;
        }
        let Some(next) = entries[usize::from(holder.0)].waits else {
            return false;
        };
        lock = next.lock;
    }
    false
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    NotMade,
    InInterrupt,
    Recursion,
    Deadlock,
    TwoHolders,
    NotOwner,
    NotLocked,
    FreedHeld,
    EndsHolding,
    TooMany,
}

impl Wrong {
    fn text(self) -> &'static str {
        match self {
            Self::NotMade => "was never initialised, or was overwritten",
            Self::InInterrupt => "is used by an interrupt handler",
            Self::Recursion => "is locked by its own holder: self-recursion",
            Self::Deadlock => "is waited for in a circle: deadlock",
            Self::TwoHolders => "has two holders: it was initialised anew, or overwritten, while held",
            Self::NotOwner => "is unlocked by a thread that does not hold it",
            Self::NotLocked => "is unlocked while nobody holds it: double unlock",
            Self::FreedHeld => "is freed or initialised anew while held",
            Self::EndsHolding => "is held by a thread that ends",
            Self::TooMany => "is one more than a thread can be watched to hold",
        }
    }
}

/// A report: a rule that was broken, the mutex, its owner, both places, and what everybody holds.
pub struct Violation<'v> {
    wrong: Wrong,
    lock: Held,
    task: TaskId,
    place: Place,
    owner: Option<(TaskId, Held)>,
    entries: &'v [Entry; TASKS],
    names: &'v dyn Fn(TaskId) -> &'v str,
}

impl Violation<'_> {
    fn thread(&self, f: &mut fmt::Formatter<'_>, task: TaskId) -> fmt::Result {
        write!(f, "thread {} `{}`", task.0, (self.names)(task))
    }

    fn circle(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut task, mut wanted) = (self.task, Held { place: self.place, ..self.lock });
        for _ in 0..TASKS {
            f.write_str("\n  ")?;
            self.thread(f, task)?;
            write!(f, " waits for {wanted}")?;
            let Some((holder, held)) = owner(self.entries, wanted.lock) else {
                return Ok(());
            };
            f.write_str("\n    which is held by ")?;
            self.thread(f, holder)?;
            write!(f, " since {}", held.place)?;
            match self.entries[usize::from(holder.0)].waits {
                Some(next) if holder != self.task => (task, wanted) = (holder, next),
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

impl fmt::Display for Violation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mutex `{}` ({:#x}) {}", self.lock.name, self.lock.lock, self.wrong.text())?;
        f.write_str("  by ")?;
        self.thread(f, self.task)?;
        write!(f, " at {}", self.place)?;
        if let Some((owner, held)) = self.owner {
            f.write_str("\n  owner ")?;
            self.thread(f, owner)?;
            write!(f, ", locked at {}", held.place)?;
        }
        if self.wrong == Wrong::Deadlock {
            self.circle(f)?;
        }
        f.write_str("\n  all mutexes held:")?;
        for (task, entry) in self.entries.iter().enumerate() {
            for held in &entry.held {
                f.write_str("\n    ")?;
                self.thread(f, TaskId(task as u16))?;
                write!(f, ": {held}")?;
            }
        }
        Ok(())
    }
}

/// The rules of a mutex in a debug build, and its name.
#[derive(Debug)]
pub struct Checked {
    made: AtomicU32,
    name: &'static str,
}

impl Checked {
    /// The rules for the mutex of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { made: AtomicU32::new(MADE), name }
    }

    fn held(&self, lock: usize, place: Place) -> Held {
        // A name in memory that nobody made is no name.
        let name = if self.is_made() { self.name } else { "?" };
        Held { lock, name, place }
    }

    fn is_made(&self) -> bool {
        self.made.load(Ordering::Relaxed) == MADE
    }

    /// May the calling context touch this mutex at all?
    fn check_context<K: Supervisor>(&self, tasks: &K, lock: usize, place: Place) {
        let registry = tasks.registry();
        if tasks.in_interrupt() {
            registry.report(tasks, Wrong::InInterrupt, self.held(lock, place), place, None);
        }
        if !self.is_made() {
            registry.report(tasks, Wrong::NotMade, self.held(lock, place), place, None);
        }
    }
}

impl<K: Supervisor> Rules<K> for Checked {
    fn lock(&self, tasks: &K, lock: usize, place: Place) {
        self.check_context(tasks, lock, place);
        let registry = tasks.registry();
        let me = tasks.current();
        let mine = registry.held(me).into_iter().find(|held| held.lock == lock);
        if let Some(held) = mine {
            registry.report(tasks, Wrong::Recursion, held, place, Some((me, held)));
        }
    }

    fn wait(&self, tasks: &K, lock: usize, place: Place) {
        let registry = tasks.registry();
        let me = tasks.current();
        let wanted = self.held(lock, place);
        let found = {
            let mut entries = registry.entries.lock();
            entries[usize::from(me.0)].waits = Some(wanted);
            closes_circle(&entries, me, lock).then(|| owner(&entries, lock))
        };
        if let Some(owner) = found {
            registry.report(tasks, Wrong::Deadlock, wanted, place, owner);
        }
    }

    fn give_up(&self, tasks: &K, _: usize) {
        tasks.registry().entries.lock()[usize::from(tasks.current().0)].waits = None;
    }

    fn acquired(&self, tasks: &K, lock: usize, place: Place) {
        let registry = tasks.registry();
        let held = self.held(lock, place);
        let (other, full) = {
            let mut entries = registry.entries.lock();
            let other = owner(&entries, lock);
            let mine = &mut entries[usize::from(tasks.current().0)];
            mine.waits = None;
            (other, mine.held.try_push(held).is_err())
        };
        if let Some(other) = other {
            registry.report(tasks, Wrong::TwoHolders, held, place, Some(other));
        }
        if full {
            registry.report(tasks, Wrong::TooMany, held, place, None);
        }
    }

    fn unlock(&self, tasks: &K, lock: usize, place: Place) {
        self.check_context(tasks, lock, place);
        let registry = tasks.registry();
        let mine = {
            let mut entries = registry.entries.lock();
            let held = &mut entries[usize::from(tasks.current().0)].held;
            held.iter().position(|held| held.lock == lock).map(|index| held.remove(index))
        };
        if mine.is_none() {
            let owner = owner(&registry.entries.lock(), lock);
            let wrong = if owner.is_some() { Wrong::NotOwner } else { Wrong::NotLocked };
            registry.report(tasks, wrong, self.held(lock, place), place, owner);
        }
    }

    fn end(&self, tasks: &K, lock: usize, place: Place) {
        let registry = tasks.registry();
        let owner = owner(&registry.entries.lock(), lock);
        if owner.is_some() {
            registry.report(tasks, Wrong::FreedHeld, self.held(lock, place), place, owner);
        }
    }
}
