//! What a tunnel does when time has passed: pings, limits, and a look at an end that goes on.

use std::future::Future;
use std::mem;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::drain::RESET_DELAY;
use super::end::EndReason;
use super::{CloudIn, CloudOut, LanOut, Relay};
use crate::net::Socket;

/// Pings in a row without a sign of life that end a tunnel.
pub(super) const MISSED_PINGS: u32 = 2;

/// The pings and their answers.
pub(super) struct Heart {
    pub(super) next: Option<Instant>,
    pub(super) due: bool,
    /// Whether a ping has been due before.
    pub(super) asked: bool,
    /// [`Link::life`] at the last beat.
    pub(super) life: u64,
    /// Bytes that the cloud had taken while others waited for it, when that was last asked.
    pub(super) taken: Option<u64>,
    /// Whether the LAN side kept adit from reading the WebSocket at the last beat. Where it has begun
    /// to since, what it does not take has come since, and that was a sign of life.
    pub(super) paused: bool,
    pub(super) missed: u32,
}

pub(super) struct Idle {
    pub(super) limit: Duration,
    /// The tunnel is not idle before this instant.
    pub(super) until: Instant,
}

impl<L: Socket, S: Socket> Relay<'_, L, S> {
    pub(super) fn set_alarm(&mut self, when: Instant) {
        if when < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(when);
        }
        self.alarmed = true;
    }

    pub(super) fn poll_alarm(&mut self) -> Poll<()> {
        let mut bell = Context::from_waker(self.bell.waker());
        ready!(self.alarm.as_mut().poll(&mut bell));
        let now = Instant::now();
        if self.drain.is_none() {
            self.beat(now);
            self.look_at_idleness(now);
        }
        self.look_at_age(now);
        if self.drain.as_ref().is_some_and(|drain| drain.look <= now) {
            self.look_at_drain(now);
        }
        let reset = match self.lan_out {
            LanOut::Reset(when) => Some(when.max(now + RESET_DELAY / 2)),
            _ => None,
        };
        // Once it is over, the end has a ceiling instead.
        let too_old = self.too_old_at().filter(|&at| at > now);
        let next = match &self.drain {
            Some(drain) => [Some(drain.look), reset, too_old],
            None => [
                self.heart.next,
                self.idle.as_ref().map(|idle| idle.until),
                too_old,
            ],
        };
        // An alarm that rings for nothing once a day costs less than one that can be absent.
        const DAY: Duration = Duration::from_hours(24);
        let next = next.into_iter().flatten().min();
        self.alarm.as_mut().reset(next.unwrap_or(now + DAY));
        self.alarmed = true;
        Poll::Ready(())
    }

    /// Judges the last ping and sends the next.
    fn beat(&mut self, now: Instant) {
        if self.heart.next.is_none_or(|next| now < next) {
            return;
        }
        self.heart.next = now.checked_add(self.limits.keep_alive);
        let life = self.cloud.life();
        let mut alive = mem::replace(&mut self.heart.life, life) != life;
        let blocked = !self.lan_rest.is_empty();
        alive |= mem::replace(&mut self.heart.paused, blocked) || blocked;
        if !alive && self.heart.asked {
            // It may take what waits for it, only slowly. What does not have to wait is taken by
            // its system, and says nothing of itself.
            let (taken, owed) = self.cloud.account(now);
            let before = self.heart.taken.replace(taken).filter(|_| owed > 0);
            alive = before.is_some_and(|before| before < taken);
            if owed == 0 {
                self.heart.taken = None;
            }
        }
        if alive {
            self.heart.missed = 0;
        } else if self.heart.asked {
            self.heart.missed += 1;
        }
        if self.heart.missed < MISSED_PINGS {
            self.heart.asked = true;
            self.heart.due = true;
            return;
        }
        let (_, missing) = self.cloud.account(now);
        self.undelivered.0 = self.cloud.undelivered(missing).min(self.up);
        self.end(EndReason::CloudSilent(
            self.limits.keep_alive * MISSED_PINGS,
        ));
        // Nobody will answer, so nothing waits for an answer.
        self.cloud_in = CloudIn::Done;
        self.cloud_out = CloudOut::Close;
        self.reset_lan();
    }

    fn look_at_idleness(&mut self, now: Instant) {
        if let Some(idle) = &self.idle
            && idle.until <= now
        {
            let limit = idle.limit;
            self.stop(EndReason::Idle(limit));
        }
    }

    /// Ends a tunnel that is too old, also where its end has begun and goes on.
    fn look_at_age(&mut self, now: Instant) {
        if let Some(limit) = self.limits.max_duration
            && self.too_old_at().is_some_and(|at| at <= now)
        {
            self.stop(EndReason::MaxDuration(limit));
        }
    }

    fn too_old_at(&self) -> Option<Instant> {
        self.began.checked_add(self.limits.max_duration?)
    }

    pub(super) fn note_activity(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.until = Instant::now() + idle.limit;
        }
    }
}
