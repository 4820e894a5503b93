//! Why a tunnel ended, in words for events and logs, and as the Close frame that tells the cloud.

use std::fmt;
use std::io;
use std::time::Duration;

use websocket_frames::{BODY_LIMIT, CloseCode, Fault};

use crate::words::{legible, words};

/// Longest reason that a Close frame can carry behind its code.
const CLOSE_REASON_LIMIT: usize = BODY_LIMIT - 2;

/// Why a tunnel ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// The machine on the LAN closed its side.
    ClosedByDevice,
    /// The connection to the machine on the LAN broke; with what the system said.
    ResetByDevice(String),
    /// The cloud closed its side with a Close frame.
    ClosedByCloud,
    /// The cloud ended its stream in order, but without a Close frame: as a server does that was
    /// stopped, or a box in between.
    LeftByCloud,
    /// The cloud sent a Close frame with a code that tells of trouble, and perhaps a reason.
    FailedInCloud {
        /// The code of RFC 6455.
        code: u16,
        /// What the cloud said, made legible.
        reason: String,
    },
    /// The connection to the cloud broke; with what the system said.
    ResetByCloud(String),
    /// The cloud's stream ended where it cannot have been meant to end.
    CutByCloud(Cut),
    /// The cloud sent something that it may not send.
    BrokenByCloud(Violation),
    /// The cloud was silent for this long, although it was asked.
    CloudSilent(Duration),
    /// No byte of the user's went either way for this long.
    Idle(Duration),
    /// The tunnel was open for as long as tunnels may be.
    MaxDuration(Duration),
    /// adit is shutting down.
    Stopped,
    /// A new policy does not allow the target any more, in these words.
    Denied(String),
    /// It ended for that reason, and somebody did not take the last bytes.
    Incomplete {
        /// Why it ended.
        reason: Box<EndReason>,
        /// Bytes that did not reach the cloud.
        up: u64,
        /// Bytes that did not reach the device.
        down: u64,
    },
}

/// Where the cloud's stream was cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// A message, a fragment or a header was not complete.
    WithinMessage,
    /// TLS was not ended, nor was the WebSocket.
    WithinTls,
}

/// How the cloud broke a protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Violation {
    /// That of the WebSocket.
    Frame(Fault),
    /// TLS, in the words of the library.
    Tls(String),
    /// A record of TLS that nobody with the right key has made.
    Undecipherable,
    /// It ended TLS with an alert, in the words of the library.
    Alert(String),
}

/// Who stops a tunnel without a word stops adit.
impl From<()> for EndReason {
    fn from((): ()) -> Self {
        Self::Stopped
    }
}

impl EndReason {
    /// Whether one side, a limit or adit ended the tunnel on purpose, and nothing broke.
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            Self::ClosedByDevice
                | Self::ClosedByCloud
                | Self::LeftByCloud
                | Self::Idle(_)
                | Self::MaxDuration(_)
                | Self::Stopped
                | Self::Denied(_)
        )
    }

    /// Leaves out what the cloud said in its own words, if `is_secret` says so.
    pub(crate) fn forget_words_if(&mut self, is_secret: &dyn Fn(&str) -> bool) {
        match self {
            Self::FailedInCloud { reason, .. } if is_secret(reason) => reason.clear(),
            Self::Incomplete { reason, .. } => reason.forget_words_if(is_secret),
            _ => {}
        }
    }

    pub(super) fn device_error(error: &io::Error) -> Self {
        match error.kind() {
            // The machine had already said that it sends no more, and now takes no more either.
            io::ErrorKind::BrokenPipe => Self::ClosedByDevice,
            _ => Self::ResetByDevice(words(error)),
        }
    }

    pub(super) fn cloud_error(error: &io::Error) -> Self {
        Self::ResetByCloud(words(error))
    }

    pub(super) fn closed_by_cloud(code: Option<CloseCode>, reason: &[u8]) -> Self {
        match code {
            Some(code) if !matches!(code, CloseCode::Normal | CloseCode::Away) => {
                Self::FailedInCloud {
                    code: code.into(),
                    reason: legible(&String::from_utf8_lossy(reason)),
                }
            }
            _ => Self::ClosedByCloud,
        }
    }

    pub(super) fn tls_error(error: &rustls::Error) -> Self {
        Self::BrokenByCloud(match error {
            rustls::Error::DecryptError => Violation::Undecipherable,
            rustls::Error::AlertReceived(alert) => Violation::Alert(format!("{alert:?}")),
            error => Violation::Tls(legible(&error.to_string())),
        })
    }

    /// Adds what was not delivered, if anything was not.
    pub(super) fn with_undelivered(self, up: u64, down: u64) -> Self {
        match (up, down) {
            (0, 0) => self,
            _ => Self::Incomplete {
                reason: Box::new(self),
                up,
                down,
            },
        }
    }

    /// What a Close frame tells the cloud; nothing where it said goodbye itself or cannot hear.
    pub(super) fn close_body(&self) -> Vec<u8> {
        let code = match self {
            Self::ClosedByDevice | Self::Idle(_) | Self::MaxDuration(_) => CloseCode::Normal,
            Self::Stopped => CloseCode::Away,
            Self::Denied(_) => CloseCode::Policy,
            Self::ResetByDevice(_) | Self::CloudSilent(_) => CloseCode::Error,
            Self::BrokenByCloud(Violation::Frame(fault)) => fault.code(),
            Self::BrokenByCloud(_) => CloseCode::Protocol,
            Self::Incomplete { reason, .. } => return reason.close_body(),
            Self::ClosedByCloud
            | Self::LeftByCloud
            | Self::FailedInCloud { .. }
            | Self::ResetByCloud(_)
            | Self::CutByCloud(_) => return Vec::new(),
        };
        close_body(code, &self.to_string())
    }
}

/// Makes the body of a Close frame of a code and as much of the reason as fits.
pub(super) fn close_body(code: CloseCode, reason: &str) -> Vec<u8> {
    let end = reason.floor_char_boundary(CLOSE_REASON_LIMIT);
    let code = u16::from(code).to_be_bytes();
    [code.as_slice(), &reason.as_bytes()[..end]].concat()
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |time: &Duration| humantime::format_duration(*time).to_string();
        match self {
            Self::ClosedByDevice => f.write_str("closed by the device"),
            Self::ResetByDevice(error) => write!(f, "reset by the device: {error}"),
            Self::ClosedByCloud => f.write_str("closed by the cloud"),
            Self::LeftByCloud => f.write_str("closed by the cloud without a Close frame"),
            Self::FailedInCloud { code, reason } if reason.is_empty() => {
                write!(f, "closed by the cloud with code {code}")
            }
            Self::FailedInCloud { code, reason } => {
                write!(f, "closed by the cloud with code {code}: {reason}")
            }
            Self::ResetByCloud(error) => write!(f, "reset by the cloud: {error}"),
            Self::CutByCloud(Cut::WithinMessage) => {
                f.write_str("the cloud's stream was cut: it ended within a message")
            }
            Self::CutByCloud(Cut::WithinTls) => f.write_str(
                "the cloud's stream was cut: neither the WebSocket nor TLS was closed before it \
                 ended",
            ),
            Self::BrokenByCloud(Violation::Frame(fault)) => {
                write!(f, "the cloud broke the protocol: {fault}")
            }
            Self::BrokenByCloud(Violation::Tls(what)) => write!(f, "the cloud broke TLS: {what}"),
            Self::BrokenByCloud(Violation::Undecipherable) => f.write_str(
                "a TLS record from the cloud cannot be decrypted: something on the way changed it",
            ),
            Self::BrokenByCloud(Violation::Alert(alert)) => {
                write!(f, "the cloud ended TLS with the alert '{alert}'")
            }
            Self::CloudSilent(time) => write!(
                f,
                "the cloud did not answer {} pings; it neither took nor sent anything for {}",
                super::alarm::MISSED_PINGS,
                duration(time)
            ),
            Self::Idle(time) => write!(f, "idle for {}", duration(time)),
            Self::MaxDuration(time) => {
                write!(f, "open for {}, the longest allowed", duration(time))
            }
            Self::Stopped => f.write_str("adit is stopping"),
            Self::Denied(words) => f.write_str(words),
            Self::Incomplete { reason, up, down } => {
                let one = |bytes: &u64| if *bytes == 1 { "byte" } else { "bytes" };
                write!(f, "{reason}")?;
                if *up > 0 {
                    write!(f, "; {up} {} did not reach the cloud", one(up))?;
                }
                if *down > 0 {
                    write!(f, "; {down} {} did not reach the device", one(down))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_every_end() {
        for (reason, text, code) in [
            (EndReason::ClosedByDevice, "closed by the device", 1000),
            (
                EndReason::device_error(&io::ErrorKind::BrokenPipe.into()),
                "closed by the device",
                1000,
            ),
            (
                EndReason::device_error(&io::Error::from_raw_os_error(104)),
                "reset by the device: connection reset by peer",
                1011,
            ),
            (
                EndReason::CloudSilent(Duration::from_secs(40)),
                "the cloud did not answer 2 pings; it neither took nor sent anything for 40s",
                1011,
            ),
            (
                EndReason::BrokenByCloud(Violation::Frame(Fault::Masked)),
                "the cloud broke the protocol: Received a masked frame from server",
                1002,
            ),
            (
                EndReason::tls_error(&rustls::Error::DecryptError),
                "a TLS record from the cloud cannot be decrypted: something on the way changed it",
                1002,
            ),
            (
                EndReason::Idle(Duration::from_secs(600)),
                "idle for 10m",
                1000,
            ),
            (
                EndReason::MaxDuration(Duration::from_secs(5400)),
                "open for 1h 30m, the longest allowed",
                1000,
            ),
            (EndReason::Stopped, "adit is stopping", 1001),
            (
                EndReason::Denied("the policy denies plc-7:22".to_owned()),
                "the policy denies plc-7:22",
                1008,
            ),
        ] {
            assert_eq!(reason.to_string(), text);
            let body = [&u16::to_be_bytes(code), text.as_bytes()].concat();
            assert_eq!(reason.close_body(), body, "{text}");
        }
        for (up, down, text) in [
            (0, 0, "closed by the cloud"),
            (0, 1, "closed by the cloud; 1 byte did not reach the device"),
            (2, 0, "closed by the cloud; 2 bytes did not reach the cloud"),
            (
                300,
                2,
                "closed by the cloud; 300 bytes did not reach the cloud; 2 bytes did not reach \
                 the device",
            ),
        ] {
            let reason = EndReason::ClosedByCloud.with_undelivered(up, down);
            assert_eq!(reason.to_string(), text);
            assert_eq!(reason.is_orderly(), up + down == 0);
        }
    }

    #[test]
    fn repeats_what_the_cloud_said_only_made_legible() {
        let said = |code: u16, reason: &str| {
            EndReason::closed_by_cloud(Some(code.into()), reason.as_bytes()).to_string()
        };
        assert_eq!(said(1000, "bye"), "closed by the cloud");
        assert_eq!(said(1011, ""), "closed by the cloud with code 1011");
        assert_eq!(
            said(1011, "no \"operator\"\n\x1b[2J"),
            "closed by the cloud with code 1011: no 'operator' [2J"
        );
    }

    #[test]
    fn forgets_words_of_the_cloud_that_hold_a_secret_and_no_others() {
        let said = |reason: &str| EndReason::FailedInCloud {
            code: 1011,
            reason: reason.to_owned(),
        };
        let is_secret = |words: &str| words.contains("k-1");
        for wrap in [
            |reason: EndReason| reason,
            |reason: EndReason| reason.with_undelivered(1, 2),
        ] {
            for (words, kept) in [("no session k-1", ""), ("no session", "no session")] {
                let mut reason = wrap(said(words));
                reason.forget_words_if(&is_secret);
                assert_eq!(reason, wrap(said(kept)));
            }
        }
    }

    #[test]
    fn cuts_a_long_close_reason_between_characters() {
        let body = close_body(CloseCode::Error, &"ü".repeat(100));
        assert_eq!(body.len(), 2 + 122);
    }
}
