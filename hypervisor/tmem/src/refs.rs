//! Reference counts of contents, in the low half of a word whose high half is somebody else's.
//!
//! A content is found in two ways. From a page's node, under its shard's lock: the node holds a reference, so one more
//! can be made ([`acquire`]). Through the table of contents (deduplication), under its vault's lock: the table holds
//! none, so the content may be on its way out, and only [`try_acquire`] will do. Whoever gives up the last reference
//! ([`release`] says so) takes the vault's lock, takes the content out of the table and frees it: between the two
//! steps others still see it in the table, with no references, and leave it alone. So no lookup has a gap in which
//! what it found is freed, and nothing is freed twice. The loom test below goes through all orders.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

/// Most references of one content: puts beyond it keep a content of their own.
const MOST: u64 = 1 << 31;
const COUNT: u64 = 0xffff_ffff;

/// The atomic word that a count lives in: the machine's, or loom's.
pub trait Counter {
    /// Loads.
    fn load(&self, order: Ordering) -> u64;
    /// Adds, and gives the old value.
    fn add(&self, value: u64, order: Ordering) -> u64;
    /// Subtracts, and gives the old value.
    fn sub(&self, value: u64, order: Ordering) -> u64;
    /// Replaces `old` by `new` if it is still `old`.
    fn replace(&self, old: u64, new: u64) -> Result<u64, u64>;
}

impl Counter for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    fn add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }
    fn sub(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_sub(value, order)
    }
    fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange_weak(old, new, Acquire, Relaxed)
    }
}

/// One more reference, by somebody who knows of one that stays meanwhile.
pub fn acquire(word: &impl Counter) {
    let old = word.add(1, Relaxed);
    debug_assert!(old & COUNT != 0, "a reference made from none");
}

/// One more reference, unless there is none any more or there are too many.
pub fn try_acquire(word: &impl Counter) -> bool {
    let mut old = word.load(Relaxed);
    while old & COUNT != 0 && old & COUNT < MOST {
        match word.replace(old, old + 1) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
    false
}

/// One reference less. True for the last one: the caller must free what it referred to.
#[must_use = "the last one frees"]
pub fn release(word: &impl Counter) -> bool {
    let old = word.sub(1, Release);
    debug_assert!(old & COUNT != 0, "more references given up than made");
    if old & COUNT != 1 {
        return false;
    }
    // All that the others did with the content comes before it is freed.
    let _ = word.load(Acquire);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_the_last() {
        let word = AtomicU64::new(0xabcd_0000_0000 | 1);
        acquire(&word);
        assert!(try_acquire(&word));
        assert!(!release(&word) && !release(&word) && release(&word));
        assert!(!try_acquire(&word), "nothing comes back from none");
        assert_eq!(word.load(Relaxed), 0xabcd_0000_0000, "the high half is not ours");
        word.store(MOST, Relaxed);
        assert!(!try_acquire(&word));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p ebb-tmem --release --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicBool;
    use loom::sync::{Arc, Mutex};

    impl Counter for loom::sync::atomic::AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }
        fn add(&self, value: u64, order: Ordering) -> u64 {
            self.fetch_add(value, order)
        }
        fn sub(&self, value: u64, order: Ordering) -> u64 {
            self.fetch_sub(value, order)
        }
        fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
            self.compare_exchange_weak(old, new, Acquire, Relaxed)
        }
    }

    /// One content: its count, its bytes (false once freed), and whether the table of contents has it.
    struct Vault {
        refs: loom::sync::atomic::AtomicU64,
        alive: AtomicBool,
        table: Mutex<bool>,
    }

    impl Vault {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                refs: loom::sync::atomic::AtomicU64::new(1),
                alive: AtomicBool::new(true),
                table: Mutex::new(true),
            })
        }
        fn use_it(&self) {
            assert!(self.alive.load(Relaxed), "read after it was freed");
        }
        fn release(&self) {
            if release(&self.refs) {
                let mut table = self.table.lock().unwrap();
                assert!(core::mem::replace(&mut *table, false), "freed twice");
                self.alive.store(false, Relaxed);
            }
        }
        fn find(&self) -> bool {
            let table = self.table.lock().unwrap();
            *table && try_acquire(&self.refs)
        }
    }

    #[test]
    fn loom_find_while_it_is_let_go() {
        loom::model(|| {
            let vault = Vault::new();
            let finder = {
                let vault = vault.clone();
                loom::thread::spawn(move || {
                    if vault.find() {
                        vault.use_it();
                        vault.release();
                    }
                })
            };
            vault.use_it();
            vault.release();
            finder.join().unwrap();
            assert_eq!(vault.refs.load(Relaxed), 0);
            assert!(!vault.alive.load(Relaxed) && !*vault.table.lock().unwrap());
        });
    }

    /// A page's slot in a shard: the node's reference is moved out under the shard's lock, as flush and eviction do,
    /// while a get acquires one of its own under it and uses it after.
    #[test]
    fn loom_get_against_flush_and_put() {
        loom::model(|| {
            let vault = Vault::new();
            let shard = Arc::new(Mutex::new(Some(vault.clone())));
            let get = {
                let shard = shard.clone();
                loom::thread::spawn(move || {
                    let found = {
                        let node = shard.lock().unwrap();
                        node.as_ref().map(|content| {
                            acquire(&content.refs);
                            content.clone()
                        })
                    };
                    if let Some(content) = found {
                        content.use_it();
                        content.release();
                    }
                })
            };
            let put = {
                let vault = vault.clone();
                loom::thread::spawn(move || {
                    if vault.find() {
                        vault.use_it();
                        vault.release();
                    }
                })
            };
            let flushed = shard.lock().unwrap().take();
            if let Some(content) = flushed {
                content.release();
            }
            get.join().unwrap();
            put.join().unwrap();
            assert!(!vault.alive.load(Relaxed));
        });
    }
}
