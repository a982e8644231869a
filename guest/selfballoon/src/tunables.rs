//! The tunables, by the names that Linux's driver gives them.

use core::fmt;

/// Ns in a second.
const SECOND: u64 = 1_000_000_000;

/// What may be chosen about the two loops. The fields that divide are never 0: [`Tunables::set`] refuses it, and the
/// loops take a 0 that was put there otherwise as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// `selfballooning`: whether the balloon follows the goal.
    pub selfballooning: bool,
    /// `selfballoon_interval`: the time between two steps, in ns. Default 5 s.
    pub interval_ns: u64,
    /// `selfballoon_downhysteresis`: a step down goes 1/n of the way. Default 8.
    pub down_hysteresis: u64,
    /// `selfballoon_uphysteresis`: a step up goes 1/n of the way. Default 1.
    pub up_hysteresis: u64,
    /// `selfballoon_min_usable_mb`: the floor is at least this many MiB above what the kernel itself uses. Default 0.
    pub min_usable_mib: u64,
    /// `selfballoon_reserved_mb`: the goal is so many MiB higher, for the page cache. Default 0.
    pub reserved_mib: u64,
    /// `frontswap_selfshrinking`: whether pages come back from frontswap unasked.
    pub selfshrinking: bool,
    /// `frontswap_hysteresis`: each shrink takes 1/n of the pages. Default 20.
    pub frontswap_hysteresis: u64,
    /// `frontswap_inertia`: intervals without growth before shrinking begins. Default 3.
    pub frontswap_inertia: u64,
}

/// What the kernel was started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Whether the hypervisor has transcendent memory, and the guest uses it. Without, both loops start as off.
    pub tmem: bool,
    /// `noselfballooning`.
    pub no_selfballooning: bool,
    /// `noselfshrink`.
    pub no_selfshrink: bool,
}

/// Why a tunable was not set; it stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetError {
    /// There is none of that name.
    Unknown,
    /// Not a number, or too large; for a switch, neither 0 nor 1.
    Malformed,
    /// 0 where it would divide by it, or never sleep.
    Zero,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "there is no such tunable",
            Self::Malformed => "not a value for it",
            Self::Zero => "must not be zero",
        })
    }
}

impl Tunables {
    /// The driver's defaults, with both loops on.
    pub const DEFAULT: Self = Self {
        selfballooning: true,
        interval_ns: 5 * SECOND,
        down_hysteresis: 8,
        up_hysteresis: 1,
        min_usable_mib: 0,
        reserved_mib: 0,
        selfshrinking: true,
        frontswap_hysteresis: 20,
        frontswap_inertia: 3,
    };

    /// Every tunable's name.
    pub const NAMES: [&'static str; 9] = [
        "selfballooning",
        "selfballoon_interval",
        "selfballoon_downhysteresis",
        "selfballoon_uphysteresis",
        "selfballoon_min_usable_mb",
        "selfballoon_reserved_mb",
        "frontswap_selfshrinking",
        "frontswap_hysteresis",
        "frontswap_inertia",
    ];

    /// As a kernel starts with them.
    #[must_use]
    pub const fn at_boot(boot: Boot) -> Self {
        Self {
            selfballooning: boot.tmem && !boot.no_selfballooning,
            selfshrinking: boot.tmem && !boot.no_selfshrink,
            ..Self::DEFAULT
        }
    }

    /// A tunable's value; the interval in whole seconds, rounded up.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        Some(match name {
            "selfballooning" => self.selfballooning.into(),
            "selfballoon_interval" => self.interval_ns.div_ceil(SECOND),
            "selfballoon_downhysteresis" => self.down_hysteresis,
            "selfballoon_uphysteresis" => self.up_hysteresis,
            "selfballoon_min_usable_mb" => self.min_usable_mib,
            "selfballoon_reserved_mb" => self.reserved_mib,
            "frontswap_selfshrinking" => self.selfshrinking.into(),
            "frontswap_hysteresis" => self.frontswap_hysteresis,
            "frontswap_inertia" => self.frontswap_inertia,
            _ => return None,
        })
    }

    /// Sets a tunable from text: a decimal number; for switches 0 or 1; for the interval seconds, or milliseconds with
    /// the suffix `ms` (the one thing that the driver does not know).
    ///
    /// # Errors
    /// [`SetError`], and nothing has changed.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SetError> {
        let text = text.trim_ascii();
        match name {
            "selfballooning" => self.selfballooning = switch(text)?,
            "selfballoon_interval" => self.interval_ns = interval(text)?,
            "selfballoon_downhysteresis" => self.down_hysteresis = divisor(text)?,
            "selfballoon_uphysteresis" => self.up_hysteresis = divisor(text)?,
            "selfballoon_min_usable_mb" => self.min_usable_mib = number(text)?,
            "selfballoon_reserved_mb" => self.reserved_mib = number(text)?,
            "frontswap_selfshrinking" => self.selfshrinking = switch(text)?,
            "frontswap_hysteresis" => self.frontswap_hysteresis = divisor(text)?,
            "frontswap_inertia" => self.frontswap_inertia = divisor(text)?,
            _ => return Err(SetError::Unknown),
        }
        Ok(())
    }
}

impl Default for Tunables {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn number(text: &str) -> Result<u64, SetError> {
    // `parse` takes a sign; the driver's would not.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(SetError::Malformed)
}

fn divisor(text: &str) -> Result<u64, SetError> {
    match number(text)? {
        0 => Err(SetError::Zero),
        number => Ok(number),
    }
}

fn switch(text: &str) -> Result<bool, SetError> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(SetError::Malformed),
    }
}

fn interval(text: &str) -> Result<u64, SetError> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, SECOND / 1000),
        None => (text, SECOND),
    };
    divisor(digits)?.checked_mul(unit).ok_or(SetError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_the_drivers_and_all_can_be_read_and_set() {
        let mut tunables = Tunables::DEFAULT;
        let defaults = [1, 5, 8, 1, 0, 0, 1, 20, 3];
        for (name, default) in Tunables::NAMES.into_iter().zip(defaults) {
            assert_eq!(tunables.get(name), Some(default), "{name}");
            tunables.set(name, "1\n").unwrap();
            assert_eq!(tunables.get(name), Some(1), "{name}");
        }
        assert_eq!(tunables.get("selfballoon"), None);
        assert_eq!(tunables.set("selfballoon", "1"), Err(SetError::Unknown));
    }

    #[test]
    fn zero_is_refused_where_it_would_divide_and_nothing_changes() {
        let mut tunables = Tunables::DEFAULT;
        for name in [
            "selfballoon_interval",
            "selfballoon_downhysteresis",
            "selfballoon_uphysteresis",
            "frontswap_hysteresis",
            "frontswap_inertia",
        ] {
            assert_eq!(tunables.set(name, "0"), Err(SetError::Zero), "{name}");
        }
        for bad in ["", "-1", "+1", "1x", "ms", "99999999999999999999", "18446744073709551615"] {
            assert!(tunables.set("selfballoon_interval", bad).is_err(), "{bad}");
        }
        assert_eq!(tunables.set("selfballoon_interval", "0ms"), Err(SetError::Zero));
        assert_eq!(tunables.set("selfballooning", "2"), Err(SetError::Malformed));
        assert_eq!(tunables, Tunables::DEFAULT);
        tunables.set("selfballoon_interval", "250ms").unwrap();
        assert_eq!((tunables.interval_ns, tunables.get("selfballoon_interval")), (250_000_000, Some(1)));
    }

    #[test]
    fn off_without_tmem_and_by_argument() {
        let on = |boot| {
            let tunables = Tunables::at_boot(boot);
            (tunables.selfballooning, tunables.selfshrinking)
        };
        assert_eq!(on(Boot::default()), (false, false));
        let tmem = Boot { tmem: true, ..Boot::default() };
        assert_eq!(on(tmem), (true, true));
        assert_eq!(on(Boot { no_selfballooning: true, ..tmem }), (false, true));
        assert_eq!(on(Boot { no_selfshrink: true, ..tmem }), (true, false));
    }
}
