//! The trace stream's decoder against whole, cut, damaged and random bytes.

use shared_abi::guest_event::{self, BalloonStatus, GuestEvent as _};
use shared_abi::trace_stream::*;
use shared_abi::xen::{DomId, Port};

/// xorshift64*: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

fn append<P: Payload>(stream: &mut Vec<u8>, payload: &P, cpu: u16, time_ns: u64) {
    let mut buffer = [0; MAX_WRITTEN_SIZE];
    let length = encode(payload, cpu, time_ns, &mut buffer).expect("a record fits");
    assert_eq!(length, record_size::<P>());
    stream.extend_from_slice(&buffer[..length]);
}

/// A stream with a record of each kind.
fn sample() -> Vec<u8> {
    let mut stream = Vec::new();
    append(&mut stream, &Start::new(2, 1_000_000, 131_072), 0, 0);
    append(&mut stream, &DomainStart { domid: DomId(1), pad: [0; 6], name: name_field("web") }, 0, 5);
    append(&mut stream, &HostSample { free: 10, total: 131_072, ..Default::default() }, 0, 10);
    let domain =
        DomainSample { domid: DomId(1), state: STATE_RUNNING, vcpus: 2, name: name_field("web"), ..Default::default() };
    append(&mut stream, &domain, 1, 20);
    let report = BalloonStatus { current: 7, target: 9, shortfall: 2, ..Default::default() }.to_xentrace();
    let event = GuestEvent {
        domid: DomId(1),
        vcpu: 1,
        event: report.event,
        extra_bytes: report.extra_bytes,
        extra: report.extra,
        pad: 0,
    };
    append(&mut stream, &event, 1, 30);
    append(&mut stream, &VmExit { domid: DomId(1), vcpu: 0, reason: 0x81, rip: 0x1000, info: 0 }, 1, 40);
    append(
        &mut stream,
        &VcpuSwitch { prev_domid: DomId::IDLE, prev_vcpu: 0, next_domid: DomId(1), next_vcpu: 1 },
        1,
        50,
    );
    append(&mut stream, &EventSend { domid: DomId(1), pad: 0, port: Port(3) }, 1, 60);
    append(&mut stream, &Lost { count: 4 }, 1, 70);
    append(&mut stream, &Initialised { ticks: 9, waited: 3, tsc: 12 }, 0, 72);
    append(&mut stream, &DomainBuild { domid: DomId(1), clean: 5, pages: 6, ..Default::default() }, 0, 74);
    append(&mut stream, &VcpuStart { domid: DomId(1), vcpu: 1, pad: 0 }, 1, 76);
    append(&mut stream, &DomainExits { domid: DomId(1), ..Default::default() }, 1, 78);
    let poll = Poll { domid: DomId(1), vcpu: 1, what: POLL_SENT, port: Port(3), ..Default::default() };
    append(&mut stream, &poll, 0, 79);
    append(&mut stream, &DomainEnd { domid: DomId(1), reason: REASON_TRIPLE_FAULT, pad: 0 }, 1, 80);
    append(&mut stream, &End { status: 0x10 }, 0, 90);
    stream
}

#[test]
fn every_kind_round_trips() {
    let stream = sample();
    let records: Vec<_> = Records::new(&stream).collect::<Result<_, _>>().expect("a whole stream");
    assert_eq!(records.len(), 16);
    let mut kinds: Vec<u16> = records.iter().map(|(header, _)| header.kind.0).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, (1..=16).collect::<Vec<_>>());
    assert!(records.iter().all(|(_, record)| !matches!(record, Record::Unknown(_))));
    assert!(records.is_sorted_by_key(|(header, _)| header.time_ns));

    let Record::Start(start) = records[0].1 else { panic!("{:?}", records[0]) };
    assert_eq!(start, Start::new(2, 1_000_000, 131_072));
    let (header, Record::DomainSample(domain)) = records[3] else { panic!("{:?}", records[3]) };
    assert_eq!((header.cpu, header.length, name_text(&domain.name)), (1, 120, "web"));
    let Record::GuestEvent(event) = records[4].1 else { panic!("{:?}", records[4]) };
    let status: BalloonStatus = event.decode().expect("a balloon's report");
    assert_eq!((status.current, status.target, status.shortfall), (7, 9, 2));
    assert_eq!(event.decode::<guest_event::Workload>(), None);
}

#[test]
fn a_record_that_does_not_fit_leaves_the_buffer_alone() {
    let mut buffer = [0xaa; record_size::<Lost>() - 1];
    assert_eq!(encode(&Lost { count: 1 }, 0, 0, &mut buffer), None);
    assert!(buffer.iter().all(|byte| *byte == 0xaa));
}

#[test]
fn a_stream_cut_anywhere_gives_its_whole_records_and_says_how_much_is_missing() {
    let stream = sample();
    let mut ends = vec![0];
    for record in Records::new(&stream) {
        ends.push(ends[ends.len() - 1] + record.expect("whole").0.length as usize);
    }
    for cut in 0..stream.len() {
        let mut records = Records::new(&stream[..cut]);
        let whole = records.by_ref().take_while(Result::is_ok).count();
        assert_eq!(whole, ends.iter().filter(|end| **end <= cut).count() - 1, "cut at {cut}");
        assert_eq!(records.rest(), &stream[ends[whole]..cut]);
        // Feeding what is said to be needed always makes progress.
        let error = decode(records.rest()).expect_err("the stream is cut");
        let DecodeError::Truncated { needed } = error else { panic!("{error}") };
        assert!(needed > records.rest().len() && ends[whole] + needed <= stream.len());
    }
}

#[test]
fn unknown_kinds_and_longer_records_survive() {
    let mut stream = Vec::new();
    append(&mut stream, &Lost { count: 1 }, 0, 0);
    stream[0..2].copy_from_slice(&999u16.to_le_bytes());
    // A newer writer's longer record of a known kind: the beginning is understood.
    append(&mut stream, &Lost { count: 2 }, 0, 0);
    let longer = stream.len();
    stream.extend_from_slice(&[0xff; 8]);
    let start = longer - record_size::<Lost>();
    stream[start + 4..start + 8].copy_from_slice(&(record_size::<Lost>() as u32 + 8).to_le_bytes());
    // A known kind whose payload is too short.
    append(&mut stream, &Lost { count: 3 }, 0, 0);
    let last = stream.len() - record_size::<Lost>();
    stream[last..last + 2].copy_from_slice(&Kind::DOMAIN_SAMPLE.0.to_le_bytes());

    let records: Vec<_> = Records::new(&stream).map(|record| record.expect("a record").1).collect();
    assert_eq!(
        records,
        [Record::Unknown(&1u64.to_le_bytes()), Record::Lost(Lost { count: 2 }), Record::Unknown(&3u64.to_le_bytes())]
    );
}

#[test]
fn impossible_lengths_are_errors() {
    for length in [0, 1, 8, 15, 17, 28, MAX_RECORD_SIZE as u32 + 8, u32::MAX, u32::MAX - 7] {
        let mut stream = sample();
        stream[4..8].copy_from_slice(&length.to_le_bytes());
        let mut records = Records::new(&stream);
        assert_eq!(records.next(), Some(Err(DecodeError::BadLength(length))));
        assert_eq!(records.next(), None);
        assert_eq!(records.rest(), stream);
    }
}

/// Decodes to the end and checks what holds for any bytes: progress, and payloads inside the slice.
fn exhaust(bytes: &[u8]) -> usize {
    let mut records = Records::new(bytes);
    let mut taken = 0;
    let mut count = 0;
    while let Some(item) = records.next() {
        match item {
            Ok((header, record)) => {
                taken += header.length as usize;
                count += 1;
                if let Record::Unknown(payload) = record {
                    assert_eq!(payload.len(), header.length as usize - HEADER_SIZE);
                }
                if let Record::GuestEvent(event) = record {
                    assert!(event.payload().len() <= 28);
                    let _ = event.decode::<BalloonStatus>();
                }
                if let Record::DomainSample(domain) = record {
                    assert!(name_text(&domain.name).len() <= NAME_SIZE);
                }
                assert_eq!(records.rest().len(), bytes.len() - taken);
            }
            Err(_) => assert_eq!(records.next(), None),
        }
    }
    assert!(count * HEADER_SIZE <= bytes.len());
    count
}

#[test]
fn random_bytes_are_survived() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let length = random.below(400);
        let bytes = random.bytes(length);
        exhaust(&bytes);
        if let Some(start) = find_start(&bytes) {
            assert!(start < bytes.len());
        }
    }
}

#[test]
fn damaged_streams_are_survived() {
    let mut random = Random(7);
    let whole = sample();
    let mut decoded = 0;
    for _ in 0..20_000 {
        let mut stream = whole.clone();
        for _ in 0..=random.below(8) {
            let at = random.below(stream.len());
            stream[at] = random.next() as u8;
        }
        stream.truncate(random.below(stream.len()) + 1);
        decoded += exhaust(&stream);
    }
    assert!(decoded > 20_000, "the damage must leave something to decode: {decoded}");
}

#[test]
fn a_stream_is_found_after_noise() {
    let mut random = Random(3);
    let whole = sample();
    for _ in 0..500 {
        let length = random.below(200);
        let mut bytes = random.bytes(length);
        bytes.extend_from_slice(&whole);
        let start = find_start(&bytes).expect("there is a start");
        assert_eq!(start, length);
        assert_eq!(exhaust(&bytes[start..]), 16);
    }
    assert_eq!(find_start(&whole[1..]), None);
    assert_eq!(find_start(&MAGIC), None);
    assert_eq!(find_start(&whole[..HEADER_SIZE + MAGIC.len()]), Some(0));
}

#[test]
fn names_are_cut_at_a_characters_border() {
    assert_eq!(name_text(&name_field("")), "");
    assert_eq!(name_text(&name_field("a name of sixteen")), "a name of sixtee");
    assert_eq!(name_text(&name_field("fifteen bytes..é")), "fifteen bytes..");
    let mut field = [0xff; NAME_SIZE];
    field[0] = b'x';
    assert_eq!(name_text(&field), "x");
}
