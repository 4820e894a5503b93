//! From the LAN to the cloud: one read becomes one frame.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::time::Instant;
use websocket_frames::{Control, HEADER_ROOM, append_control, enclose};

use super::end::EndReason;
use super::link::has_nothing;
use super::room::{LAN_READ, Room};
use super::{CloudIn, CloudOut, LanIn, Relay};
use crate::net::Socket;

/// Reads the LAN side, and looks past tokio where that may be wrong in having nothing.
///
/// tokio takes a read that does not fill its room for the last of what has arrived. But the kernel
/// ends a read before an urgent byte as well, also where that stays in its place, and wakes nobody
/// for what lies behind. `hides` says whether the last read was such a one. The look costs a system
/// call for each waking; to ask first whether there is a mark would cost the same.
pub(super) fn poll_read<L: Socket>(
    lan: &mut L,
    cx: &mut Context<'_>,
    place: &mut [u8],
    hides: &mut bool,
) -> Poll<io::Result<usize>> {
    let size = place.len();
    let mut read = ReadBuf::new(place);
    let result = Pin::new(&mut *lan).poll_read(cx, &mut read);
    let length = read.filled().len();
    if result.is_ready() {
        *hides = length < size;
    }
    // Only now is the waker there for whatever comes after the look.
    if !*hides || !has_nothing(&result) {
        return result.map_ok(|()| length);
    }
    loop {
        match lan.read_now(place) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *hides = false;
                return Poll::Pending;
            }
            read => return Poll::Ready(read),
        }
    }
}

impl<L: Socket, S: Socket> Relay<'_, L, S> {
    /// From the LAN to the cloud: one frame, a ping, or the end.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        match self.cloud_out {
            CloudOut::Open => {
                ready!(self.cloud.poll_flush(cx));
                if self.cloud.failure().is_some() {
                    // It may have sent something before it broke. How that ends tells the reason.
                    self.cloud_out = CloudOut::Done;
                    self.begin_end();
                    return Poll::Ready(());
                }
                if let Some(body) = self.pong.take() {
                    self.send_control(cx, room, Control::Pong, &body);
                    return Poll::Ready(());
                }
                if mem::take(&mut self.heart.due) {
                    self.send_control(cx, room, Control::Ping, &[]);
                    return Poll::Ready(());
                }
                self.poll_carry_up(cx, room)
            }
            CloudOut::Close => {
                ready!(self.cloud.poll_flush(cx));
                let body = self.answer.take();
                let body = body.or_else(|| Some(self.reason.as_ref()?.close_body()));
                self.cloud_out = CloudOut::Closing;
                self.send_control(cx, room, Control::Close, &body.unwrap_or_default());
                Poll::Ready(())
            }
            CloudOut::Closing => {
                ready!(self.cloud.poll_flush(cx));
                if self.cloud_in == CloudIn::Open {
                    // Ending the stream now could make the cloud drop what it has yet to send.
                    return Poll::Pending;
                }
                ready!(self.cloud.poll_shutdown(cx, room));
                self.cloud_out = CloudOut::Done;
                Poll::Ready(())
            }
            CloudOut::Done => Poll::Pending,
        }
    }

    /// One read of the LAN side becomes one frame. Nothing waits to be sent at this point.
    fn poll_carry_up(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        let Some(lan) = &mut self.lan else {
            return Poll::Pending;
        };
        let place = HEADER_ROOM..HEADER_ROOM + LAN_READ;
        let place = room.outgoing.get_mut(place).unwrap_or_default();
        let read = match self.lan_in {
            LanIn::Open if self.lan_waits => return Poll::Pending,
            LanIn::Open => {
                let result = poll_read(lan, cx, place, &mut self.lan_hides);
                self.lan_waits = has_nothing(&result);
                ready!(result)
            }
            LanIn::Last(until) => match lan.read_now(place) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Poll::Ready(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.lan_in = LanIn::Discard;
                    self.cloud_out = CloudOut::Close;
                    return Poll::Ready(());
                }
                read @ Ok(_) if until <= Instant::now() => {
                    self.lan_in = LanIn::Discard;
                    self.cloud_out = CloudOut::Close;
                    read
                }
                read => read,
            },
            LanIn::Discard | LanIn::Done => return Poll::Pending,
        };
        match read {
            Ok(0) => {
                self.lan_in = LanIn::Done;
                let reason = match &self.lan_failure {
                    Some(error) => EndReason::device_error(error),
                    None => EndReason::ClosedByDevice,
                };
                self.end(reason);
                self.cloud_out = CloudOut::Close;
            }
            Ok(length) => {
                self.count_up(length);
                match room.key() {
                    Ok(key) => {
                        let end = HEADER_ROOM + length;
                        let begin = enclose(&mut room.outgoing, HEADER_ROOM..end, key);
                        self.cloud.send(cx, room, begin..end);
                        self.cloud.note_owed(length);
                    }
                    Err(error) => self.cloud.fail(error),
                }
            }
            Err(error) => {
                self.end(EndReason::device_error(&error));
                self.close_lan();
                self.cloud_out = CloudOut::Close;
            }
        }
        Poll::Ready(())
    }

    fn send_control(&mut self, cx: &mut Context<'_>, room: &mut Room, kind: Control, body: &[u8]) {
        let mut bytes = Vec::new();
        match room.key() {
            Ok(key) => append_control(&mut bytes, kind, body, key),
            Err(error) => self.cloud.fail(error),
        }
        if let Some(place) = room.outgoing.get_mut(..bytes.len()) {
            place.copy_from_slice(&bytes);
        }
        self.cloud.send(cx, room, 0..bytes.len());
    }

    fn count_up(&mut self, count: usize) {
        self.up += count as u64;
        // Nobody else writes it.
        self.traffic.up.store(self.up, Ordering::Relaxed);
        self.note_activity();
    }
}
