//! A network in memory in the place of the kernel's, for as long as one is installed in a thread.
//!
//! Whoever installs one has the names of servers and machines, and every connection that adit makes;
//! nothing of adit then touches the network that the machine has. What happens in it is left to
//! whoever installs it.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Socket;

/// What comes of a question to the network.
pub type Answer<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Connects and resolves as a kernel and its name servers do.
pub trait Network: Send + Sync {
    /// Connects to an address.
    fn connect(&self, address: SocketAddr) -> Answer<Box<dyn Connection>>;

    /// Asks for the addresses of a name.
    fn resolve(&self, name: &str) -> Answer<Vec<IpAddr>>;
}

/// One end of a connection in memory.
pub trait Connection: Socket + fmt::Debug + Send + Sync {
    /// The address of this end.
    fn local_addr(&self) -> SocketAddr;

    /// The address of the other end.
    fn peer_addr(&self) -> SocketAddr;
}

thread_local! {
    static INSTALLED: RefCell<Option<Arc<dyn Network>>> = const { RefCell::new(None) };
}

/// Keeps a network installed in this thread. Dropping it gives the kernel's back.
#[must_use]
#[derive(Debug)]
pub struct Installed(());

/// Installs a network in this thread.
pub fn install(network: Arc<dyn Network>) -> Installed {
    INSTALLED.set(Some(network));
    Installed(())
}

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.set(None);
    }
}

pub(crate) fn installed() -> Option<Arc<dyn Network>> {
    INSTALLED.with_borrow(Clone::clone)
}

/// A connection of the kernel's, or one in memory.
#[derive(Debug)]
pub enum Tcp {
    /// The kernel keeps it.
    Kernel(TcpStream),
    /// Whoever installed the network does.
    Simulated(Box<dyn Connection>),
}

impl Tcp {
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(tcp) => tcp.peer_addr(),
            Self::Simulated(tcp) => Ok(tcp.peer_addr()),
        }
    }
}

impl Socket for Tcp {
    fn held(&self, since: Instant) -> u64 {
        match self {
            Self::Kernel(tcp) => tcp.held(since),
            Self::Simulated(tcp) => tcp.held(since),
        }
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(tcp) => tcp.read_now(room),
            Self::Simulated(tcp) => tcp.read_now(room),
        }
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        match self {
            Self::Kernel(tcp) => tcp.reset_when_closed(),
            Self::Simulated(tcp) => tcp.reset_when_closed(),
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Simulated(tcp) => Pin::new(tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Simulated(tcp) => Pin::new(tcp).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Simulated(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Kernel(tcp) => tcp.is_write_vectored(),
            Self::Simulated(tcp) => tcp.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Simulated(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Simulated(tcp) => Pin::new(tcp).poll_shutdown(cx),
        }
    }
}
