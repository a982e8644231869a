//! What is known of each page in use, and the lists they are on: active and inactive, of files and of anonymous memory.
//!
//! Lists are linked by index, the newest page at the head.

use alloc::vec::Vec;

/// No page.
pub const NONE: u32 = u32::MAX;

/// Whose page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A file's.
    File { file: u16, index: u32 },
    /// Anonymous memory.
    Anon { region: u16, index: u32 },
}

impl Owner {
    pub fn kind(self) -> Kind {
        match self {
            Self::File { .. } => Kind::File,
            Self::Anon { .. } => Kind::Anon,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Anon,
}

pub struct Page<F> {
    /// There while the page is in use.
    pub frame: Option<F>,
    pub owner: Owner,
    pub active: bool,
    pub referenced: bool,
    /// Of a file: differs from the disk.
    pub dirty: bool,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    count: u32,
}

/// All pages in use.
pub struct Lists<F> {
    pages: Vec<Page<F>>,
    unused: u32,
    lists: [List; 4],
}

fn number(kind: Kind, active: bool) -> usize {
    kind as usize * 2 + usize::from(active)
}

impl<F> Lists<F> {
    /// Empty, with room for `pages` so that none is looked for while memory is short.
    pub fn new(pages: usize) -> Self {
        let empty = List { head: NONE, tail: NONE, count: 0 };
        Self { pages: Vec::with_capacity(pages), unused: NONE, lists: [empty; 4] }
    }

    pub fn count(&self, kind: Kind, active: bool) -> u64 {
        self.lists[number(kind, active)].count.into()
    }

    pub fn total(&self) -> u64 {
        self.lists.iter().map(|list| u64::from(list.count)).sum()
    }

    pub fn page(&self, page: u32) -> &Page<F> {
        &self.pages[page as usize]
    }

    pub fn page_mut(&mut self, page: u32) -> &mut Page<F> {
        &mut self.pages[page as usize]
    }

    /// Puts a page into use, at the head of its list.
    pub fn insert(&mut self, frame: F, owner: Owner, active: bool) -> u32 {
        let page = Page { frame: Some(frame), owner, active, referenced: false, dirty: false, prev: NONE, next: NONE };
        let number = if self.unused == NONE {
            self.pages.push(page);
            self.pages.len() as u32 - 1
        } else {
            let number = self.unused;
            self.unused = self.pages[number as usize].next;
            self.pages[number as usize] = page;
            number
        };
        self.link(number);
        number
    }

    /// Takes a page out of use.
    pub fn remove(&mut self, page: u32) -> F {
        self.unlink(page);
        let unused = self.unused;
        let page_mut = self.page_mut(page);
        page_mut.next = unused;
        let frame = page_mut.frame.take();
        self.unused = page;
        frame.expect("a page in use has a frame")
    }

    /// Moves a page to the head of a list of its kind.
    pub fn move_to(&mut self, page: u32, active: bool) {
        self.unlink(page);
        self.page_mut(page).active = active;
        self.link(page);
    }

    /// The oldest page of a list.
    pub fn oldest(&self, kind: Kind, active: bool) -> Option<u32> {
        Some(self.lists[number(kind, active)].tail).filter(|page| *page != NONE)
    }

    fn link(&mut self, page: u32) {
        let list = number(self.page(page).owner.kind(), self.page(page).active);
        let head = self.lists[list].head;
        let page_mut = self.page_mut(page);
        (page_mut.prev, page_mut.next) = (NONE, head);
        match head {
            NONE => self.lists[list].tail = page,
            head => self.page_mut(head).prev = page,
        }
        self.lists[list].head = page;
        self.lists[list].count += 1;
    }

    fn unlink(&mut self, page: u32) {
        let &Page { prev, next, active, owner, .. } = self.page(page);
        let list = number(owner.kind(), active);
        match prev {
            NONE => self.lists[list].head = next,
            prev => self.page_mut(prev).next = next,
        }
        match next {
            NONE => self.lists[list].tail = prev,
            next => self.page_mut(next).prev = prev,
        }
        self.lists[list].count -= 1;
    }

    /// The pages in use, by number.
    pub fn in_use(&self) -> impl Iterator<Item = (u32, &Page<F>)> {
        self.pages
            .iter()
            .enumerate()
            .filter(|(_, page)| page.frame.is_some())
            .map(|(number, page)| (number as u32, page))
    }
}
