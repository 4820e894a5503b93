//! How a tunnel ends: each half-connection by itself, for as long as somebody takes something.

use std::io;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::end::EndReason;
use super::room::Room;
use super::up::poll_read;
use super::{CloudIn, CloudOut, LanIn, LanOut, Relay};
use crate::net::Socket;

/// How long the last bytes of a tunnel may take, however steadily they are taken.
pub(super) const DRAIN_CEILING: Duration = Duration::from_mins(10);

/// Drain limits without progress that end a tunnel while the kernel still holds bytes. A receiver
/// announces room only when a good part of its buffer, or a whole segment, is free; at some
/// kilobytes a second that takes longer than one limit.
pub(super) const HELD_PATIENCE: u32 = 2;

/// How long after the last write adit looks whether everything has arrived, before it resets.
pub(super) const RESET_DELAY: Duration = Duration::from_millis(20);

/// How the end goes on.
pub(super) struct Drain {
    pub(super) ceiling: Instant,
    /// When progress is looked for.
    pub(super) look: Instant,
    pub(super) last: Progress,
    /// Looks in a row without progress.
    pub(super) quiet: u32,
}

/// What has moved at the end of a tunnel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Progress {
    /// Bytes that the LAN side has taken, and that it is owed.
    pub(super) lan: (u64, u64),
    /// The same of the cloud, where bytes are those on the wire.
    pub(super) cloud: (u64, u64),
    /// Signs of life of both.
    pub(super) life: (u64, u64),
}

impl Progress {
    /// Whether somebody took something since, or somebody who is owed something said something.
    pub(super) fn is_beyond(self, last: Self) -> bool {
        self.lan.0 > last.lan.0
            || self.cloud.0 > last.cloud.0
            || (self.lan.1 > 0 && self.life.0 > last.life.0)
            || (self.cloud.1 > 0 && self.life.1 > last.life.1)
    }
}

impl<L: Socket, S: Socket> Relay<'_, L, S> {
    /// Notes why the tunnel ends; the first reason counts.
    pub(super) fn end(&mut self, reason: EndReason) {
        self.reason.get_or_insert(reason);
        self.begin_end();
    }

    /// From now on there must be progress.
    pub(super) fn begin_end(&mut self) {
        if self.drain.is_none() {
            self.traffic.is_ending.store(true, Ordering::Relaxed);
            let now = Instant::now();
            let look = now + self.limits.drain;
            self.drain = Some(Drain {
                ceiling: now + DRAIN_CEILING,
                look,
                last: Progress::default(),
                quiet: 0,
            });
            self.set_alarm(look);
        }
    }

    /// Ends the tunnel because adit wants it to end, which does not wait for those who are slow.
    pub(super) fn stop(&mut self, reason: EndReason) {
        match reason {
            EndReason::Denied(_) => self.cut_lan_off(reason),
            reason => self.say_goodbye(reason),
        }
        let ceiling = Instant::now() + self.limits.drain;
        if let Some(drain) = &mut self.drain {
            drain.ceiling = drain.ceiling.min(ceiling);
            drain.look = drain.look.min(ceiling);
            let look = drain.look;
            self.set_alarm(look);
        }
    }

    /// Ends the tunnel to a machine that may not be reached any more: nothing more is carried to it
    /// or from it, whatever ends already.
    fn cut_lan_off(&mut self, reason: EndReason) {
        if self.lan.is_some() {
            let progress = self.progress(Instant::now());
            self.undelivered.1 = progress.lan.1;
            self.down = progress.lan.0;
        }
        self.end(reason);
        self.reset_lan();
        if self.cloud_out == CloudOut::Open {
            self.cloud_out = CloudOut::Close;
        }
    }

    /// Ends the tunnel although both sides could go on: what is under way still arrives.
    fn say_goodbye(&mut self, reason: EndReason) {
        if self.drain.is_some() {
            return;
        }
        self.end(reason);
        if self.lan_in == LanIn::Open {
            // Half of the time, so that the other half is left for the cloud's answer.
            self.lan_in = LanIn::Last(Instant::now() + self.limits.drain / 2);
        }
    }

    /// The cloud has ended: the LAN side is told so, and nothing more of it is carried.
    pub(super) fn say_no_more(&mut self) {
        if self.lan_out == LanOut::Open {
            self.lan_out = LanOut::Finish;
        }
        if self.lan_in != LanIn::Done {
            self.lan_in = LanIn::Discard;
        }
    }

    /// Ends the stream to a cloud that reads no frames any more.
    pub(super) fn close_cloud(&mut self) {
        if self.cloud_out != CloudOut::Done {
            self.cloud_out = CloudOut::Closing;
        }
    }

    /// Reads what nobody wants any more, so that closing a socket does not become a reset.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        let mut moved = Poll::Pending;
        if self.lan_in == LanIn::Discard
            && let Some(lan) = &mut self.lan
        {
            let read = poll_read(lan, cx, &mut room.outgoing, &mut self.lan_hides);
            if let Poll::Ready(result) = read {
                if matches!(result, Ok(0) | Err(_)) {
                    self.lan_in = LanIn::Done;
                }
                self.lan_life += 1;
                moved = Poll::Ready(());
            }
        }
        if self.cloud_in == CloudIn::Discard
            && let Poll::Ready(more) = self.cloud.poll_discard(cx, room)
        {
            if !more {
                self.cloud_in = CloudIn::Done;
            }
            moved = Poll::Ready(());
        }
        moved
    }

    /// What the LAN side has sent before it stopped taking is still to be read.
    pub(super) fn lan_takes_no_more(&mut self, error: io::Error) {
        self.lan_failure = Some(error);
        self.lan_out = LanOut::Done;
        self.lan_rest.clear();
        self.begin_end();
    }

    pub(super) fn close_lan(&mut self) {
        self.lan = None;
        self.lan_in = LanIn::Done;
        self.lan_out = LanOut::Done;
        self.lan_rest.clear();
    }

    /// Tells the LAN side that what it has received may be incomplete.
    pub(super) fn reset_lan(&mut self) {
        if let Some(lan) = &self.lan
            && let Err(error) = lan.reset_when_closed()
        {
            debug!(parent: &self.span, %error, "the LAN side is closed instead of reset");
        }
        self.close_lan();
    }

    /// The same behind all that was received: a reset would throw away what has not arrived.
    pub(super) fn reset_lan_after_all(&mut self) {
        if self.down == 0 && self.lan_rest.is_empty() {
            self.reset_lan();
        }
        if self.lan_out != LanOut::Open {
            return self.reset_lan();
        }
        let when = Instant::now() + RESET_DELAY;
        self.lan_in = LanIn::Done;
        self.lan_out = LanOut::Reset(when);
        self.set_alarm(when);
    }

    fn progress(&self, now: Instant) -> Progress {
        let rest = self.lan_rest.len() as u64;
        let held = self.lan.as_ref().map_or(0, |lan| lan.held(now));
        // An end that was sent counts as a byte.
        let held = held.saturating_sub(u64::from(self.lan_out == LanOut::Done));
        Progress {
            lan: (self.down.saturating_sub(held), held + rest),
            cloud: self.cloud.account(now),
            life: (self.lan_life, self.cloud.life()),
        }
    }

    /// Looks whether the last bytes go anywhere.
    pub(super) fn look_at_drain(&mut self, now: Instant) {
        let progress = self.progress(now);
        let Some(drain) = &mut self.drain else {
            return;
        };
        if progress.is_beyond(drain.last) {
            drain.quiet = 0;
        } else {
            drain.quiet += 1;
        }
        drain.last = progress;
        let owed = progress.lan.1 > 0 || progress.cloud.1 > 0;
        let patience = if owed { HELD_PATIENCE } else { 1 };
        if drain.quiet < patience && now < drain.ceiling {
            drain.look = (now + self.limits.drain).min(drain.ceiling);
        } else {
            self.give_up(progress);
        }
    }

    /// The last bytes are not taken in time.
    fn give_up(&mut self, progress: Progress) {
        debug!(parent: &self.span, limit = ?self.limits.drain, "last bytes not accepted in time");
        let undelivered = self.cloud.undelivered(progress.cloud.1);
        self.undelivered.0 = undelivered.min(self.up);
        if self.lan.is_some() {
            self.undelivered.1 = progress.lan.1;
            self.down = progress.lan.0;
        }
        let is_cut = match self.lan_out {
            LanOut::Open => self.decoder.is_within(),
            LanOut::Reset(_) => true,
            // The cloud had said everything, or the LAN side takes nothing any more.
            LanOut::Finish | LanOut::Done => false,
        };
        if is_cut || progress.lan.1 > 0 {
            // An end without a reset would make half a message look like a whole one.
            self.reset_lan();
        } else {
            self.close_lan();
        }
        self.cloud_in = CloudIn::Done;
        self.cloud_out = CloudOut::Done;
    }
}
