//! The summary at a run's end: each domain, its times of shortage, and the ledger.

use std::fmt::Write;

use shared_abi::trace_stream::HostSample;

use crate::size::pages_as_mib;
use crate::trace::model::{Domain, Model, Spell, SpellEnd, adds_up, short_reason};

/// Shortages told per domain; the rest are counted.
const SPELLS_TOLD: usize = 4;

/// The whole summary.
#[must_use]
pub fn text(model: &Model) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_domains(&mut out, model);
    let _ = write_spells(&mut out, model);
    let _ = write_ledger(&mut out, model);
    out
}

fn write_domains(out: &mut String, model: &Model) -> std::fmt::Result {
    if model.domains.is_empty() {
        return writeln!(out, "No domain reported anything.");
    }
    writeln!(
        out,
        "{:<16} {:>5} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}  end",
        "domain", "vCPUs", "least MiB", "most MiB", "ran s", "waited s", "hypercalls", "exits"
    )?;
    for (id, domain) in &model.domains {
        let s = &domain.sample;
        writeln!(
            out,
            "{:<16} {:>5} {:>9} {:>9} {:>9.2} {:>9.2} {:>10} {:>9}  {}",
            format!("{} (d{id})", domain.name),
            s.vcpus,
            pages_as_mib(domain.least.unwrap_or(0)),
            pages_as_mib(domain.most),
            s.runtime_ns as f64 / 1e9,
            s.runnable_ns as f64 / 1e9,
            s.hypercalls,
            s.exits,
            end_text(domain)
        )?;
    }
    Ok(())
}

fn end_text(domain: &Domain) -> String {
    match domain.ended {
        Some((at, _)) => format!("{} at {:.1} s", domain.state_text(), at as f64 / 1e9),
        None => format!("still {}", domain.state_text()),
    }
}

fn write_spells(out: &mut String, model: &Model) -> std::fmt::Result {
    for domain in model.domains.values() {
        // The longest shortages say most.
        let mut spells: Vec<&Spell> = domain.spells.iter().collect();
        spells.sort_by_key(|s| std::cmp::Reverse(s.end.map_or(u64::MAX, |(end, _)| end.saturating_sub(s.from_ns))));
        let untold = spells.len().saturating_sub(SPELLS_TOLD);
        spells.truncate(SPELLS_TOLD);
        spells.sort_by_key(|s| s.from_ns);
        for spell in spells {
            writeln!(out, "{}", spell_text(&domain.name, spell))?;
        }
        if untold > 0 {
            writeln!(out, "{} was short {untold} more times.", domain.name)?;
        }
    }
    Ok(())
}

fn spell_text(name: &str, spell: &Spell) -> String {
    let at = |ns: u64| format!("{:.1} s", ns as f64 / 1e9);
    let end = match spell.end {
        Some((end, SpellEnd::Whole { gained })) if gained == spell.worst => {
            format!("had all of it at {}", at(end))
        }
        Some((end, SpellEnd::Whole { gained })) => format!(
            "was whole at {} ({} MiB came, {} MiB were no longer wanted)",
            at(end),
            pages_as_mib(gained.into()),
            pages_as_mib((spell.worst - gained).into())
        ),
        Some((end, SpellEnd::DomainEnded)) => format!("ended at {}", at(end)),
        None => "was so to the end".into(),
    };
    // A driver whose target moves counts its attempts anew each time; then there is nothing to tell.
    let tried = if spell.retries > 0 { format!("tried {} times, ", spell.retries) } else { String::new() };
    format!(
        "{name} was {} MiB short from {} ({}), kept its {} MiB, {tried}and {end}.",
        pages_as_mib(spell.worst.into()),
        at(spell.from_ns),
        short_reason(spell.reason),
        pages_as_mib(spell.kept.into()),
    )
}

fn write_ledger(out: &mut String, model: &Model) -> std::fmt::Result {
    if let Some(host) = &model.host {
        writeln!(out, "{}", ledger_text(host))?;
    }
    if let Some((at, host)) = model.broken_ledgers.first() {
        let count = model.broken_ledgers.len();
        writeln!(out, "WARNING: {count} ledgers did not add up, first at {:.3} s: {host:?}", *at as f64 / 1e9)?;
    }
    if model.lost > 0 {
        writeln!(out, "The machine dropped {} trace records.", model.lost)?;
    }
    Ok(())
}

/// The ledger as a sum.
#[must_use]
pub fn ledger_text(host: &HostSample) -> String {
    format!(
        "Ledger, pages: free {} + scrubbing {} + domains {} + hypervisor {} + tmem {} = total {}{}; claimed {} of the free.",
        host.free,
        host.scrubbing,
        host.domains,
        host.hypervisor,
        host.tmem_ephemeral.saturating_add(host.tmem_persistent),
        host.total,
        if adds_up(host) { ", adds up" } else { ": DOES NOT ADD UP" },
        host.claimed
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::{made_up_run, model_of};

    #[test]
    fn the_story_is_told() {
        let text = text(&model_of(&made_up_run()));
        assert!(text.contains("spring (d1)"), "{text}");
        assert!(text.contains("crashed at 7.0 s"), "{text}");
        assert!(
            text.contains(
                "neap was 31.2 MiB short from 2.0 s (host short), kept its 46.8 MiB, tried 2 times, \
                 and had all of it at 4.0 s."
            ),
            "{text}"
        );
        assert!(text.contains("= total 50000, adds up"), "{text}");
    }

    #[test]
    fn a_wrong_ledger_is_shouted() {
        let host = HostSample { free: 1, total: 3, ..Default::default() };
        assert!(ledger_text(&host).contains("DOES NOT ADD UP"));
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(text(&Model::default()), "No domain reported anything.\n");
    }
}
