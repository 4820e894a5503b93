//! TCP: connections that the kernel keeps, or in a simulation those of a network in memory.
//!
//! Without the feature `simulation` there is nothing between adit and tokio.

mod held;
#[cfg(feature = "simulation")]
pub mod simulated;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A connection.
#[cfg(not(feature = "simulation"))]
pub(crate) use tokio::net::TcpStream as Tcp;

pub(crate) use held::prepare;
#[cfg(test)]
pub(crate) use held::was_asked;
#[cfg(feature = "simulation")]
pub(crate) use simulated::Tcp;

/// Silence after which the kernel asks whether the other side still exists. A machine that was
/// switched off would otherwise hold its tunnel for ever.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// A byte stream over TCP whose connection can be asked and told what no stream can.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Returns the bytes that were written and that the other side has not acknowledged, with one
    /// more for an end that was sent; 0 where the system does not tell.
    ///
    /// What was written after `since` may be missing.
    fn held(&self, since: Instant) -> u64;

    /// Reads what has arrived at the bottom, past tokio, which only knows what its last look at the
    /// sockets has shown.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has; what the system says.
    fn read_now(&self, room: &mut [u8]) -> io::Result<usize>;

    /// Whether it must be polled for what it has to read. `false` only where it was polled before
    /// and had nothing, and where nothing has come since: the waker that it got then still stands.
    fn may_have_more(&self) -> bool {
        true
    }

    /// Makes a reset of the close to come.
    ///
    /// # Errors
    /// What the system says.
    fn reset_when_closed(&self) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn held(&self, since: Instant) -> u64 {
        held::held(self, since)
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        (&*SockRef::from(self)).read(room)
    }

    fn may_have_more(&self) -> bool {
        // Asks what tokio knows of the socket, without a system call.
        self.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }
}

/// Connects. Dropping the future closes what is half open.
///
/// # Errors
/// What the system says.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<Tcp> {
    #[cfg(feature = "simulation")]
    if let Some(network) = simulated::installed() {
        return network.connect(address).await.map(Tcp::Simulated);
    }
    let stream = TcpStream::connect(address).await?;
    // Where nobody listens on a port of this machine that is also in the range for outgoing
    // connections, TCP can connect a socket to itself.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&probes)?;
    // Urgent bytes, as Telnet has them, would be taken out of the stream (RFC 6093, 5). They still
    // end a read that comes to them.
    socket.set_out_of_band_inline(true)?;
    #[cfg(feature = "simulation")]
    let stream = Tcp::Kernel(stream);
    Ok(stream)
}

/// Lets the kernel take few bytes beyond those that are on their way.
///
/// # Errors
/// What the system says.
pub(crate) fn limit_unsent(tcp: &Tcp, bytes: u32) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    let Tcp::Kernel(tcp) = tcp else {
        return Ok(());
    };
    SockRef::from(tcp).set_tcp_notsent_lowat(bytes)
}

/// The kernel's connection, of which a test wants to know how it is set.
#[cfg(test)]
pub(crate) fn of_kernel(tcp: &Tcp) -> &TcpStream {
    #[cfg(feature = "simulation")]
    let Tcp::Kernel(tcp) = tcp else {
        panic!("a simulated connection");
    };
    tcp
}
