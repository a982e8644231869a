//! Being asked to end: Linux's Xen driver starts `/sbin/poweroff` or `/sbin/reboot`, which tells the process that runs
//! as init over a socket; init ends its jobs in order. When init does not listen, the helper ends the machine itself.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;

use crate::job::Failed;
use crate::power::{self, End};
use crate::report::{failed, say};

const SOCKET: &str = "/ebb-init.sock";

/// The helper's part.
pub fn ask(what: &str) -> ExitCode {
    let told = UnixStream::connect(SOCKET).and_then(|mut s| std::io::Write::write_all(&mut s, what.as_bytes()));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => power::end(end_of(what).unwrap_or(End::PowerOff)),
    }
}

/// Init's part: waits until asked, and says how to end.
pub fn follow() -> Result<End, Failed> {
    let listener = UnixListener::bind(SOCKET)?;
    say("following");
    loop {
        let (mut from, _) = listener.accept()?;
        let mut what = String::new();
        from.read_to_string(&mut what)?;
        match end_of(&what) {
            Some(end) => {
                say(&format!("asked to {what}"));
                return Ok(end);
            }
            None => failed("understanding what is asked", &what),
        }
    }
}

fn end_of(what: &str) -> Option<End> {
    match what {
        "poweroff" => Some(End::PowerOff),
        "reboot" => Some(End::Reboot),
        "halt" => Some(End::Halt),
        _ => None,
    }
}
