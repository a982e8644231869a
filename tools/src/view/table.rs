//! The live table as text, the same for every terminal.

use shared_abi::guest_event;

use crate::size::pages_as_mib;
use crate::trace::model::{Domain, Model, short_reason};

/// How a line should stand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Not at all.
    Plain,
    /// As a heading.
    Heading,
    /// A domain without all the memory it wants.
    Short,
    /// A domain that has ended.
    Ended,
}

/// The table's lines for `model`, with `title` above.
#[must_use]
pub fn lines(title: &str, model: &Model) -> Vec<(Tone, String)> {
    let mut out = vec![(Tone::Heading, format!("{title}   {:.1} s", model.now_ns as f64 / 1e9))];
    out.push((Tone::Plain, host_line(model)));
    out.push((
        Tone::Heading,
        format!(
            "{:>4} {:<15} {:>5} {:>9} {:>9} {:>9}  {:<12} {}",
            "id", "name", "vCPUs", "current", "target", "maximum", "state", "MiB short, and why"
        ),
    ));
    out.extend(model.shown().map(|(id, domain)| domain_line(id, domain)));
    out
}

fn host_line(model: &Model) -> String {
    let Some(host) = &model.host else {
        return "host: nothing reported yet".into();
    };
    format!(
        "host: free {} scrubbing {} pages ({} MiB of {})   domains {} MiB   hypervisor {} MiB",
        host.free,
        host.scrubbing,
        pages_as_mib(host.free.saturating_add(host.scrubbing)),
        pages_as_mib(host.total),
        pages_as_mib(host.domains),
        pages_as_mib(host.hypervisor),
    )
}

fn domain_line(id: u16, domain: &Domain) -> (Tone, String) {
    let s = &domain.sample;
    let short = short_text(domain);
    let tone = match domain.ended {
        Some(_) => Tone::Ended,
        None if short.starts_with(|c: char| c.is_ascii_digit()) => Tone::Short,
        None => Tone::Plain,
    };
    let text = format!(
        "{id:>4} {:<15} {:>5} {:>9} {:>9} {:>9}  {:<12} {short}",
        domain.name,
        s.vcpus,
        pages_as_mib(s.current),
        domain.balloon.map_or_else(|| "-".into(), |b| pages_as_mib(b.target.into())),
        pages_as_mib(s.maximum),
        domain.state_text(),
    );
    (tone, text)
}

/// What a domain lacks and why, or what its balloon is doing.
#[must_use]
pub fn short_text(domain: &Domain) -> String {
    let Some(balloon) = domain.balloon.filter(|_| domain.ended.is_none()) else {
        return String::new();
    };
    if balloon.shortfall > 0 && balloon.reason == guest_event::REASON_NONE {
        return format!("growing by {}", pages_as_mib(balloon.shortfall.into()));
    }
    if balloon.shortfall > 0 {
        let text = format!("{}: {}", pages_as_mib(balloon.shortfall.into()), short_reason(balloon.reason));
        return if balloon.retries > 0 { format!("{text}, try {}", balloon.retries) } else { text };
    }
    match balloon.current.cmp(&balloon.target) {
        std::cmp::Ordering::Greater if balloon.reason != guest_event::REASON_NONE => {
            format!("giving back: {}", short_reason(balloon.reason))
        }
        std::cmp::Ordering::Greater => "giving back".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::{made_up_run, model_of};

    #[test]
    fn a_short_domain_stands_out() {
        // Up to and including second 2: start, two domain starts, then four records a second.
        let run = made_up_run();
        let sizes = shared_abi::trace_stream::Records::new(&run).map(|r| r.unwrap().0.length as usize);
        let cut = sizes.take(3 + 4 * 2).sum();
        let lines = lines("Ebb", &model_of(&run[..cut]));
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[3].0, Tone::Plain);
        assert_eq!(lines[4].0, Tone::Short);
        assert!(lines[4].1.ends_with("31.2: host short, try 1"), "{}", lines[4].1);
        assert!(lines[1].1.starts_with("host: free 7000 scrubbing 0 pages"), "{}", lines[1].1);
    }

    #[test]
    fn ended_domains_say_how() {
        let lines = lines("Ebb", &model_of(&made_up_run()));
        assert!(lines[3..].iter().all(|(tone, _)| *tone == Tone::Ended));
        assert!(lines[4].1.contains("crashed"));
    }
}
