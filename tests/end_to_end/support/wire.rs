//! The wire between the gateway and its broker, which a test can make swallow what goes up.

use std::future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Carries TCP connections to a port of 127.0.0.1.
pub(crate) struct Wire {
    pub(crate) port: u16,
    state: Arc<watch::Sender<State>>,
    serving: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Carries,
    /// What goes up is left where it is.
    Holds,
    /// There is no connection, and no new one.
    IsCut,
}

impl Wire {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(watch::Sender::new(State::Carries));
        let states = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(near, port, states.subscribe()));
            }
        });
        Self {
            port: own,
            state,
            serving,
        }
    }

    /// Lets nothing more up on any connection of now, while all that comes down still arrives.
    pub(crate) fn hold(&self) {
        self.state.send_replace(State::Holds);
    }

    /// Ends every connection, and loses what is held.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::IsCut);
    }

    /// Carries new connections again.
    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Carries);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(mut near: TcpStream, port: u16, state: watch::Receiver<State>) {
    if *state.borrow() == State::IsCut {
        return;
    }
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let held = changed(state.clone(), |state| state != State::Carries);
    let up = async {
        tokio::select! {
            _ = copy(&mut from_near, &mut to_far) => {}
            () = held => future::pending().await,
        }
    };
    tokio::select! {
        () = up => {}
        _ = copy(&mut from_far, &mut to_near) => {}
        () = changed(state, |state| state == State::IsCut) => {}
    }
}

async fn changed(mut state: watch::Receiver<State>, is_meant: fn(State) -> bool) {
    let _ = state.wait_for(|state| is_meant(*state)).await;
}
