//! The certificates in a PKCS#7 message that carries nothing else (RFC 7030, 4.1.3; RFC 2315).
//!
//! Authorities write it as DER or as BER with lengths that only an end tells, in base64 that is one
//! line or many. No crate that reads DER takes the second, so a reader of both is here. It believes
//! nothing: whose the certificates are, and whether they are any at all, is left to the caller.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;

/// Certificates of one message: a device's, its issuers', and room for those of an earlier renewal.
const CERTIFICATES_LIMIT: usize = 16;
/// Values within values. Those of a message are six deep.
const DEPTH_LIMIT: usize = 16;

const OBJECT_IDENTIFIER: u8 = 0x06;
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`: explicit around the content, implicit before the certificates.
const CONTEXT_0: u8 = 0xa0;
const CONSTRUCTED: u8 = 0x20;
/// In the place of a length: the end is told by [`END`].
const INDEFINITE: u8 = 0x80;
const END: &[u8] = &[0, 0];

/// 1.2.840.113549.1.7.2 (RFC 2315, 14).
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// Why there are no certificates in an answer, as a clause behind "but".
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Pkcs7Error {
    /// Neither base64 nor the form that it stands for.
    #[error("what it sends is not in base64")]
    NotBase64,
    /// Something else in base64.
    #[error("what it sends is not a PKCS#7 message of certificates")]
    NotPkcs7,
    /// A message without certificates.
    #[error("the PKCS#7 message that it sends holds no certificate")]
    Empty,
    /// More certificates than make sense.
    #[error("the PKCS#7 message that it sends holds more than {CERTIFICATES_LIMIT} certificates")]
    TooMany,
}

/// Reads the certificates of an answer's body, in their order there.
///
/// # Errors
/// It is no such message.
pub(crate) fn certificates(body: &[u8]) -> Result<Vec<CertificateDer<'static>>, Pkcs7Error> {
    let message = match body {
        // No base64 has a byte above ASCII, and no message is shorter than 128 bytes.
        [SEQUENCE, INDEFINITE..=u8::MAX, ..] => body.to_vec(),
        _ => decode(body)?,
    };
    let mut set = certificate_set(&message).ok_or(Pkcs7Error::NotPkcs7)?;
    let mut certificates = Vec::new();
    while !set.0.is_empty() {
        let element = set.next(0).ok_or(Pkcs7Error::NotPkcs7)?;
        // The other choices (RFC 5652, 10.2.2) are obsolete, or attributes of somebody.
        if element.tag == SEQUENCE {
            if certificates.len() == CERTIFICATES_LIMIT {
                return Err(Pkcs7Error::TooMany);
            }
            certificates.push(CertificateDer::from(element.whole.to_vec()));
        }
    }
    match certificates.is_empty() {
        true => Err(Pkcs7Error::Empty),
        false => Ok(certificates),
    }
}

/// Takes the lines of PEM away, which some authorities add, and all white space.
fn decode(body: &[u8]) -> Result<Vec<u8>, Pkcs7Error> {
    let text = str::from_utf8(body).map_err(|_| Pkcs7Error::NotBase64)?;
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let bare: String = lines.flat_map(str::split_whitespace).collect();
    match BASE64.decode(bare) {
        Ok(message) if !message.is_empty() => Ok(message),
        _ => Err(Pkcs7Error::NotBase64),
    }
}

/// Finds the certificates of `ContentInfo { signedData, [0] SignedData { … [0] certificates … } }`.
fn certificate_set(message: &[u8]) -> Option<Reader<'_>> {
    let mut info = Reader(message).expect(SEQUENCE)?;
    if info.expect(OBJECT_IDENTIFIER)?.0 != SIGNED_DATA {
        return None;
    }
    let mut data = info.expect(CONTEXT_0)?.expect(SEQUENCE)?;
    data.expect(INTEGER)?;
    data.expect(SET)?;
    data.expect(SEQUENCE)?;
    if data.0.first() != Some(&CONTEXT_0) {
        // They are optional.
        return Some(Reader(&[]));
    }
    data.expect(CONTEXT_0)
}

/// What is left of a row of values in BER.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

/// One value.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With its tag, its length and its end.
    whole: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Takes the next value; `depth` is how deep it is in others whose end is looked for.
    fn next(&mut self, depth: usize) -> Option<Element<'a>> {
        const LONG_TAG: u8 = 0x1f;
        const LENGTH_BYTES: usize = 4;
        let all = self.0;
        let (&tag, rest) = all.split_first()?;
        let (&first, rest) = rest.split_first()?;
        if tag & LONG_TAG == LONG_TAG {
            return None;
        }
        let (content, after) = match first {
            INDEFINITE => {
                if tag & CONSTRUCTED == 0 || depth == DEPTH_LIMIT {
                    return None;
                }
                let mut values = Reader(rest);
                while !values.0.starts_with(END) {
                    values.next(depth + 1)?;
                }
                let content = rest.get(..rest.len() - values.0.len())?;
                (content, values.0.get(END.len()..)?)
            }
            short if short < INDEFINITE => rest.split_at_checked(usize::from(short))?,
            long => {
                let count = usize::from(long - INDEFINITE);
                let (digits, rest) = rest.split_at_checked(count)?;
                if count > LENGTH_BYTES {
                    return None;
                }
                let length = digits.iter().try_fold(0_usize, |sum, &digit| {
                    sum.checked_mul(1 << 8)?.checked_add(usize::from(digit))
                })?;
                rest.split_at_checked(length)?
            }
        };
        self.0 = after;
        let whole = all.get(..all.len() - after.len())?;
        Some(Element {
            tag,
            content,
            whole,
        })
    }

    fn expect(&mut self, tag: u8) -> Option<Reader<'a>> {
        let element = self.next(0)?;
        (element.tag == tag).then_some(Reader(element.content))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A value with a length that is told.
    fn definite(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84], length.as_slice(), content].concat()
    }

    /// One whose end is told.
    fn indefinite(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, INDEFINITE], content, END].concat()
    }

    fn message(around: fn(u8, &[u8]) -> Vec<u8>, certificates: &[&[u8]]) -> Vec<u8> {
        let data = [1, 2, 0x86, 0x48, 0x86];
        let set = around(CONTEXT_0, &certificates.concat());
        let fields = [
            definite(INTEGER, &[1]),
            around(SET, &[]),
            around(SEQUENCE, &definite(OBJECT_IDENTIFIER, &data)),
            set,
            around(SET, &[]),
        ];
        let signed = around(CONTEXT_0, &around(SEQUENCE, &fields.concat()));
        let fields = [definite(OBJECT_IDENTIFIER, SIGNED_DATA), signed];
        around(SEQUENCE, &fields.concat())
    }

    /// Something that looks like a certificate from outside; zeros in it are no end.
    fn certificate(number: u8) -> Vec<u8> {
        definite(SEQUENCE, &[number, 0, 0, 0, 0])
    }

    fn lines(text: &str, end: &str) -> String {
        let chunks = text.as_bytes().chunks(64);
        let lines = chunks.map(|chunk| str::from_utf8(chunk).unwrap().to_owned() + end);
        lines.collect()
    }

    #[test]
    fn reads_every_form_that_authorities_write() {
        let wanted = [certificate(1), certificate(2)];
        for around in [definite, indefinite] {
            let message = message(around, &[&wanted[0], &wanted[1]]);
            let text = BASE64.encode(&message);
            let pem = lines(&text, "\n");
            let pem = format!("-----BEGIN PKCS7-----\n{pem}-----END PKCS7-----\n");
            for body in [
                text.clone(),
                lines(&text, "\r\n"),
                format!("\n {text}\n"),
                pem,
            ] {
                let found = certificates(body.as_bytes()).unwrap();
                assert_eq!(found, wanted.each_ref().map(|der| der.as_slice().into()));
            }
            let found = certificates(&message).unwrap();
            assert_eq!(found.len(), wanted.len());
        }
    }

    #[test]
    fn leaves_out_what_is_no_certificate() {
        let other = definite(0xa1, &[1, 2, 3]);
        let body = message(indefinite, &[&other, &certificate(7)]);
        let found = certificates(&body).unwrap();
        assert_eq!(found, [certificate(7).as_slice().into()]);
    }

    #[test]
    fn says_what_is_no_message_of_certificates() {
        let many = [certificate(1).as_slice(); CERTIFICATES_LIMIT + 1].concat();
        let deep = [SEQUENCE, INDEFINITE].repeat(10_000);
        let other = definite(SEQUENCE, &definite(OBJECT_IDENTIFIER, &[42]));
        let mut cut = message(indefinite, &[&certificate(1)]);
        cut.truncate(cut.len() - 20);
        for (body, error) in [
            (b"".to_vec(), Pkcs7Error::NotBase64),
            (b" \n".to_vec(), Pkcs7Error::NotBase64),
            (b"<html>".to_vec(), Pkcs7Error::NotBase64),
            (vec![0xff; 200], Pkcs7Error::NotBase64),
            (b"aGVsbG8=".to_vec(), Pkcs7Error::NotPkcs7),
            (BASE64.encode(&other).into_bytes(), Pkcs7Error::NotPkcs7),
            (cut, Pkcs7Error::NotPkcs7),
            (deep, Pkcs7Error::NotPkcs7),
            (message(definite, &[]), Pkcs7Error::Empty),
            (message(indefinite, &[]), Pkcs7Error::Empty),
            (message(definite, &[&many]), Pkcs7Error::TooMany),
        ] {
            assert_eq!(certificates(&body), Err(error), "{body:.20?}");
        }
    }

    proptest! {
        #[test]
        fn survives_whatever_comes(
            position in 0..200_usize,
            byte in any::<u8>(),
            length in 0..300_usize,
            is_definite: bool,
            rubbish: Vec<u8>,
        ) {
            let around = if is_definite { definite } else { indefinite };
            let mut body = message(around, &[&certificate(1), &certificate(2)]);
            if let Some(place) = body.get_mut(position) {
                *place = byte;
            }
            body.truncate(length);
            for body in [body, rubbish] {
                let _ = certificates(&body);
                let _ = certificates(BASE64.encode(&body).as_bytes());
            }
        }
    }
}
