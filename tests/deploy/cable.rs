//! The line between the bridge and the cloud, in the hands of a test.

use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A way to a port of 127.0.0.1 that can be cut. Dropping it cuts it for good.
pub(crate) struct Cable {
    pub(crate) port: u16,
    is_cut: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Cable {
    pub(crate) async fn lay(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_cut = watch::Sender::new(false);
        let stop = CancellationToken::new();
        let serving = serve(listener, to, is_cut.subscribe());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self {
            port,
            is_cut,
            _stop: stop.drop_guard(),
        }
    }

    /// Resets what is connected, and whoever comes, until it is joined.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(crate) fn join(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn serve(listener: TcpListener, to: u16, is_cut: watch::Receiver<bool>) {
    // Dropped with this one.
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        connections.spawn(carry(near, to, is_cut.clone()));
    }
}

async fn carry(mut near: TcpStream, to: u16, mut is_cut: watch::Receiver<bool>) {
    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.unwrap();
    let was_cut = tokio::select! {
        _ = is_cut.wait_for(|&is_cut| is_cut) => true,
        _ = copy_bidirectional(&mut near, &mut far) => false,
    };
    if was_cut {
        for stream in [&near, &far] {
            stream.set_zero_linger().unwrap();
        }
    }
}
