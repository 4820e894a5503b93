//! Packets out of bytes and into bytes, whatever their size.
//!
//! The MQTT library reads and writes the packets. It ends the connection at a packet that is too
//! large, which a broker that keeps the message then sends again at every connect. So the fixed
//! header is read here, and of a message that is too large only the topic and the packet id.
//!
//! A packet may carry a connection key, a token or a password. Of what was read, nothing stays in the
//! buffer, which lives as long as the connection: each packet gets memory of its own.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::io;

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{Codec, Packet, QoS, qos};
use smartrest::row::PACKET_LIMIT;
use tokio_util::codec::{Decoder, Encoder};
use zeroize::Zeroize;

/// Bytes behind the fixed header of the largest packet taken. The platform sends 16,184 at most, and
/// its MQTT Service 128 KiB; what is added is room for what each counts to it.
const INCOMING_LIMIT: usize = 128 * 1024 + 16;
/// Bytes of the remaining length at most.
const LENGTH_LIMIT: usize = 4;
/// The high half of the first byte of a PUBLISH.
const PUBLISH: u8 = 3;
/// How an alert in TLS begins: what a port that expects TLS says to a packet. As a packet it would
/// be a CONNECT, which no broker sends.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// How a web server answers. As a packet it would be one with flags that it cannot have.
const HTTP: &[u8] = b"HTTP";

/// What the peer speaks instead of MQTT.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum OtherProtocol {
    #[error("it answers in TLS")]
    Tls,
    #[error("it answers in HTTP")]
    Http,
}

/// What has come from the broker.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Incoming {
    Packet(Packet),
    /// More bytes of a packet that is not whole yet.
    Part,
    /// A message that was too large to be taken, to its last byte.
    Skipped(Skipped),
}

/// What is known of a message that was too large.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Skipped {
    pub(crate) topic: String,
    /// Wanted in the acknowledgement; none where the message wants none.
    pub(crate) packet_id: Option<u16>,
    /// Bytes of topic, packet id and payload.
    pub(crate) size: usize,
}

/// Takes the stream to pieces, in memory for one packet of the largest size.
#[derive(Debug)]
pub(crate) struct PacketCodec {
    packets: Codec,
    /// Bytes that are told as a part already.
    told: usize,
    /// A message that is too large, and how many bytes of it are still to come and go.
    skipping: Option<(Skipped, usize)>,
}

/// The first bytes of a packet.
struct FixedHeader {
    first: u8,
    /// Of the header itself.
    size: usize,
    remaining: usize,
}

impl Default for PacketCodec {
    fn default() -> Self {
        Self {
            packets: Codec {
                max_incoming_size: INCOMING_LIMIT,
                max_outgoing_size: PACKET_LIMIT,
            },
            told: 0,
            skipping: None,
        }
    }
}

impl FixedHeader {
    /// Reads it, unless more bytes are needed.
    fn read(bytes: &[u8]) -> Result<Option<Self>, PacketError> {
        let Some((&first, length)) = bytes.split_first() else {
            return Ok(None);
        };
        let mut remaining = 0;
        for (place, &byte) in length.iter().take(LENGTH_LIMIT).enumerate() {
            remaining |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(Some(Self {
                    first,
                    size: place + 2,
                    remaining,
                }));
            }
        }
        match length.len() < LENGTH_LIMIT {
            true => Ok(None),
            false => Err(PacketError::MalformedRemainingLength),
        }
    }

    fn is_publish(&self) -> bool {
        self.first >> 4 == PUBLISH
    }

    /// Reads what stands before the payload of a message, unless more bytes are needed; returns
    /// also how many bytes of `bytes` that took.
    fn skipped(&self, bytes: &[u8]) -> Result<Option<(Skipped, usize)>, PacketError> {
        let qos = qos((self.first & 0b110) >> 1)?;
        let Some((&[high, low], rest)) = bytes[self.size..].split_first_chunk() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((topic, rest)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        let packet_id = match (qos, rest.first_chunk()) {
            (QoS::AtMostOnce, _) => None,
            (_, Some(&id)) => Some(u16::from_be_bytes(id)),
            (_, None) => return Ok(None),
        };
        let head = self.size + 2 + length + if packet_id.is_some() { 2 } else { 0 };
        let skipped = Skipped {
            topic: String::from_utf8_lossy(topic).into_owned(),
            packet_id: packet_id.filter(|_| qos == QoS::AtLeastOnce),
            size: self.remaining,
        };
        Ok(Some((skipped, head)))
    }
}

impl Decoder for PacketCodec {
    type Item = Incoming;
    type Error = PacketError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, PacketError> {
        let is_more = bytes.len() > self.told;
        let whole = self.whole(bytes)?;
        self.told = match whole {
            Some(_) => 0,
            None => bytes.len(),
        };
        Ok(whole.or_else(|| is_more.then_some(Incoming::Part)))
    }
}

impl PacketCodec {
    fn whole(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, PacketError> {
        if self.skipping.is_some() {
            return Ok(self.skip(bytes));
        }
        for (start, protocol) in [
            (&TLS_ALERT[..], OtherProtocol::Tls),
            (HTTP, OtherProtocol::Http),
        ] {
            if bytes.starts_with(start) {
                return Err(PacketError::Io(io::Error::other(protocol)));
            }
        }
        let Some(header) = FixedHeader::read(bytes)? else {
            return Ok(None);
        };
        if header.remaining <= INCOMING_LIMIT || !header.is_publish() {
            let whole = header.size + header.remaining;
            let packet = match bytes.get_mut(..whole) {
                Some(packet) => {
                    let mut own = BytesMut::from(&*packet);
                    packet.zeroize();
                    bytes.advance(whole);
                    self.packets.decode(&mut own)?
                }
                // It says how much is missing, or that it will take no such packet.
                None => self.packets.decode(bytes)?,
            };
            return Ok(packet.map(Incoming::Packet));
        }
        // The limit is larger than any topic, so the head of the message lies within it.
        let Some((skipped, head)) = header.skipped(bytes)? else {
            return Ok(None);
        };
        bytes.advance(head);
        self.skipping = Some((skipped, header.size + header.remaining - head));
        Ok(self.skip(bytes))
    }

    /// Lets the bytes of a message that is too large go; returns it with the last of them.
    fn skip(&mut self, bytes: &mut BytesMut) -> Option<Incoming> {
        let (_, to_come) = self.skipping.as_mut()?;
        let gone = bytes.len().min(*to_come);
        bytes.advance(gone);
        *to_come -= gone;
        let (skipped, _) = self.skipping.take_if(|(_, to_come)| *to_come == 0)?;
        Some(Incoming::Skipped(skipped))
    }
}

impl Encoder<Packet> for PacketCodec {
    type Error = PacketError;

    fn encode(&mut self, packet: Packet, bytes: &mut BytesMut) -> Result<(), PacketError> {
        self.packets.encode(packet, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rumqttc::{PubAck, Publish};

    use super::*;

    fn message(topic: &str, qos: QoS, size: usize) -> Publish {
        let mut publish = Publish::new(topic, qos, vec![b'x'; size]);
        publish.pkid = if qos == QoS::AtMostOnce { 0 } else { 7 };
        publish
    }

    fn written(packets: &[Packet]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        for packet in packets {
            packet.write(&mut bytes, usize::MAX).unwrap();
        }
        bytes.to_vec()
    }

    /// Decodes bytes that come in pieces; returns also the most that was held at a time.
    fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<Incoming>, usize), PacketError> {
        let (mut codec, mut buffer) = (PacketCodec::default(), BytesMut::new());
        let (mut decoded, mut held) = (Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(incoming) = codec.decode(&mut buffer)? {
                if incoming != Incoming::Part {
                    decoded.push(incoming);
                }
            }
            held = held.max(buffer.len());
        }
        Ok((decoded, held))
    }

    #[test]
    fn takes_the_largest_packets_of_the_platform_and_skips_larger_ones_without_holding_them() {
        for (payload, is_taken) in [(16 * 1024, true), (128 * 1024, true), (4 << 20, false)] {
            for (qos, packet_id) in [(QoS::AtMostOnce, None), (QoS::AtLeastOnce, Some(7))] {
                let large = message("s/ds", qos, payload);
                let next = Packet::PubAck(PubAck::new(1));
                let bytes = written(&[Packet::Publish(large.clone()), next.clone()]);
                let (decoded, held) = decode(&bytes, 1000).unwrap();
                let first = match is_taken {
                    true => Incoming::Packet(Packet::Publish(large)),
                    false => Incoming::Skipped(Skipped {
                        topic: "s/ds".into(),
                        packet_id,
                        size: bytes.len() - next.size() - 5,
                    }),
                };
                assert!(
                    decoded == [first, Incoming::Packet(next)],
                    "{payload} {qos:?}"
                );
                assert!(is_taken || held < 1000, "{held}");
            }
        }
    }

    #[test]
    fn tells_once_of_more_bytes_of_a_packet_that_is_not_whole() {
        let whole = |size| Packet::Publish(message("s/ds", QoS::AtLeastOnce, size));
        for size in [1000, 1 << 20] {
            let next = Packet::PubAck(PubAck::new(1));
            let bytes = written(&[whole(size), next.clone()]);
            let (mut codec, mut buffer) = (PacketCodec::default(), BytesMut::new());
            let (pieces, end) = bytes.split_at(bytes.len() - next.size() - 1);
            for piece in pieces.chunks(size / 7) {
                buffer.extend_from_slice(piece);
                let told = [(); 3].map(|()| codec.decode(&mut buffer).unwrap());
                assert_eq!(told, [Some(Incoming::Part), None, None], "{size}");
            }
            // The last byte, and the half of the next packet.
            buffer.extend_from_slice(&end[..2]);
            let told = [(); 3].map(|()| codec.decode(&mut buffer).unwrap());
            assert!(!matches!(told[0], None | Some(Incoming::Part)), "{size}");
            assert_eq!(told[1..], [Some(Incoming::Part), None], "{size}");
            buffer.extend_from_slice(&end[2..]);
            let told = [(); 2].map(|()| codec.decode(&mut buffer).unwrap());
            assert_eq!(told, [Some(Incoming::Packet(next)), None]);
        }
    }

    #[test]
    fn refuses_what_is_no_packet() {
        for bytes in [
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            // A large packet that is no message.
            &[0x90, 0xff, 0xff, 0xff, 0x7f, 0, 1],
            // A large message at a level that does not exist.
            &[0x36, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a', 0, 1],
        ] {
            assert!(decode(bytes, 1).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn knows_a_peer_that_speaks_another_protocol() {
        let alert = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];
        for (bytes, words) in [
            (&alert[..], "IO: it answers in TLS"),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
                "IO: it answers in HTTP",
            ),
        ] {
            for piece in [1, 7] {
                let error = decode(bytes, piece).unwrap_err();
                assert_eq!(error.to_string(), words);
            }
        }
    }

    proptest! {
        #[test]
        fn decodes_the_same_whatever_pieces_come(
            sizes in proptest::collection::vec((0_usize..300_000, any::<bool>(), 0_usize..70_000), 1..6),
            piece in 1_usize..100_000,
        ) {
            let packets: Vec<_> = sizes.into_iter().map(|(size, is_counted, topic)| {
                let qos = if is_counted { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                Packet::Publish(message(&"t".repeat(topic % 65_536), qos, size))
            }).collect();
            // A piece of one byte takes long with the largest packets.
            let piece = piece.max(64);
            let (decoded, held) = decode(&written(&packets), piece).unwrap();
            prop_assert_eq!(decoded.len(), packets.len());
            prop_assert!(held <= INCOMING_LIMIT + LENGTH_LIMIT + 1 + piece);
            for (incoming, packet) in decoded.into_iter().zip(packets) {
                let Packet::Publish(publish) = &packet else { unreachable!() };
                match incoming {
                    Incoming::Packet(decoded) => prop_assert!(decoded == packet),
                    Incoming::Part => unreachable!(),
                    Incoming::Skipped(skipped) => {
                        prop_assert!(skipped.size > INCOMING_LIMIT);
                        prop_assert!(skipped.topic == publish.topic);
                        prop_assert_eq!(skipped.packet_id.unwrap_or(0), publish.pkid);
                    }
                }
            }
        }

        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000), piece in 1_usize..50) {
            let _ = decode(&bytes, piece);
        }
    }
}
