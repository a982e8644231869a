//! The control script: what to do with which domain, and when. The control domain's ramdisk, a text file.
//!
//! ```text
//! # comment
//! at <ms> <domain-name> target <size>
//! at <ms> <domain-name> pause|unpause|destroy|reboot|shutdown|poweroff|halt
//! at <ms> <domain-name> max-mem <size>
//! at <ms> <domain-name> sysrq <character>
//! stage <n> <ms> <domain-name> ...
//! ```
//!
//! Times count from when a domain of that name was unpaused first; those of a `stage` line from when it first said, in
//! its node `data/stage`, that it is at stage n or beyond. Each line is obeyed once, also when the domain
//! was started anew meanwhile: if it is not there at the time, the line waits for it. Lines of one domain are obeyed in
//! the order of their times, those of one time in the order of the file. Sizes take K, M and G; a plain number is MiB.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// What a line has done to its domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets its memory target, KiB.
    Target(u64),
    /// Sets how much memory it may have, KiB.
    MaxMem(u64),
    /// Pauses it.
    Pause,
    /// Undoes a pause.
    Unpause,
    /// Destroys it.
    Destroy,
    /// Asks it through `control/shutdown`.
    Ask(&'static str),
    /// Presses a SysRq key in it.
    SysRq(char),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Target(kib) => write!(f, "target {kib} KiB"),
            Action::MaxMem(kib) => write!(f, "max-mem {kib} KiB"),
            Action::Pause => f.write_str("pause"),
            Action::Unpause => f.write_str("unpause"),
            Action::Destroy => f.write_str("destroy"),
            Action::Ask(request) => f.write_str(request),
            Action::SysRq(key) => write!(f, "sysrq {key}"),
        }
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// When, ns after the domain was first unpaused or reached the stage.
    pub at: u64,
    /// The stage; 0: none is waited for.
    pub stage: u64,
    /// Which domain.
    pub name: String,
    /// What.
    pub action: Action,
    /// The line's number in the file, from 1.
    pub line: usize,
}

/// A script and how far it has come.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Lines that are still to be obeyed, in order of time.
    waiting: Vec<Directive>,
}

/// Reads a size in KiB.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, kib) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 10),
        b'G' | b'g' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1 << 10),
    };
    let number: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    number.checked_mul(kib).filter(|kib| (1..1 << 40).contains(kib))
}

fn parse_action(verb: &str, argument: Option<&str>) -> Result<Action, String> {
    let size = || argument.and_then(parse_size).ok_or_else(|| format!("{verb} needs a size"));
    let action = match verb {
        "target" => Action::Target(size()?),
        "max-mem" => Action::MaxMem(size()?),
        "sysrq" => {
            let text = argument.unwrap_or_default();
            match (text.chars().next(), text.chars().count()) {
                (Some(key), 1) if key.is_ascii_graphic() => Action::SysRq(key),
                _ => return Err("sysrq needs one character".to_string()),
            }
        }
        "pause" => Action::Pause,
        "unpause" => Action::Unpause,
        "destroy" => Action::Destroy,
        "reboot" => Action::Ask("reboot"),
        // Linux knows no `shutdown`: its orderly end is a power-off.
        "shutdown" | "poweroff" => Action::Ask("poweroff"),
        "halt" => Action::Ask("halt"),
        _ => return Err(format!("there is no {verb}")),
    };
    let takes_one = matches!(action, Action::Target(_) | Action::MaxMem(_) | Action::SysRq(_));
    if argument.is_some() && !takes_one { Err(format!("{verb} takes nothing after it")) } else { Ok(action) }
}

/// What a line that is none is told.
const FORM: &str = "not of the form `at <ms>` or `stage <n> <ms>`, then `<domain> <what> [<argument>]`";

fn parse_line(text: &str, line: usize) -> Result<Option<Directive>, String> {
    // A `#` that begins a word begins a comment.
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let end = words.iter().position(|word| word.starts_with('#')).unwrap_or(words.len());
    let (stage, rest) = match &words[..end] {
        [] => return Ok(None),
        ["at", rest @ ..] => (0, rest),
        ["stage", stage, rest @ ..] => {
            let stage = stage.parse::<u64>().ok().filter(|stage| *stage > 0);
            (stage.ok_or("the stage is no number above 0")?, rest)
        }
        _ => return Err(FORM.to_string()),
    };
    let (time, name, verb, argument) = match rest {
        [time, name, verb] => (time, name, verb, None),
        [time, name, verb, argument] => (time, name, verb, Some(*argument)),
        _ => return Err(FORM.to_string()),
    };
    let time = time.parse::<u64>().ok().and_then(|ms| ms.checked_mul(1_000_000));
    let at = time.ok_or("the time is no number of milliseconds")?;
    let action = parse_action(verb, argument)?;
    Ok(Some(Directive { at, stage, name: name.to_string(), action, line }))
}

impl Script {
    /// Reads a script. The errors name their lines.
    pub fn parse(text: &[u8]) -> Result<Script, Vec<String>> {
        // A ramdisk may be padded to whole pages.
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = core::str::from_utf8(text).map_err(|_| Vec::from(["the script is no text".to_string()]))?;
        let (mut waiting, mut errors) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            match parse_line(line, index + 1) {
                Ok(directive) => waiting.extend(directive),
                Err(why) => errors.push(format!("line {}: {why}", index + 1)),
            }
        }
        waiting.sort_by_key(|directive| directive.at);
        if errors.is_empty() { Ok(Script { waiting }) } else { Err(errors) }
    }

    /// Lines that are still to be obeyed.
    pub fn waiting(&self) -> &[Directive] {
        &self.waiting
    }

    /// Takes the next line whose time has come. `age` tells how long ago a domain that is there was first unpaused or, for
    /// a stage above 0, reached it, ns; `None` for one that is not there or not so far.
    pub fn take_due(&mut self, age: impl Fn(&str, u64) -> Option<u64>) -> Option<Directive> {
        let due = |directive: &Directive| age(&directive.name, directive.stage).is_some_and(|age| age >= directive.at);
        let place = self.waiting.iter().position(due)?;
        Some(self.waiting.remove(place))
    }

    /// How long until the next line is due, ns; `None` when there is none for a domain that is there and so far.
    pub fn next_in(&self, age: impl Fn(&str, u64) -> Option<u64>) -> Option<u64> {
        let wait = |line: &Directive| Some(line.at.saturating_sub(age(&line.name, line.stage)?));
        self.waiting.iter().filter_map(wait).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let script = Script::parse(
            b"# targets\n\nat 2000 lin target 192M # less\nat 1000 lin pause\nat 1000 rust sysrq c\n at 5 rust max-mem 1G\n\
              at 7 lin target 64\nat 8 lin target 5000K\nat 9 lin shutdown\n\0\0\0",
        )
        .unwrap();
        let found: Vec<_> =
            script.waiting().iter().map(|one| (one.at / 1_000_000, one.name.as_str(), one.action.clone())).collect();
        assert_eq!(
            found,
            [
                (5, "rust", Action::MaxMem(1 << 20)),
                (7, "lin", Action::Target(64 << 10)),
                (8, "lin", Action::Target(5000)),
                (9, "lin", Action::Ask("poweroff")),
                (1000, "lin", Action::Pause),
                (1000, "rust", Action::SysRq('c')),
                (2000, "lin", Action::Target(192 << 10)),
            ]
        );
    }

    #[test]
    fn mistakes_name_their_lines() {
        let errors = Script::parse(
            b"at 1 a target\nat x a pause\nat 1 a fly\nin 1 a pause\nat 1 a pause now\nat 1 a target -5M\nat 1 a sysrq cc\n\
              at 1 a target 0\nat 1 a target +5\nstage 0 1 a pause\nstage 1 a pause\n",
        )
        .unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
        assert_eq!(
            lines,
            [
                "line 1", "line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8", "line 9", "line 10",
                "line 11"
            ]
        );
        assert!(Script::parse(&[0xff, 0xfe]).is_err());
        assert!(Script::parse(b"").unwrap().waiting().is_empty());
    }

    #[test]
    fn a_stage_is_waited_for() {
        let mut script = Script::parse(b"stage 2 3 a pause\n").unwrap();
        let ms = 1_000_000;
        let at_stage = |reached: u64| move |_: &str, stage| (stage <= reached).then_some(3 * ms);
        assert_eq!((script.next_in(at_stage(1)), script.take_due(at_stage(1))), (None, None));
        assert_eq!(script.next_in(at_stage(2)), Some(0));
        assert_eq!(script.take_due(at_stage(2)).unwrap().action, Action::Pause);
    }

    #[test]
    fn due_lines_come_in_order_and_once() {
        let mut script = Script::parse(b"at 2 a pause\nat 1 a unpause\nat 1 b destroy\n").unwrap();
        let ms = 1_000_000;
        let only_a = |age: u64| move |name: &str, _| (name == "a").then_some(age);
        assert_eq!(script.next_in(only_a(0)), Some(ms));
        assert_eq!(script.take_due(only_a(ms - 1)), None);
        assert_eq!(script.take_due(only_a(3 * ms)).unwrap().action, Action::Unpause);
        assert_eq!(script.take_due(only_a(3 * ms)).unwrap().action, Action::Pause);
        assert_eq!(script.take_due(only_a(3 * ms)), None);
        assert_eq!(script.next_in(only_a(3 * ms)), None, "b is not there");
        assert_eq!(script.take_due(|_, _| Some(5 * ms)).unwrap().action, Action::Destroy);
    }
}
