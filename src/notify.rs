//! Tells systemd how it stands, by its protocol of datagrams (sd_notify(3)). Where nobody wants to be
//! told, nothing is.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::debug;

/// Names the socket.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long systemd may hear nothing, in microseconds; and of which process.
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";
/// How long a stop usually takes at most: as `TimeoutStopSec` of the unit.
const STOP_TIME: Duration = Duration::from_secs(15);

/// Whoever started adit, if that wants to be told.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// Finds it in the environment.
    pub(crate) fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let is_meant = variable(WATCHDOG_PROCESS)
            .is_none_or(|process| process == std::process::id().to_string());
        Self {
            socket: std::env::var_os(SOCKET).and_then(|place| socket(&place)),
            watchdog: variable(WATCHDOG)
                .filter(|_| is_meant)
                .and_then(|limit| limit.parse().ok())
                .map(Duration::from_micros)
                .filter(|limit| !limit.is_zero()),
        }
    }

    /// adit runs, or a reload has ended.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// A reload begins; [`Supervisor::ready`] ends it.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let microseconds =
            seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// adit comes to its end, and may take so much longer for it than a stop usually takes.
    pub(crate) fn stopping(&self, longer: Duration) {
        self.tell("STOPPING=1");
        if !longer.is_zero() {
            // Systemd's own limit is one for adit without tunnels that go on.
            let microseconds = longer.saturating_add(STOP_TIME).as_micros();
            self.tell(&format!("EXTEND_TIMEOUT_USEC={microseconds}"));
        }
    }

    /// What adit is about, in words for people.
    pub(crate) fn status(&self, words: &str) {
        self.tell(&format!("STATUS={words}"));
    }

    /// Another process of adit is the main one from now on.
    pub(crate) fn main_process(&self, id: u32) {
        self.tell(&format!("MAINPID={id}"));
    }

    /// How often [`Supervisor::alive`] is to be called, if at all.
    pub(crate) fn watch_interval(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        Some(self.watchdog? / 2)
    }

    /// adit is not stuck.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        let told = match socket.peer_addr() {
            Ok(_) => socket.send(words.as_bytes()),
            Err(_) => socket.send_to_addr(words.as_bytes(), address),
        };
        if let Err(error) = told {
            debug!(error = error.to_string(), words, "systemd was not told");
        }
    }
}

/// Whether it is told at a socket that is in no file system.
pub(crate) fn is_told_at_an_abstract_socket() -> bool {
    std::env::var_os(SOCKET).is_some_and(|place| place.as_bytes().starts_with(b"@"))
}

/// A path, or a name that is in no file system and stands behind `@`.
fn socket(place: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(place),
    };
    let socket = UnixDatagram::unbound().ok()?;
    // A supervisor that reads nothing holds up nobody.
    socket.set_nonblocking(true).ok()?;
    let address = address.ok()?;
    if address.as_abstract_name().is_some() {
        // Once adit is confined it reaches only those that it is connected to.
        let _ = socket.connect_addr(&address);
    }
    Some((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(receiver: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let size = receiver.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    #[test]
    fn tells_at_a_path_and_at_a_name_that_is_in_no_file_system() {
        let name = format!("adit-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        for (receiver, place) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.clone().into_os_string(),
            ),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            let supervisor = Supervisor {
                socket: socket(&place),
                watchdog: Some(Duration::from_secs(10)),
            };
            supervisor.ready();
            assert_eq!(said(&receiver), "READY=1");
            supervisor.reloading();
            let reloading = said(&receiver);
            let time = reloading
                .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
                .unwrap();
            assert!(time.parse::<u64>().unwrap() > 0);
            assert_eq!(supervisor.watch_interval(), Some(Duration::from_secs(5)));
            supervisor.stopping(Duration::from_mins(30));
            assert_eq!(said(&receiver), "STOPPING=1");
            assert_eq!(said(&receiver), "EXTEND_TIMEOUT_USEC=1815000000");
            supervisor.stopping(Duration::ZERO);
            assert_eq!(said(&receiver), "STOPPING=1");
        }
        std::fs::remove_file(path).unwrap();
        assert_eq!(Supervisor::default().watch_interval(), None);
        Supervisor::default().ready();
    }
}
