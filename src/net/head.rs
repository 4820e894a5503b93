//! The head of an HTTP answer, from a server that opens a WebSocket or from a proxy, and the body
//! of a refusal.
//!
//! What answers may be anything: another protocol, a page of a firewall, bytes without end. One
//! reader with one set of limits takes it all. What an answer means is left to whoever asked.

use std::io;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Bytes of an answer's head; the platform's have a tenth of it.
pub(crate) const HEAD_LIMIT: usize = 16 << 10;
const HEADER_LIMIT: usize = 64;
/// Interim answers (RFC 9110, 15.2) before the one that counts.
const INTERIM_LIMIT: usize = 8;
/// Bytes of a refusal's body. A longer one is a page for a browser, and says little.
pub(crate) const BODY_LIMIT: usize = 4 << 10;
/// How long a refusal's body may come after its head.
const BODY_WAIT: Duration = Duration::from_millis(500);

const SWITCHING_PROTOCOLS: u16 = 101;
/// "No content" and "not modified": their end is that of the head, whatever that says.
const WITHOUT_BODY: [u16; 2] = [204, 304];
const HTTP: &[u8] = b"HTTP/1.";
/// Types of the frames that a server which speaks HTTP/2 begins or ends with (RFC 9113, 4.1 and 6).
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// Bytes of the header of a frame.
const FRAME_HEADER: usize = 9;

/// What is wrong with the head of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadFault {
    /// Not HTTP at all.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// A frame of HTTP/2.
    #[error("the answer is HTTP/2, and nobody there speaks HTTP/1.1")]
    Http2,
    /// The stream ended before the head was complete.
    #[error("the connection was closed without an answer")]
    Closed,
    /// The head is longer than any that makes sense.
    #[error("the answer's head has no end")]
    Endless,
    /// Nothing but interim answers came.
    #[error("the answer is announced (HTTP 1xx) again and again, and does not come")]
    Interim,
}

/// Why there is no body, as a clause behind "but".
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BodyFault {
    /// It is longer than any that makes sense; the limit in bytes.
    #[error("its body is longer than {0} bytes")]
    TooLong(usize),
    /// The stream ended or broke within it.
    #[error("its body is cut")]
    Cut,
    /// Its length makes no sense.
    #[error("nobody can tell where its body ends")]
    Malformed,
}

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum HeadError {
    Fault(HeadFault),
    Broken(io::Error),
}

/// How much is read at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// As much as there is; the rest is handed over.
    Any,
    /// A byte, so that what follows the head stays in the stream, where somebody else reads it.
    Byte,
}

/// The head of an answer.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// The words beside the status, as the peer wrote them.
    pub(crate) phrase: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads the head of an answer; behind it is returned what was read of what follows.
    pub(crate) async fn receive(
        stream: &mut (impl AsyncRead + Unpin),
        step: Step,
    ) -> Result<(Self, Vec<u8>), HeadError> {
        let mut received = Vec::new();
        for _ in 0..=INTERIM_LIMIT {
            let (head, length) = Self::receive_one(stream, &mut received, step).await?;
            received.drain(..length);
            if head.is_final() {
                return Ok((head, received));
            }
        }
        Err(HeadError::Fault(HeadFault::Interim))
    }

    /// Reads on until the buffer begins with a head; returns its length, too.
    async fn receive_one(
        stream: &mut (impl AsyncRead + Unpin),
        received: &mut Vec<u8>,
        step: Step,
    ) -> Result<(Self, usize), HeadError> {
        let mut looked_at = 0;
        loop {
            let new = received.get(looked_at..).unwrap_or_default();
            // Nothing is decided within a line, so that a head in single bytes costs no more.
            if new.contains(&b'\n') || looked_at < FRAME_HEADER {
                looked_at = received.len();
                if let Some(parsed) = Self::parse(received).map_err(HeadError::Fault)? {
                    return Ok(parsed);
                }
            }
            if received.len() >= HEAD_LIMIT {
                return Err(HeadError::Fault(HeadFault::Endless));
            }
            let read = match step {
                Step::Any => stream.read_buf(received).await,
                Step::Byte => stream.read_buf(&mut received.limit(1)).await,
            };
            match read {
                Ok(0) => return Err(HeadError::Fault(HeadFault::Closed)),
                Ok(_) => {}
                // TLS that ended without saying so.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(HeadError::Fault(HeadFault::Closed));
                }
                Err(error) => return Err(HeadError::Broken(error)),
            }
        }
    }

    /// Reads a head and its length, `None` if it is not complete yet.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadFault> {
        match bytes {
            [0, _, _, SETTINGS | GOAWAY, 0, 0, 0, 0, 0, ..] => return Err(HeadFault::Http2),
            [0, ..] if bytes.len() < FRAME_HEADER => return Ok(None),
            _ => {}
        }
        if !HTTP.starts_with(bytes.get(..HTTP.len()).unwrap_or(bytes)) {
            return Err(HeadFault::NotHttp);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::Endless),
            Err(_) => return Err(HeadFault::NotHttp),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        let head = Self {
            status: answer.code.ok_or(HeadFault::NotHttp)?,
            phrase: answer.reason.unwrap_or_default().to_owned(),
            headers: answer
                .headers
                .iter()
                .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
                .collect(),
        };
        Ok(Some((head, length)))
    }

    fn is_final(&self) -> bool {
        self.status == SWITCHING_PROTOCOLS || !(100..200).contains(&self.status)
    }

    /// Returns the values of a header, whose name is in lower case.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |header| header.0 == name);
        named.map(|header| header.1.as_str())
    }

    /// Returns the values of a header that is a list of words.
    pub(crate) fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(|v| v.split(',')).map(str::trim)
    }

    /// Reads the body of a refusal, `None` if it is not text, or does not come whole and soon.
    ///
    /// `received` is what came with the head, and keeps what has come when this returns.
    pub(crate) async fn read_body(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        received: &mut Vec<u8>,
    ) -> Option<String> {
        let framing = self.framing()?;
        let read = async {
            loop {
                match framing.body(received) {
                    Body::Whole(body) => return Some(body),
                    Body::Malformed => return None,
                    Body::Partial if received.len() > BODY_LIMIT => return None,
                    Body::Partial => {}
                }
                if stream.read_buf(received).await.ok()? == 0 {
                    return (framing == Framing::ToTheEnd).then(|| received.clone());
                }
            }
        };
        let body = timeout(BODY_WAIT, read).await.ok()??;
        (body.len() <= BODY_LIMIT)
            .then(|| String::from_utf8(body).ok())
            .flatten()
    }

    /// Reads the body of an answer whose content counts, of at most `limit` bytes, its framing included.
    ///
    /// `received` is what came with the head. The caller limits the time.
    pub(crate) async fn read_whole(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        mut received: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<u8>, BodyFault> {
        let framing = self.framing().ok_or(BodyFault::Malformed)?;
        if matches!(framing, Framing::Length(length) if length > limit) {
            return Err(BodyFault::TooLong(limit));
        }
        loop {
            // Each chunk ends with a line, so that chunks in single bytes cost no more.
            if framing != Framing::Chunks || received.ends_with(b"\n") {
                match framing.body(&received) {
                    Body::Whole(body) => return Ok(body),
                    Body::Malformed => return Err(BodyFault::Malformed),
                    Body::Partial => {}
                }
            }
            if received.len() > limit {
                return Err(BodyFault::TooLong(limit));
            }
            let read = stream.read_buf(&mut received).await;
            match read.map_err(|_| BodyFault::Cut)? {
                0 if framing == Framing::ToTheEnd => return Ok(received),
                // The last line may have come without its end.
                0 => match framing.body(&received) {
                    Body::Whole(body) => return Ok(body),
                    Body::Malformed => return Err(BodyFault::Malformed),
                    Body::Partial => return Err(BodyFault::Cut),
                },
                _ => {}
            }
        }
    }

    /// Says how the body's end is told (RFC 9112, 6.3), `None` if that is nonsense.
    fn framing(&self) -> Option<Framing> {
        if WITHOUT_BODY.contains(&self.status) {
            return Some(Framing::Length(0));
        }
        if self
            .words("transfer-encoding")
            .any(|word| word.eq_ignore_ascii_case("chunked"))
        {
            return Some(Framing::Chunks);
        }
        match self.all("content-length").next() {
            Some(length) => Some(Framing::Length(length.parse().ok()?)),
            None => Some(Framing::ToTheEnd),
        }
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    Length(usize),
    Chunks,
    ToTheEnd,
}

/// What has come of a body.
#[derive(Debug, Eq, PartialEq)]
enum Body {
    Whole(Vec<u8>),
    Partial,
    Malformed,
}

impl Framing {
    fn body(self, received: &[u8]) -> Body {
        match self {
            Self::ToTheEnd => Body::Partial,
            Self::Length(length) => match received.get(..length) {
                Some(body) => Body::Whole(body.to_vec()),
                None => Body::Partial,
            },
            Self::Chunks => join_chunks(received),
        }
    }
}

/// Joins the chunks of a body (RFC 9112, 7.1); what follows the last one is of no interest.
fn join_chunks(mut rest: &[u8]) -> Body {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return Body::Partial;
        };
        let (line, after) = rest.split_at(end + 1);
        let line = String::from_utf8_lossy(line);
        // An extension may stand behind the length.
        let digits = line.split(';').next().unwrap_or_default().trim();
        let Ok(length) = usize::from_str_radix(digits, 16) else {
            return Body::Malformed;
        };
        if length == 0 {
            return Body::Whole(body);
        }
        let Some((chunk, after)) = after.split_at_checked(length) else {
            return Body::Partial;
        };
        body.extend_from_slice(chunk);
        rest = match after {
            [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Body::Partial,
            _ => return Body::Malformed,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncWriteExt, ReadBuf};

    use super::*;

    /// Receives an answer that ends where its bytes do.
    async fn receive(bytes: &[u8], step: Step) -> Result<(Head, Vec<u8>), HeadFault> {
        match Head::receive(&mut &*bytes, step).await {
            Ok(received) => Ok(received),
            Err(HeadError::Fault(fault)) => Err(fault),
            Err(HeadError::Broken(error)) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn reads_a_head_and_leaves_what_follows() {
        let answer = b"HTTP/1.1 404 Not \"Here\"\r\nVia: a\r\nX: b, c\r\nvia:  d \r\n\r\nrest";
        for (step, rest) in [(Step::Any, b"rest".as_slice()), (Step::Byte, b"")] {
            let (head, after) = receive(answer, step).await.unwrap();
            assert_eq!((head.status, head.phrase.as_str()), (404, "Not \"Here\""));
            assert_eq!(head.all("via").collect::<Vec<_>>(), ["a", "d"]);
            assert_eq!(head.words("x").collect::<Vec<_>>(), ["b", "c"]);
            assert_eq!(after, rest);
        }
        let mut stream = answer.as_slice();
        Head::receive(&mut stream, Step::Byte).await.unwrap();
        assert_eq!(stream, b"rest");
    }

    #[tokio::test]
    async fn skips_interim_answers_and_not_for_ever() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
        let last = "HTTP/1.1 101 Switching Protocols\r\n\r\nrest";
        for (interim, status) in [
            (String::new(), Ok(101)),
            ("HTTP/1.1 100 Continue\r\n\r\n".to_owned(), Ok(101)),
            (hints.repeat(INTERIM_LIMIT), Ok(101)),
            (hints.repeat(INTERIM_LIMIT + 1), Err(HeadFault::Interim)),
        ] {
            for step in [Step::Any, Step::Byte] {
                let answer = format!("{interim}{last}");
                let received = receive(answer.as_bytes(), step).await;
                assert_eq!(received.map(|(head, _)| head.status), status, "{interim}");
            }
        }
    }

    #[tokio::test]
    async fn says_what_is_no_answer() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_LIMIT));
        let many = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100));
        for (answer, fault) in [
            (b"".as_slice(), HeadFault::Closed),
            (b"HTTP/1.1 200", HeadFault::Closed),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n", HeadFault::Closed),
            (b"SSH-2.0-OpenSSH\r\n", HeadFault::NotHttp),
            (b"\x16\x03\x01", HeadFault::NotHttp),
            (b"H2", HeadFault::NotHttp),
            (b"HTTP/1.1 abc\r\n", HeadFault::NotHttp),
            (b"HTTP/1.1 200 OK\r\n\x01\r\n", HeadFault::NotHttp),
            (b"HTTP/2 200 OK\r\n\r\n", HeadFault::NotHttp),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d", HeadFault::Http2),
            (
                b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01",
                HeadFault::Http2,
            ),
            // Eight bytes could become a frame; nine tell that this is none.
            (b"\0\0\x12\x05\0\0\0\0", HeadFault::Closed),
            (b"\0\0\x12\x05\0\0\0\0\0", HeadFault::NotHttp),
            (endless.as_bytes(), HeadFault::Endless),
            (many.as_bytes(), HeadFault::Endless),
        ] {
            for step in [Step::Any, Step::Byte] {
                let shown = String::from_utf8_lossy(answer);
                assert_eq!(receive(answer, step).await, Err(fault), "{shown:.40}");
            }
        }
    }

    /// A stream from which nothing can be read.
    struct Failing(io::ErrorKind);

    impl AsyncRead for Failing {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    #[tokio::test]
    async fn tells_a_stream_that_was_closed_from_one_that_broke() {
        let mut closed = Failing(io::ErrorKind::UnexpectedEof);
        let error = Head::receive(&mut closed, Step::Any).await.unwrap_err();
        assert!(matches!(error, HeadError::Fault(HeadFault::Closed)));
        let mut broken = Failing(io::ErrorKind::ConnectionReset);
        match Head::receive(&mut broken, Step::Any).await.unwrap_err() {
            HeadError::Broken(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            HeadError::Fault(fault) => panic!("{fault}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reads_no_more_of_a_body_than_it_takes() {
        for headers in ["", "Content-Length: 999999\r\n"] {
            let answer = format!("HTTP/1.1 404 X\r\n{headers}\r\n");
            let (head, _) = Head::parse(answer.as_bytes()).unwrap().unwrap();
            let page = "x".repeat(100 * BODY_LIMIT);
            let mut received = Vec::new();
            let body = head.read_body(&mut page.as_bytes(), &mut received).await;
            assert_eq!(body, None);
            let length = received.len();
            assert!((BODY_LIMIT..4 * BODY_LIMIT).contains(&length), "{length}");
        }
    }

    async fn body(headers: &str, parts: &[&str], closes: bool) -> Option<String> {
        let (head, _) = Head::parse(format!("HTTP/1.1 404 X\r\n{headers}\r\n").as_bytes())
            .unwrap()
            .unwrap();
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let (first, rest) = parts.split_first().unwrap();
        for part in rest {
            far.write_all(part.as_bytes()).await.unwrap();
        }
        let far = (!closes).then_some(far);
        let mut received = first.as_bytes().to_vec();
        let body = head.read_body(&mut near, &mut received).await;
        drop(far);
        body
    }

    #[tokio::test(start_paused = true)]
    async fn reads_a_body_however_its_end_is_told() {
        let chunked = "Transfer-Encoding: gzip, Chunked\r\n";
        let long = "x".repeat(BODY_LIMIT + 1);
        let long_chunk = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
        for (headers, parts, closes, text) in [
            ("Content-Length: 4\r\n", ["go", "ne"], false, Some("gone")),
            ("Content-Length: 4\r\n", ["go", "n"], true, None),
            ("Content-Length: 4\r\n", ["go", "n"], false, None),
            ("Content-Length: x\r\n", ["go", "ne"], true, None),
            ("Content-Length: 0\r\n", ["", ""], false, Some("")),
            ("", ["go", "ne"], true, Some("gone")),
            ("", ["go", "ne"], false, None),
            ("", [&long, ""], true, None),
            ("", [&long[1..], ""], true, Some(&long[1..])),
            (chunked, ["4\r\ngone", "\r\n0\r\n"], false, Some("gone")),
            (chunked, ["4\r\ngone\r", "\n0\r\n"], false, Some("gone")),
            (chunked, ["4\r\ngone\r\n0\r\n", "\r\n"], false, Some("gone")),
            (
                chunked,
                ["2\r\ngo\r\n1;a=b\r", "\nn\r\n01\r\ne\r\n000\r\n"],
                false,
                Some("gone"),
            ),
            (chunked, ["2\r\ngo\r\n", "2\r\nne"], true, None),
            (chunked, ["2\r\ngone\r\n", "0\r\n\r\n"], true, None),
            (chunked, ["gone", "\r\n"], true, None),
            (chunked, ["ffffffffffffffff\r\ngo", ""], true, None),
            (chunked, [&long_chunk, ""], true, None),
        ] {
            let text = text.map(str::to_owned);
            assert_eq!(
                body(headers, &parts, closes).await,
                text,
                "{headers}{parts:.9?}"
            );
        }
    }

    /// Reads a body of at most 8 bytes, of which a part has come with the head.
    async fn whole(
        headers: &str,
        received: &str,
        mut stream: impl AsyncRead + Unpin,
    ) -> Result<Vec<u8>, BodyFault> {
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
        let (head, _) = Head::parse(answer.as_bytes()).unwrap().unwrap();
        head.read_whole(&mut stream, received.into(), 8).await
    }

    #[tokio::test]
    async fn reads_a_whole_body_to_its_end_and_to_its_limit() {
        let (eight, nine) = ("Content-Length: 8\r\n", "Content-Length: 9\r\n");
        let chunked = "Transfer-Encoding: chunked\r\n";
        let (cut, malformed) = (Err(BodyFault::Cut), Err(BodyFault::Malformed));
        for (headers, received, rest, body) in [
            (eight, "1234", "5678 and more", Ok("12345678")),
            (eight, "1234", "567", cut),
            (nine, "12345678", "9", Err(BodyFault::TooLong(8))),
            ("Content-Length: x\r\n", "", "1", malformed),
            ("", "1234", "5678", Ok("12345678")),
            ("", "12345678", "9", Err(BodyFault::TooLong(8))),
            (chunked, "2\r\n", "ok\r\n0\r\n", Ok("ok")),
            (chunked, "0\r", "\nX: y", Ok("")),
            (chunked, "2\r\n", "o", cut),
            (chunked, "2\r\n", "ok!", malformed),
            (chunked, "2\r\n", "ok!\n", malformed),
            (chunked, "9\r\n", "123456", Err(BodyFault::TooLong(8))),
        ] {
            let read = whole(headers, received, rest.as_bytes()).await;
            let body = body.map(|body| body.as_bytes().to_vec());
            assert_eq!(read, body, "{headers}{received}{rest}");
        }
        // What is whole is not waited for, and what breaks is no end.
        for (headers, received, body) in [
            (eight, "12345678", Ok("12345678")),
            (chunked, "1\r\nx\r\n0\r\n", Ok("x")),
            (eight, "1234567", cut),
            ("", "1234", cut),
        ] {
            let broken = Failing(io::ErrorKind::ConnectionReset);
            let body = body.map(|body: &str| body.as_bytes().to_vec());
            assert_eq!(
                whole(headers, received, broken).await,
                body,
                "{headers}{received}"
            );
        }
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes: Vec<u8>, text in "HTTP/1.1 [0-9]{3} \\PC{0,20}(\r\n\\PC{0,20}){0,4}") {
            let _ = Head::parse(&bytes);
            let _ = Head::parse(text.as_bytes());
            join_chunks(&bytes);
            join_chunks(text.as_bytes());
        }

        #[test]
        fn joins_what_was_cut_into_chunks(parts in prop::collection::vec("[a-z]{1,20}", 0..5)) {
            let chunks: String = parts
                .iter()
                .map(|part| format!("{:x}\r\n{part}\r\n", part.len()))
                .collect();
            let whole = Body::Whole(parts.concat().into_bytes());
            prop_assert_eq!(join_chunks(format!("{chunks}0\r\n\r\n").as_bytes()), whole);
            prop_assert_eq!(join_chunks(chunks.as_bytes()), Body::Partial);
        }
    }
}
