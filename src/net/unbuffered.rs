//! TLS without buffers of its own: it reads and writes where its owner keeps the bytes, so that an
//! idle tunnel keeps none, and that no row with a connection key lies in one for as long as the
//! connection to the broker stands.
//!
//! [`Session`] is TLS without a socket. rustls keeps places in the bytes that it has seen and that
//! are not a whole record yet, so it wants to see them again whenever it is called, even to encrypt:
//! they are `pending` here. [`UnbufferedStream`] drives one through its handshake and
//! through the few bytes in which a WebSocket is agreed on; then the relay takes it apart.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError};
use rustls::{ClientConfig, CommonState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::tls;

/// Room for the plaintext of one record (RFC 8446, 5.1).
pub(crate) const RECORD: usize = 16 << 10;
/// What TLS adds to a record at most: a header, a nonce, the kind and a tag, and some to spare.
pub(crate) const RECORD_OVERHEAD: usize = 64;
/// Bytes of TLS's own that may have to go out beside what is sealed: a change of keys.
pub(crate) const OWN_ROOM: usize = 512;

/// What one read of the handshake may return.
const READ_SIZE: usize = 4 << 10;

/// A client's side of TLS, without a socket and without buffers.
pub(crate) struct Session {
    connection: UnbufferedClientConnection,
    /// The server has said that it sends no more.
    ended: bool,
    /// The server was told the same.
    closed: bool,
    /// The server broke TLS, and there is no more of it.
    broken: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Begins; the first [`Session::open`] says what to send.
    pub(super) fn new(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            connection: UnbufferedClientConnection::new(config, name)?,
            ended: false,
            closed: false,
            broken: false,
        })
    }

    /// Whether the server has said that it sends no more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Decrypts the whole records at the beginning of `sealed` in `room` and puts what they carry
    /// behind `plain`. What TLS itself has to say is appended to `out`.
    ///
    /// There is room for all of it where `plain` is empty and [`RECORD`] bytes lie between the two.
    ///
    /// # Errors
    /// What the server sent is not TLS as it was agreed on, or an alert. What came before lies in
    /// `plain`, and the alert that says so in `out`.
    pub(crate) fn open(
        &mut self,
        room: &mut [u8],
        plain: &mut Range<usize>,
        sealed: &mut Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), rustls::Error> {
        loop {
            let (front, back) = room.split_at_mut(sealed.start);
            let records = back.get_mut(..sealed.len()).unwrap_or_default();
            let status = self.connection.process_tls_records(records);
            let mut discard = status.discard;
            let waits = match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        let end = plain.end + record.payload.len();
                        let Some(place) = front.get_mut(plain.end..end) else {
                            return Err(rustls::Error::General("no room for a record".into()));
                        };
                        place.copy_from_slice(record.payload);
                        plain.end = end;
                    }
                    // Of a record with a user's bytes nothing is left to say.
                    discard >= sealed.len()
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(out, |room| data.encode(room).map_err(encoding))?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    false
                }
                Ok(_) => true,
                Err(error) => {
                    sealed.start += discard;
                    let rest = room.get_mut(sealed.clone()).unwrap_or_default();
                    self.last_words(rest, out);
                    self.broken = true;
                    return Err(error);
                }
            };
            sealed.start += discard;
            if waits {
                return Ok(());
            }
        }
    }

    /// Encrypts into `out` and returns the length; `out` has room for [`RECORD_OVERHEAD`] with each
    /// [`RECORD`], and for [`OWN_ROOM`].
    ///
    /// # Errors
    /// The session has ended, or its keys have served for as long as they may.
    pub(crate) fn seal(
        &mut self,
        plain: &[u8],
        pending: &mut [u8],
        out: &mut [u8],
    ) -> Result<usize, rustls::Error> {
        let mut length = 0;
        while !self.broken {
            let room = out.get_mut(length..).unwrap_or_default();
            match self.connection.process_tls_records(pending).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let written = traffic.encrypt(plain, room);
                    return written.map(|more| length + more).map_err(|e| general(&e));
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    length += data.encode(room).map_err(|error| general(&error))?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.ended = true,
                _ => break,
            }
        }
        Err(rustls::Error::General("the TLS session has ended".into()))
    }

    /// Appends the alert that says that nothing more will be sent.
    pub(crate) fn close(&mut self, pending: &mut [u8], out: &mut Vec<u8>) {
        self.closed = true;
        while !self.broken {
            match self.connection.process_tls_records(pending).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let closing = |room: &mut [u8]| {
                        traffic
                            .queue_close_notify(room)
                            .map_err(|error| match error {
                                EncryptError::InsufficientSize(size) => Ok(size),
                                EncryptError::EncryptExhausted => Err(general(&error)),
                            })
                    };
                    // Without it the server takes the end for a cut, and that is what it is then.
                    let _ = append(out, closing);
                    return;
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if append(out, |room| data.encode(room).map_err(encoding)).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                _ => return,
            }
        }
    }

    /// What was agreed on.
    pub(super) fn state(&self) -> &CommonState {
        &self.connection
    }

    /// The alert that goes with an error. It is asked for once: behind it comes the error again.
    fn last_words(&mut self, pending: &mut [u8], out: &mut Vec<u8>) {
        if let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.connection.process_tls_records(pending).state
        {
            // Without it the server learns less, and nobody learns that.
            let _ = append(out, |room| data.encode(room).map_err(encoding));
        }
    }
}

fn encoding(error: EncodeError) -> Result<InsufficientSizeError, rustls::Error> {
    match error {
        EncodeError::InsufficientSize(size) => Ok(size),
        EncodeError::AlreadyEncoded => Err(general(&error)),
    }
}

fn general(error: &impl fmt::Display) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

/// Appends what `write` writes, with as much room as it asks for.
fn append(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Result<InsufficientSizeError, rustls::Error>>,
) -> Result<(), rustls::Error> {
    let begin = out.len();
    let mut size = 0;
    loop {
        out.resize(begin + size, 0);
        match write(out.get_mut(begin..).unwrap_or_default()) {
            Ok(written) => {
                out.truncate(begin + written);
                return Ok(());
            }
            Err(Ok(InsufficientSizeError { required_size })) if required_size > size => {
                size = required_size;
            }
            Err(Ok(_)) => return Err(rustls::Error::General("no end of room".into())),
            Err(Err(error)) => {
                out.truncate(begin);
                return Err(error);
            }
        }
    }
}

/// Why there is no TLS.
#[derive(Debug)]
pub(crate) struct HandshakeError {
    pub(crate) cause: io::Error,
    /// The server has shown who it is, and has seen who adit is if it wanted to.
    pub(crate) has_met: bool,
}

/// A byte stream, with TLS or without, that can be taken apart.
#[derive(Debug)]
pub struct UnbufferedStream<S> {
    stream: S,
    session: Option<Box<Session>>,
    /// What was read and not decrypted.
    sealed: Vec<u8>,
    /// What was decrypted and not read.
    opened: Vec<u8>,
    /// What was encrypted and not written.
    unsent: Vec<u8>,
}

/// What an [`UnbufferedStream`] is made of.
#[derive(Debug)]
pub(crate) struct Parts<S> {
    pub(crate) stream: S,
    pub(crate) session: Option<Box<Session>>,
    /// What was read and not decrypted.
    pub(crate) sealed: Vec<u8>,
    /// What was decrypted and not read.
    pub(crate) opened: Vec<u8>,
    /// What is to be written before anything else.
    pub(crate) unsent: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> UnbufferedStream<S> {
    /// Wraps a stream without TLS.
    pub fn plain(stream: S) -> Self {
        Self {
            stream,
            session: None,
            sealed: Vec::new(),
            opened: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Agrees on TLS.
    ///
    /// # Errors
    /// The stream's, and rustls' as an `InvalidData`.
    pub(crate) async fn encrypt(
        stream: S,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let mut this = Self::plain(stream);
        let mut session = Session::new(config, name).map_err(|error| HandshakeError {
            cause: invalid(error),
            has_met: false,
        })?;
        match this.shake_hands(&mut session).await {
            Ok(()) => {
                this.session = Some(Box::new(session));
                Ok(this)
            }
            Err(cause) => Err(HandshakeError {
                cause,
                // rustls keeps them once it has judged them, and answers with what it was asked for.
                has_met: session.state().peer_certificates().is_some(),
            }),
        }
    }

    async fn shake_hands(&mut self, session: &mut Session) -> io::Result<()> {
        loop {
            let opened = self.decrypt(session);
            let unsent = std::mem::take(&mut self.unsent);
            if !unsent.is_empty() {
                let told = self.stream.write_all(&unsent).await;
                // What is wrong with the handshake says more than that nobody could be told.
                if opened.is_ok() {
                    told?;
                    self.stream.flush().await?;
                }
            }
            opened.map_err(invalid)?;
            if !session.connection.is_handshaking() {
                return Ok(());
            }
            self.sealed.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.sealed).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub(crate) fn into_parts(mut self) -> Parts<S> {
        // What the handshake needed would be kept as long as the tunnel.
        self.sealed.shrink_to_fit();
        self.unsent.shrink_to_fit();
        Parts {
            stream: self.stream,
            session: self.session,
            sealed: self.sealed,
            opened: self.opened,
            unsent: self.unsent,
        }
    }

    /// Returns what lies below TLS.
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    fn decrypt(&mut self, session: &mut Session) -> Result<(), rustls::Error> {
        let mut room = vec![0; RECORD + self.sealed.len()];
        room[RECORD..].copy_from_slice(&self.sealed);
        let (mut plain, mut sealed) = (0..0, RECORD..room.len());
        let result = session.open(&mut room, &mut plain, &mut sealed, &mut self.unsent);
        self.opened.extend_from_slice(&room[plain]);
        self.sealed.drain(..sealed.start - RECORD);
        result
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// As tokio-rustls does it.
fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for UnbufferedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(mut session) = this.session.take() else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        let result = loop {
            if !this.opened.is_empty() {
                let length = this.opened.len().min(buf.remaining());
                buf.put_slice(&this.opened[..length]);
                this.opened.drain(..length);
                if this.opened.is_empty() {
                    // It may be days until something else takes its place.
                    this.opened = Vec::new();
                }
                break Poll::Ready(Ok(()));
            }
            if session.has_ended() {
                break Poll::Ready(Ok(()));
            }
            let mut scratch = [0; READ_SIZE];
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => {
                    break Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(())) => this.sealed.extend_from_slice(read.filled()),
                other => break other,
            }
            if let Err(error) = this.decrypt(&mut session) {
                // In TLS 1.3 a server refuses a client certificate after the handshake.
                break Poll::Ready(Err(tls::in_words(invalid(error))));
            }
        };
        this.session = Some(session);
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for UnbufferedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        let Some(session) = &mut this.session else {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        };
        let part = buf.get(..RECORD).unwrap_or(buf);
        let mut sealed = vec![0; part.len() + RECORD_OVERHEAD + OWN_ROOM];
        let length = session
            .seal(part, &mut this.sealed, &mut sealed)
            .map_err(invalid)?;
        sealed.truncate(length);
        this.unsent = sealed;
        match this.poll_unsent(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(part.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(session) = &mut this.session
            && !session.closed
        {
            session.close(&mut this.sealed, &mut this.unsent);
        }
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
