//! From the cloud to the LAN: the frames of a read are found, and what they carry is written from
//! where it lies.

use std::io::IoSlice;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use websocket_frames::{CloseCode, Item};

use super::drain::RESET_DELAY;
use super::end::{Cut, EndReason, Violation};
use super::link::{Received, StreamEnd};
use super::room::Room;
use super::{CloudIn, CloudOut, LanOut, Relay};
use crate::net::Socket;

/// Payload below this size is moved behind the one before it rather than written from its place: an
/// entry of a vectored write has its own cost. An estimate; no other size was measured.
const MOVED_BELOW: usize = 512;

/// Pieces of one vectored write.
const PIECES: usize = 64;

impl<L: Socket, S: Socket> Relay<'_, L, S> {
    /// From the cloud to the LAN: what one read brings, what is left of it, or the end.
    pub(super) fn poll_down(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        if let Some(lan) = &mut self.lan {
            if !self.lan_rest.is_empty() {
                match ready!(Pin::new(lan).poll_write(cx, self.lan_rest.left())) {
                    Ok(count) => {
                        self.lan_rest.advance(count);
                        self.count_down(count);
                    }
                    Err(error) => self.lan_takes_no_more(error),
                }
                return Poll::Ready(());
            }
            match self.lan_out {
                LanOut::Finish => {
                    // An error means that the LAN side has gone, which ends it as well.
                    let _ = ready!(Pin::new(lan).poll_shutdown(cx));
                    self.lan_out = LanOut::Done;
                    return Poll::Ready(());
                }
                LanOut::Reset(when) => {
                    let now = Instant::now();
                    if now < when {
                        return Poll::Pending;
                    }
                    if lan.held(when - RESET_DELAY) == 0 {
                        self.reset_lan();
                        return Poll::Ready(());
                    }
                    // The alarm has rung for this, and has been set anew.
                    self.lan_out = LanOut::Reset(now + RESET_DELAY);
                    return Poll::Pending;
                }
                LanOut::Open | LanOut::Done => {}
            }
        }
        if self.cloud_in != CloudIn::Open {
            return Poll::Pending;
        }
        match ready!(self.cloud.poll_receive(cx, room)) {
            Received::Bytes(bytes) => self.take(cx, room, bytes),
            Received::End(end) => self.cloud_stream_ended(end),
            Received::Failed(error) => {
                self.end(EndReason::cloud_error(&error));
                self.cloud_in = CloudIn::Done;
                self.cloud_out = CloudOut::Done;
                self.reset_lan_after_all();
            }
            Received::Undecipherable(bytes, error) => {
                self.take(cx, room, bytes);
                if self.cloud_in == CloudIn::Open {
                    self.end(EndReason::tls_error(&error));
                    self.cloud_in = CloudIn::Discard;
                    // An alert is on its way, and there is no more TLS to carry a Close frame.
                    self.cloud_out = CloudOut::Closing;
                    self.reset_lan_after_all();
                }
            }
        }
        Poll::Ready(())
    }

    /// Finds the frames in what came, and writes to the LAN side what they carry.
    fn take(&mut self, cx: &mut Context<'_>, room: &mut Room, bytes: Range<usize>) {
        let mut at = bytes.start;
        let found = loop {
            let input = room.incoming.get(..bytes.end).unwrap_or_default();
            match self.decoder.next(input, &mut at) {
                Ok(Some(Item::Data(piece))) if self.lan_out == LanOut::Open => {
                    match room.pieces.last_mut() {
                        Some(last) if piece.len() < MOVED_BELOW => {
                            let length = piece.len();
                            room.incoming.copy_within(piece, last.end);
                            last.end += length;
                        }
                        _ => room.pieces.push(piece),
                    }
                }
                Ok(Some(Item::Ping)) => self.pong = Some(self.decoder.body().to_vec()),
                Ok(Some(Item::Data(_) | Item::Pong)) => {}
                Ok(Some(Item::Close(code))) => break Some(Ok(code)),
                Ok(None) => break None,
                Err(fault) => break Some(Err(fault)),
            }
        };
        self.write_pieces(cx, room);
        match found {
            None => {}
            Some(Ok(code)) => self.cloud_closed(code),
            Some(Err(fault)) => {
                self.end(EndReason::BrokenByCloud(Violation::Frame(fault)));
                self.cloud_in = CloudIn::Discard;
                if self.cloud_out == CloudOut::Open {
                    self.cloud_out = CloudOut::Close;
                }
                self.reset_lan_after_all();
            }
        }
    }

    /// Writes the pieces in the room; what the LAN side does not take is kept.
    fn write_pieces(&mut self, cx: &mut Context<'_>, room: &mut Room) {
        let Room {
            incoming, pieces, ..
        } = room;
        let mut first = 0;
        while let Some(lan) = &mut self.lan
            && let Some(rest) = pieces.get(first..)
            && !rest.is_empty()
        {
            let result = match rest {
                [one] => {
                    let bytes = incoming.get(one.clone()).unwrap_or_default();
                    Pin::new(lan).poll_write(cx, bytes)
                }
                several => {
                    let mut slices = [IoSlice::new(&[]); PIECES];
                    let count = several.len().min(PIECES);
                    for (slice, piece) in slices.iter_mut().zip(several.iter()) {
                        *slice = IoSlice::new(incoming.get(piece.clone()).unwrap_or_default());
                    }
                    Pin::new(lan).poll_write_vectored(cx, &slices[..count])
                }
            };
            match result {
                Poll::Ready(Ok(mut count)) => {
                    self.count_down(count);
                    for piece in pieces.iter_mut().skip(first) {
                        let taken = piece.len().min(count);
                        piece.start += taken;
                        count -= taken;
                        if piece.start < piece.end {
                            break;
                        }
                        first += 1;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.lan_takes_no_more(error);
                    break;
                }
                Poll::Pending => break,
            }
        }
        if self.lan_out == LanOut::Open {
            for piece in pieces.iter().skip(first) {
                let bytes = incoming.get(piece.clone()).unwrap_or_default();
                self.lan_rest.keep(bytes);
            }
        }
        pieces.clear();
    }

    fn cloud_closed(&mut self, code: Option<CloseCode>) {
        let body = self.decoder.body();
        let reason = EndReason::closed_by_cloud(code, body.get(2..).unwrap_or_default());
        let body = body.to_vec();
        self.end(reason);
        self.cloud_in = CloudIn::Discard;
        self.say_no_more();
        if matches!(self.cloud_out, CloudOut::Open | CloudOut::Close) {
            self.answer = Some(body);
            self.cloud_out = CloudOut::Close;
        }
    }

    /// The stream below the frames ended without a Close frame.
    fn cloud_stream_ended(&mut self, end: StreamEnd) {
        self.cloud_in = CloudIn::Done;
        let cut = match end {
            _ if self.decoder.is_within() => Some(Cut::WithinMessage),
            // A server that was told the end may leave it at that.
            StreamEnd::Cut if self.reason.is_none() => Some(Cut::WithinTls),
            _ => None,
        };
        if let Some(error) = self.cloud.failure() {
            let reason = EndReason::cloud_error(error);
            self.end(reason);
            self.cloud_out = CloudOut::Done;
            self.reset_lan_after_all();
        } else if let Some(cut) = cut {
            self.end(EndReason::CutByCloud(cut));
            self.close_cloud();
            self.reset_lan_after_all();
        } else {
            self.end(EndReason::LeftByCloud);
            self.say_no_more();
            self.close_cloud();
        }
    }

    fn count_down(&mut self, count: usize) {
        self.down += count as u64;
        self.traffic.down.store(self.down, Ordering::Relaxed);
        self.note_activity();
    }
}
