//! A binary min-heap whose elements know their place, so that one can be moved or taken out without a search.
//!
//! Used for run queues (by virtual time) and timer queues (by deadline). It grows only in [`IndexedHeap::reserve`] and,
//! if nobody reserved, in [`IndexedHeap::push`].

use alloc::vec::Vec;

/// What the heap asks of its elements.
pub trait Ranked {
    /// Whether `self` comes out before `other`.
    fn precedes(&self, other: &Self) -> bool;
    /// Told whenever the element gets another index.
    fn moved_to(&self, _index: usize) {}
}

/// The heap.
#[derive(Debug)]
pub struct IndexedHeap<T> {
    items: Vec<T>,
}

impl<T: Ranked> IndexedHeap<T> {
    /// An empty heap.
    pub const fn new() -> Self {
        Self { items: Vec::new() }
    }

    /// Makes room for `total` elements in all. False when memory is short.
    pub fn reserve(&mut self, total: usize) -> bool {
        self.items.try_reserve(total.saturating_sub(self.items.len())).is_ok()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first element.
    pub fn peek(&self) -> Option<&T> {
        self.items.first()
    }

    /// The elements, the first one first, the others in no order.
    pub fn iter(&self) -> core::slice::Iter<'_, T> {
        self.items.iter()
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.items.get(index)
    }

    /// Puts an element in.
    pub fn push(&mut self, item: T) {
        let index = self.items.len();
        self.items.push(item);
        self.rise(index);
    }

    /// Takes the first element out.
    pub fn pop(&mut self) -> Option<T> {
        self.remove(0)
    }

    /// Takes the element at `index` out.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        if index >= self.items.len() {
            return None;
        }
        let last = self.items.pop()?;
        let Some(place) = self.items.get_mut(index) else { return Some(last) };
        let item = core::mem::replace(place, last);
        self.sink(index);
        self.rise(index);
        Some(item)
    }

    /// Changes the element at `index` and moves it where it then belongs. False when there is none.
    pub fn change(&mut self, index: usize, change: impl FnOnce(&mut T)) -> bool {
        let Some(item) = self.items.get_mut(index) else { return false };
        change(item);
        self.sink(index);
        self.rise(index);
        true
    }

    /// Moves the element at `index` up to its place and tells it. Also tells an element that need not move.
    fn rise(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / 2;
            if !self.items[index].precedes(&self.items[parent]) {
                break;
            }
            self.items.swap(index, parent);
            self.items[index].moved_to(index);
            index = parent;
        }
        self.items[index].moved_to(index);
    }

    /// Moves the element at `index` down to its place and tells those that moved up.
    fn sink(&mut self, mut index: usize) {
        loop {
            let left = 2 * index + 1;
            if left >= self.items.len() {
                break;
            }
            let right = left + 1;
            let child =
                if right < self.items.len() && self.items[right].precedes(&self.items[left]) { right } else { left };
            if !self.items[child].precedes(&self.items[index]) {
                break;
            }
            self.items.swap(index, child);
            self.items[index].moved_to(index);
            index = child;
        }
        self.items[index].moved_to(index);
    }
}

impl<T: Ranked> Default for IndexedHeap<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::rc::Rc;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// An element that writes down where it is.
    struct Item {
        key: u32,
        place: Rc<Cell<usize>>,
    }

    impl Ranked for Item {
        fn precedes(&self, other: &Self) -> bool {
            self.key < other.key
        }
        fn moved_to(&self, index: usize) {
            self.place.set(index);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32),
        Pop,
        Remove(usize),
        Change(usize, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..50).prop_map(Step::Push),
            Just(Step::Pop),
            any::<usize>().prop_map(Step::Remove),
            (any::<usize>(), 0u32..50).prop_map(|(index, key)| Step::Change(index, key)),
        ]
    }

    /// Takes the element that `which` picks out of the model, or nothing from an empty one.
    fn pick(model: &[(u32, Rc<Cell<usize>>)], which: usize) -> Option<usize> {
        (!model.is_empty()).then(|| which % model.len())
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(steps in proptest::collection::vec(step(), 1..200)) {
            let mut heap = IndexedHeap::new();
            let mut model: Vec<(u32, Rc<Cell<usize>>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(key) => {
                        let place = Rc::new(Cell::new(usize::MAX));
                        heap.push(Item { key, place: place.clone() });
                        model.push((key, place));
                    }
                    Step::Pop => {
                        let item = heap.pop();
                        let least = model.iter().map(|(key, _)| *key).min();
                        prop_assert_eq!(item.as_ref().map(|item| item.key), least);
                        if let Some(item) = item {
                            model.retain(|(_, place)| !Rc::ptr_eq(place, &item.place));
                        }
                    }
                    Step::Remove(which) => if let Some(which) = pick(&model, which) {
                        let (key, place) = model.swap_remove(which);
                        let item = heap.remove(place.get()).expect("it is where it said");
                        prop_assert!(item.key == key && Rc::ptr_eq(&item.place, &place));
                    },
                    Step::Change(which, key) => if let Some(which) = pick(&model, which) {
                        model[which].0 = key;
                        prop_assert!(heap.change(model[which].1.get(), |item| item.key = key));
                    },
                }
                prop_assert_eq!(heap.len(), model.len());
                for (key, place) in &model {
                    let item = heap.get(place.get()).expect("inside");
                    prop_assert!(item.key == *key && Rc::ptr_eq(&item.place, place));
                }
            }
        }
    }
}
