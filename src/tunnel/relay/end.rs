//! Why a tunnel ended, in words for events and logs, and as the Close frame that tells the cloud.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Utf8Bytes};

use super::MESSAGE_LIMIT;
use crate::words::{legible, words};

/// Longest reason that a Close frame can carry: a control frame has 125 bytes, the code takes two.
const CLOSE_REASON_LIMIT: usize = 123;

/// Why a tunnel ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// The machine on the LAN closed its side.
    ClosedByDevice,
    /// The connection to the machine on the LAN broke; with what the system said.
    ResetByDevice(String),
    /// The cloud closed its side, with a Close frame or without.
    ClosedByCloud,
    /// The cloud sent a Close frame with a code that tells of trouble, and perhaps a reason.
    FailedInCloud {
        /// The code of RFC 6455.
        code: u16,
        /// What the cloud said, made legible.
        reason: String,
    },
    /// The connection to the cloud broke; with what the system said.
    ResetByCloud(String),
    /// The cloud sent something that is no WebSocket message.
    BrokenByCloud(Violation),
    /// The cloud was silent although it was asked.
    CloudSilent,
    /// No byte of the user's went either way for this long.
    Idle(Duration),
    /// The tunnel was open for as long as tunnels may be.
    MaxDuration(Duration),
    /// adit is shutting down.
    Stopped,
}

/// How the cloud broke the WebSocket protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Violation {
    /// A message above [`MESSAGE_LIMIT`].
    TooBig,
    /// A text message that is not UTF-8.
    NotText,
    /// Anything else, in the words of the library.
    Protocol(String),
}

impl EndReason {
    /// Whether one side, a limit or adit ended the tunnel on purpose, and nothing broke.
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            Self::ClosedByDevice
                | Self::ClosedByCloud
                | Self::Idle(_)
                | Self::MaxDuration(_)
                | Self::Stopped
        )
    }

    /// Leaves out what the cloud said in its own words, if `is_secret` says so.
    pub(crate) fn forget_words_if(&mut self, is_secret: impl Fn(&str) -> bool) {
        if let Self::FailedInCloud { reason, .. } = self
            && is_secret(reason)
        {
            reason.clear();
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

    pub(super) fn closed_by_cloud(frame: Option<&CloseFrame>) -> Self {
        match frame {
            Some(frame) if !matches!(frame.code, CloseCode::Normal | CloseCode::Away) => {
                Self::FailedInCloud {
                    code: frame.code.into(),
                    reason: legible(&frame.reason),
                }
            }
            _ => Self::ClosedByCloud,
        }
    }

    pub(super) fn violation(error: &tungstenite::Error) -> Self {
        Self::BrokenByCloud(match error {
            tungstenite::Error::Capacity(_) => Violation::TooBig,
            // The text of this error repeats bytes of the message.
            tungstenite::Error::Utf8(_) => Violation::NotText,
            tungstenite::Error::Protocol(fault) => Violation::Protocol(legible(&fault.to_string())),
            other => Violation::Protocol(legible(&other.to_string())),
        })
    }

    /// What to tell the cloud; `None` where it said goodbye itself or cannot hear.
    pub(super) fn close_frame(&self) -> Option<CloseFrame> {
        let code = match self {
            Self::ClosedByDevice | Self::Idle(_) | Self::MaxDuration(_) => CloseCode::Normal,
            Self::Stopped => CloseCode::Away,
            Self::ResetByDevice(_) | Self::CloudSilent => CloseCode::Error,
            Self::BrokenByCloud(Violation::TooBig) => CloseCode::Size,
            Self::BrokenByCloud(Violation::NotText) => CloseCode::Invalid,
            Self::BrokenByCloud(Violation::Protocol(_)) => CloseCode::Protocol,
            Self::ClosedByCloud | Self::FailedInCloud { .. } | Self::ResetByCloud(_) => {
                return None;
            }
        };
        Some(close_frame(code, &self.to_string()))
    }
}

/// Makes a Close frame of a code and as much of the reason as fits.
pub(crate) fn close_frame(code: CloseCode, reason: &str) -> CloseFrame {
    let end = reason.floor_char_boundary(CLOSE_REASON_LIMIT);
    CloseFrame {
        code,
        reason: Utf8Bytes::from(&reason[..end]),
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |time: &Duration| humantime::format_duration(*time).to_string();
        match self {
            Self::ClosedByDevice => f.write_str("closed by the device"),
            Self::ResetByDevice(error) => write!(f, "reset by the device: {error}"),
            Self::ClosedByCloud => f.write_str("closed by the cloud"),
            Self::FailedInCloud { code, reason } if reason.is_empty() => {
                write!(f, "closed by the cloud with code {code}")
            }
            Self::FailedInCloud { code, reason } => {
                write!(f, "closed by the cloud with code {code}: {reason}")
            }
            Self::ResetByCloud(error) => write!(f, "reset by the cloud: {error}"),
            Self::BrokenByCloud(Violation::TooBig) => write!(
                f,
                "the cloud sent a message of more than {} MiB",
                MESSAGE_LIMIT >> 20
            ),
            Self::BrokenByCloud(Violation::NotText) => {
                f.write_str("the cloud sent a text message that is not UTF-8")
            }
            Self::BrokenByCloud(Violation::Protocol(what)) => {
                write!(f, "the cloud broke the protocol: {what}")
            }
            Self::CloudSilent => {
                write!(f, "the cloud did not answer {} pings", super::MISSED_PINGS)
            }
            Self::Idle(time) => write!(f, "idle for {}", duration(time)),
            Self::MaxDuration(time) => {
                write!(f, "open for {}, the longest allowed", duration(time))
            }
            Self::Stopped => f.write_str("adit is stopping"),
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
                EndReason::device_error(&io::Error::from_raw_os_error(104)),
                "reset by the device: connection reset by peer",
                1011,
            ),
            (
                EndReason::CloudSilent,
                "the cloud did not answer 2 pings",
                1011,
            ),
            (
                EndReason::BrokenByCloud(Violation::TooBig),
                "the cloud sent a message of more than 16 MiB",
                1009,
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
        ] {
            assert_eq!(reason.to_string(), text);
            let frame = reason.close_frame().unwrap();
            assert_eq!(u16::from(frame.code), code, "{text}");
            assert_eq!(frame.reason.as_str(), text);
        }
    }

    #[test]
    fn repeats_what_the_cloud_said_only_made_legible() {
        let said = |code: u16, reason: &str| {
            EndReason::closed_by_cloud(Some(&CloseFrame {
                code: code.into(),
                reason: reason.into(),
            }))
            .to_string()
        };
        assert_eq!(said(1000, "bye"), "closed by the cloud");
        assert_eq!(said(1011, ""), "closed by the cloud with code 1011");
        assert_eq!(
            said(1011, "no \"operator\"\n\x1b[2J"),
            "closed by the cloud with code 1011: no 'operator' [2J"
        );
    }

    #[test]
    fn cuts_a_long_close_reason_between_characters() {
        let frame = close_frame(CloseCode::Error, &"ü".repeat(100));
        assert_eq!(frame.reason.len(), 122);
    }
}
