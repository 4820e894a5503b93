//! Room that all tunnels of a thread share.
//!
//! A tunnel uses it from the moment it is woken until it waits again, and leaves nothing in it. So
//! there is one room however many tunnels there are, and it goes with the last of them.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use websocket_frames::HEADER_ROOM;

use crate::net::masks::Masks;
use crate::net::unbuffered::{OWN_ROOM, RECORD, RECORD_OVERHEAD};

/// What one read of the cloud's stream may return: some TLS records, as many as the floor of
/// `benches/wire` reads at once.
pub(super) const CLOUD_READ: usize = 64 << 10;

/// What one read of the LAN side may return, and so the largest frame that is sent: with the eight
/// bytes of its header it fills whole TLS records.
pub(super) const LAN_READ: usize = 4 * RECORD - 8;

/// The longest record that a peer may send (RFC 5246, 6.2.3) fits, as far as it came.
const PART_OF_RECORD: usize = RECORD + (2 << 10) + 5;

thread_local! {
    static ROOM: RefCell<Option<Box<Room>>> = const { RefCell::new(None) };
}

/// Tunnels of all threads.
static TUNNELS: AtomicUsize = AtomicUsize::new(0);

/// Holds the room for as long as there is a tunnel.
#[derive(Debug)]
pub(super) struct Lease(&'static AtomicUsize);

impl Lease {
    pub(super) fn new() -> Self {
        Self::of(&TUNNELS)
    }

    fn of(tunnels: &'static AtomicUsize) -> Self {
        tunnels.fetch_add(1, Ordering::Relaxed);
        Self(tunnels)
    }

    /// Lends this thread's room.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Room) -> T) -> T {
        let mut room = ROOM.take().unwrap_or_default();
        let result = work(&mut room);
        ROOM.set(Some(room));
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            // A thread that ends has given its room back already.
            let _ = ROOM.try_with(|room| room.take());
        }
    }
}

pub(super) struct Room {
    /// What comes from the cloud: decrypted bytes at the beginning, encrypted ones from [`RECORD`]
    /// on.
    pub(super) incoming: Vec<u8>,
    /// The encrypted bytes that have not been looked at.
    pub(super) sealed: Range<usize>,
    /// Where in `incoming` the LAN side's bytes lie.
    pub(super) pieces: Vec<Range<usize>>,
    /// What comes from the LAN side, behind room for a header.
    pub(super) outgoing: Vec<u8>,
    /// The same, encrypted.
    pub(super) encrypted: Vec<u8>,
    masks: Masks,
}

impl Default for Room {
    fn default() -> Self {
        let records = LAN_READ.div_ceil(RECORD) + 1;
        Self {
            incoming: vec![0; RECORD + PART_OF_RECORD + CLOUD_READ],
            sealed: 0..0,
            pieces: Vec::new(),
            outgoing: vec![0; HEADER_ROOM + LAN_READ],
            encrypted: vec![0; HEADER_ROOM + LAN_READ + records * RECORD_OVERHEAD + OWN_ROOM],
            masks: Masks::default(),
        }
    }
}

impl Room {
    /// Returns a masking key that nobody can guess (RFC 6455, 5.3).
    pub(super) fn key(&mut self) -> io::Result<[u8; 4]> {
        self.masks.next()
    }

    /// Takes out what has not been looked at.
    pub(super) fn take_sealed(&mut self) -> Vec<u8> {
        let sealed = mem::replace(&mut self.sealed, 0..0);
        self.incoming.get(sealed).unwrap_or_default().to_vec()
    }
}

/// Bytes that a peer has not taken yet. They have memory only for as long as there are any.
#[derive(Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    taken: usize,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rest({})", self.len())
    }
}

impl Rest {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 0 }
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes, for somebody who appends to them.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn left(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.left().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left().is_empty()
    }

    /// Forgets the first `count`.
    pub(super) fn advance(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use websocket_frames::enclose;

    use super::*;

    #[test]
    fn gives_the_room_back_with_the_last_tunnel() {
        static OWN: AtomicUsize = AtomicUsize::new(0);
        let has_room = || ROOM.with_borrow(Option::is_some);
        let [one, last] = [Lease::of(&OWN), Lease::of(&OWN)];
        for lease in [&one, &last] {
            lease.with(|room| assert!(!room.incoming.is_empty()));
        }
        drop(one);
        assert!(has_room());
        drop(last);
        assert!(!has_room());
    }

    #[test]
    fn fills_whole_records_with_the_largest_frame() {
        let mut room = Room::default();
        let end = HEADER_ROOM + LAN_READ;
        let begin = enclose(&mut room.outgoing, HEADER_ROOM..end, [1; 4]);
        assert_eq!(end - begin, 4 * RECORD);
    }

    #[test]
    fn has_room_for_a_whole_read_behind_a_part_of_the_longest_record_and_no_more() {
        const LONGEST: usize = 5 + (1 << 14) + 2048;
        let room = Room::default();
        assert_eq!(room.incoming.len() - RECORD, LONGEST + CLOUD_READ);
    }

    #[test]
    fn keeps_what_was_not_taken_and_no_memory_for_nothing() {
        let mut rest = Rest::default();
        rest.keep(b"abc");
        rest.advance(2);
        rest.keep(b"d");
        assert_eq!((rest.left(), rest.len()), (&b"cd"[..], 2));
        assert!(!rest.is_empty());
        assert_eq!(format!("{rest:?}"), "Rest(2)");
        rest.advance(2);
        assert!(rest.is_empty());
        assert_eq!(rest.bytes().capacity(), 0);
        rest.keep(b"e");
        assert_eq!(rest.left(), b"e");
    }
}
