//! Bytes arrive as they were sent, from any starting index and in any pieces; a peer that writes nonsense gets
//! `BadIndex`, and never more bytes than the ring holds.

use ebb_ring::{BadIndex, Consumer, Layout, PAGE_SIZE, Page, Producer, SharedPage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shared_abi::io::{console, xs_wire};

/// Each ring with the offsets of its indexes: producer, consumer.
const RINGS: [(Layout, usize, usize); 4] = [
    (Layout::STORE_REQUESTS, xs_wire::REQ_PROD, xs_wire::REQ_CONS),
    (Layout::STORE_REPLIES, xs_wire::RSP_PROD, xs_wire::RSP_CONS),
    (Layout::CONSOLE_INPUT, console::IN_PROD, console::IN_CONS),
    (Layout::CONSOLE_OUTPUT, console::OUT_PROD, console::OUT_CONS),
];

fn config() -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: number("PROPTEST_CASES").map_or(256, |cases| cases as u32),
        rng_seed: RngSeed::Fixed(number("PROPTEST_RNG_SEED").unwrap_or(0xebb)),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn index() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0u32..3000).prop_map(|below| 0u32.wrapping_sub(below)), 0u32..3000]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn bytes_arrive_in_order(
        which in 0usize..4,
        start in index(),
        steps in prop::collection::vec((any::<bool>(), 0usize..3000), 1..60),
    ) {
        let (layout, prod, cons) = RINGS[which];
        let page = SharedPage::new();
        page.store(prod, start);
        page.store(cons, start);
        let mut producer = Producer::attach(layout, &page);
        let mut consumer = Consumer::attach(layout, &page);
        let (mut sent, mut got) = (0usize, 0usize);
        let byte = |at: usize| (at % 251) as u8;
        for (send, length) in steps {
            if send {
                let bytes: Vec<u8> = (sent..sent + length).map(byte).collect();
                let room = layout.size() - (sent - got);
                prop_assert_eq!(producer.room(&page), Ok(room));
                let count = producer.write(&page, &bytes).unwrap();
                prop_assert_eq!(count, room.min(length));
                sent += count;
            } else {
                let mut out = vec![0; length];
                prop_assert_eq!(consumer.available(&page), Ok(sent - got));
                let count = consumer.read(&page, &mut out).unwrap();
                prop_assert_eq!(count, (sent - got).min(length));
                prop_assert!(out[..count].iter().enumerate().all(|(at, value)| *value == byte(got + at)));
                got += count;
            }
            prop_assert_eq!(page.load(prod), start.wrapping_add(sent as u32));
            prop_assert_eq!(page.load(cons), start.wrapping_add(got as u32));
        }
    }

    #[test]
    fn the_other_ring_is_left_alone(which in 0usize..4, start in index(), length in 0usize..3000) {
        let (layout, prod, cons) = RINGS[which];
        let page = SharedPage::new();
        page.write(0, &[0xa5; PAGE_SIZE]);
        page.store(prod, start);
        page.store(cons, start);
        let written = Producer::attach(layout, &page).write(&page, &vec![0x5a; length]).unwrap();
        let mut all = [0; PAGE_SIZE];
        page.read(0, &mut all);
        let index = |offset: usize| offset..offset + 4;
        let changed = (0..PAGE_SIZE).filter(|at| !index(prod).contains(at) && !index(cons).contains(at));
        prop_assert_eq!(changed.filter(|at| all[*at] != 0xa5).count(), written);
    }

    #[test]
    fn a_hostile_peer_gets_an_error(
        which in 0usize..4,
        writes in prop::collection::vec((any::<bool>(), index(), 0usize..3000), 1..60),
    ) {
        let (layout, prod, cons) = RINGS[which];
        let page = SharedPage::new();
        let mut producer = Producer::attach(layout, &page);
        let (mut put, mut taken) = (0u32, 0u32);
        let mut consumer = Consumer::attach(layout, &page);
        let mut buffer = vec![0; 4096];
        for (produce, value, length) in writes {
            // The peer of either end writes both indexes; an end keeps its own to itself.
            page.store(prod, value);
            page.store(cons, value);
            if produce {
                let used = put.wrapping_sub(value) as usize;
                let want = if used > layout.size() { Err(BadIndex) } else { Ok((layout.size() - used).min(length)) };
                prop_assert_eq!(producer.write(&page, &buffer[..length]), want);
                put = put.wrapping_add(want.unwrap_or(0) as u32);
            } else {
                let there = value.wrapping_sub(taken) as usize;
                let want = if there > layout.size() { Err(BadIndex) } else { Ok(there.min(length)) };
                prop_assert_eq!(consumer.read(&page, &mut buffer[..length]), want);
                taken = taken.wrapping_add(want.unwrap_or(0) as u32);
            }
        }
    }
}

#[test]
fn peeking_takes_nothing() {
    let page = SharedPage::new();
    let mut producer = Producer::attach(Layout::STORE_REQUESTS, &page);
    let mut consumer = Consumer::attach(Layout::STORE_REQUESTS, &page);
    assert_eq!(producer.write(&page, b"hello"), Ok(5));
    let mut out = [0; 8];
    assert_eq!(consumer.peek(&page, &mut out), Ok(5));
    assert_eq!(&out[..5], b"hello");
    consumer.advance(&page, 2);
    assert_eq!(consumer.read(&page, &mut out), Ok(3));
    assert_eq!(&out[..3], b"llo");
    Layout::STORE_REQUESTS.clear(&page);
    assert_eq!(Consumer::attach(Layout::STORE_REQUESTS, &page).available(&page), Ok(0));
    assert_eq!(Producer::attach(Layout::STORE_REQUESTS, &page).room(&page), Ok(1024));
}
