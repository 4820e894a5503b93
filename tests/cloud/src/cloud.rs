//! The simulated cloud as a whole: what a test holds in its hands.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use smartrest::Row;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Configuration, ConfigurationId};
use crate::endpoint::Endpoint;
use crate::forward::Forward;
use crate::handshake::Handshake;
use crate::misbehaviour::Misbehaviour;
use crate::mqtt::{Client, Link};
use crate::options::{Login, Options};
use crate::platform::{
    Complaint, DOWN, Delivery, Device, Event, Notifications, Operation, OperationId, Platform,
    Record, Status, TokenAnswer,
};
use crate::rendezvous::Rendezvous;
use crate::rest::OperatorSession;
use crate::tunnel::Tunnel;

/// How long the broker may take until the platform is subscribed.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Publishes that wait for the broker.
const MAX_DELIVERIES: usize = 4096;

/// A running platform. Dropping it ends its tasks at once; [`Cloud::shutdown`] waits for them.
pub struct Cloud {
    endpoint: Arc<Endpoint>,
    address: SocketAddr,
    operator_address: SocketAddr,
    link: watch::Receiver<Link>,
    tasks: Mutex<JoinSet<()>>,
}

impl Cloud {
    /// Starts a platform and waits until it is subscribed at the broker.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut platform = Platform::new(&options.gateway, options.loses_early_operations);
        platform.offer_collections(options.offers_collections);
        platform.notify(options.notifications);
        let (deliveries, to_deliver) = mpsc::channel(MAX_DELIVERIES);
        let board = Arc::new(Board::new(platform, deliveries));
        let (link, link_seen) = watch::channel(Link::Down("not connected yet".to_owned()));
        let client = Client::new(&options, Arc::clone(&board), to_deliver, link);
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen at {}", options.listen))?;
        // Operators in this process need no TLS, and are spared what devices are put through.
        let operators = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let token_service = match options.token_service.clone() {
            Some(service) => {
                let listener = TcpListener::bind(service.listen)
                    .await
                    .with_context(|| format!("cannot listen at {}", service.listen))?;
                Some((service, listener))
            }
            None => None,
        };
        let address = listener.local_addr()?;
        let operator_address = operators.local_addr()?;
        let endpoint = Arc::new(Endpoint {
            rendezvous: Rendezvous::new(options.key_lifetime),
            session: OperatorSession::new(),
            options,
            board,
            misbehaviour: watch::Sender::new(None),
            stop: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        let stop = endpoint.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = client.run() => {}
                () = stop.cancelled() => {}
            }
        });
        if let Some((service, listener)) = token_service {
            let (board, stop) = (Arc::clone(&endpoint.board), endpoint.stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = service.serve(listener, board) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        tasks.spawn(Arc::clone(&endpoint).serve(listener, true));
        tasks.spawn(Arc::clone(&endpoint).serve(operators, false));
        let cloud = Self {
            endpoint,
            address,
            operator_address,
            link: link_seen,
            tasks: Mutex::new(tasks),
        };
        cloud.wait_for_broker(START_LIMIT).await?;
        Ok(cloud)
    }

    /// Ends all sockets with a Close (1001) and waits for every task.
    pub async fn shutdown(self) {
        self.endpoint.stop.cancel();
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        while tasks.join_next().await.is_some() {}
    }

    /// Waits until the platform is subscribed at the broker.
    pub async fn wait_for_broker(&self, limit: Duration) -> anyhow::Result<()> {
        let mut link = self.link.clone();
        let up = timeout(limit, link.wait_for(|link| *link == Link::Up)).await;
        match up {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => return Err(anyhow!("the platform has stopped")),
            Err(_) => {}
        }
        match &*self.link.borrow() {
            Link::Down(reason) => Err(anyhow!("no broker within {limit:?}: {reason}")),
            Link::Up => Ok(()),
        }
    }

    /// Waits until the connection to the broker is lost.
    pub async fn wait_for_broker_loss(&self, limit: Duration) -> anyhow::Result<()> {
        let mut link = self.link.clone();
        let down = link.wait_for(|link| *link != Link::Up);
        timeout(limit, down)
            .await
            .with_context(|| format!("the broker is still there after {limit:?}"))?
            .context("the platform has stopped")?;
        Ok(())
    }

    /// Returns where devices connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL for the configuration of a device, `http` or `https`.
    pub fn url(&self) -> String {
        let scheme = match self.endpoint.options.tls {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }

    /// Returns the options it was started with.
    pub fn options(&self) -> &Options {
        &self.endpoint.options
    }

    /// Creates a device as if by hand; all but the gateway become its children.
    pub fn create_device(&self, id: &str, name: &str, kind: &str) {
        self.board()
            .change(|state| state.platform.create_device(id, name, kind));
    }

    /// Says whether new operations are published at once, or only when the device asks with `500`.
    pub fn set_live_delivery(&self, live: bool) {
        self.board()
            .change(|state| state.platform.set_live_delivery(live));
    }

    /// Says what requests for a token are answered from now on; at first a token for an hour.
    pub fn answer_token_requests(&self, answer: TokenAnswer) {
        self.board()
            .change(|state| state.platform.answer_token_requests(answer));
    }

    /// Gives out a token, as to a device that shows its certificate in a handshake.
    pub fn issue_token(&self) -> Option<String> {
        self.board().change(|state| state.platform.issue_token())
    }

    /// Says what requests for a token over mutual TLS are answered from now on, or the HTTP status that
    /// refuses them; at first a token for an hour.
    pub fn answer_certified_requests(&self, answer: Result<TokenAnswer, u16>) {
        self.board()
            .change(|state| state.platform.answer_certified_requests(answer));
    }

    /// Takes back all tokens, as the platform may at any time.
    pub fn revoke_tokens(&self) {
        self.board().change(|state| state.platform.revoke_tokens());
    }

    /// Accepts the registration of the device, which gets these credentials when it next asks.
    pub fn accept_registration(&self, credentials: Login) {
        self.board()
            .change(|state| state.platform.accept_registration(credentials));
    }

    /// Creates an operation that is delivered as `row`, whatever that says.
    pub fn create_operation(
        &self,
        device: &str,
        fragment: &str,
        row: Row,
    ) -> anyhow::Result<OperationId> {
        self.board()
            .publish(|platform| {
                platform
                    .create_operation(device, fragment, row)
                    .map_or((None, Vec::new()), |(id, out)| (Some(id), out))
            })
            .with_context(|| format!("there is no device {device}"))
    }

    /// Creates the operation that opens a tunnel, with a fresh key, as an operator would.
    pub fn open_tunnel(&self, device: &str, host: &str, port: u16) -> anyhow::Result<Tunnel> {
        let (operation, socket) = self
            .endpoint
            .open(device, host, port)
            .with_context(|| format!("there is no device {device}"))?;
        Ok(Tunnel {
            operation,
            socket,
            board: Arc::clone(self.board()),
        })
    }

    /// Publishes the row of an operation once more.
    pub fn redeliver(&self, id: OperationId) {
        self.board()
            .publish(|platform| ((), platform.redeliver(id)));
    }

    /// Says whether devices are notified of operations from now on, and when.
    pub fn notify(&self, notifications: Notifications) {
        self.board()
            .change(|state| state.platform.notify(notifications));
    }

    /// Notifies of operations, all in one message.
    pub fn send_notifications(&self, ids: &[OperationId]) {
        self.board()
            .publish(|platform| ((), platform.notifications_of(ids)));
    }

    /// Makes the platform too old for templates.
    pub fn forget_templates(&self, templates: &[&str]) {
        self.board()
            .change(|state| state.platform.forget_templates(templates));
    }

    /// Publishes anything on `s/ds`.
    pub fn publish(&self, payload: impl Into<Vec<u8>>) {
        self.publish_on(DOWN, payload);
    }

    /// Publishes anything on a topic, given without prefix.
    pub fn publish_on(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let topic = topic.to_owned();
        let payload = payload.into();
        self.board()
            .publish(|_| ((), vec![Delivery { topic, payload }]));
    }

    /// Forgets a template collection, as if somebody had deleted it.
    pub fn delete_collection(&self, id: &str) {
        self.board()
            .change(|state| state.platform.delete_collection(id));
    }

    /// Adds a machine that an operator can reach through a device.
    pub fn add_configuration(&self, device: &str, host: &str, port: u16) -> ConfigurationId {
        self.board().add_configuration(Configuration {
            device: device.to_owned(),
            host: host.to_owned(),
            port,
        })
    }

    /// Returns the operator's WebSocket URL for a configuration, at an address that never
    /// misbehaves and speaks no TLS; the same path is served at [`Cloud::address`].
    pub fn operator_url(&self, device: &str, id: ConfigurationId) -> String {
        format!(
            "ws://{}{}",
            self.operator_address,
            operator_path(device, id)
        )
    }

    /// Makes a tunnel of every connection that `listener` accepts, until the platform stops.
    ///
    /// When the local side ends, all it sent goes up before the Close; when the tunnel is closed,
    /// all that came is written before the local connection is closed. A tunnel that breaks or is
    /// closed with 1011 resets the local connection.
    pub fn forward(
        &self,
        listener: TcpListener,
        device: &str,
        host: &str,
        port: u16,
    ) -> ConfigurationId {
        let id = self.add_configuration(device, host, port);
        let forward = Forward {
            endpoint: self.operator_address,
            path: operator_path(device, id),
            login: self.endpoint.options.operator_login.clone(),
            stop: self.endpoint.stop.clone(),
        };
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(forward.serve(listener));
        id
    }

    /// Misbehaves from now on, or behaves again with `None`.
    pub fn misbehave(&self, misbehaviour: impl Into<Option<Misbehaviour>>) {
        self.endpoint.misbehaviour.send_replace(misbehaviour.into());
    }

    /// Returns a copy of a device.
    pub fn device(&self, id: &str) -> Option<Device> {
        self.board()
            .look(|state| state.platform.device(id).cloned())
    }

    /// Returns a copy of an operation.
    pub fn operation(&self, id: OperationId) -> Option<Operation> {
        self.board()
            .look(|state| state.platform.operation(id).cloned())
    }

    /// Returns copies of all operations, the oldest first.
    pub fn operations(&self) -> Vec<Operation> {
        self.board()
            .look(|state| state.platform.operations().to_vec())
    }

    /// Returns the events of a device in the order of their arrival.
    pub fn events(&self, device: &str) -> Vec<Event> {
        self.board().look(|state| {
            let events = state.platform.events().iter();
            events
                .filter(|event| event.device == device)
                .cloned()
                .collect()
        })
    }

    /// Returns every row that arrived, in order.
    pub fn log(&self) -> Vec<Record> {
        self.board().look(|state| state.platform.log().to_vec())
    }

    /// Returns every row that could not be applied, in order.
    pub fn errors(&self) -> Vec<Complaint> {
        self.board().look(|state| state.platform.errors().to_vec())
    }

    /// Returns every request that devices made for a WebSocket, in order.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.board().look(|state| state.handshakes.clone())
    }

    /// Looks at the platform as it is now.
    pub fn look<T>(&self, look: impl FnOnce(&Platform) -> T) -> T {
        self.board().look(|state| look(&state.platform))
    }

    /// Waits until `look` finds something; it is asked at every change of the platform.
    pub async fn wait_until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&Platform) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.board()
            .wait_until(limit, |state| look(&state.platform))
            .await
    }

    /// Waits until an operation has had a status, and returns it as it is then.
    pub async fn wait_for_status(
        &self,
        id: OperationId,
        status: Status,
        limit: Duration,
    ) -> anyhow::Result<Operation> {
        self.wait_until(limit, |platform| {
            let operation = platform.operation(id)?;
            operation
                .history
                .contains(&status)
                .then(|| operation.clone())
        })
        .await
        .with_context(|| format!("operation {id} is not {status:?}"))
    }

    /// Waits until `look` finds something in the requests that devices made for a WebSocket.
    pub async fn wait_for_handshakes<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[Handshake]) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.board()
            .wait_until(limit, |state| look(&state.handshakes))
            .await
    }

    fn board(&self) -> &Arc<Board> {
        &self.endpoint.board
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.endpoint.stop.cancel();
    }
}

fn operator_path(device: &str, id: ConfigurationId) -> String {
    format!(
        "/service/remoteaccess/client/{device}/configurations/{}",
        id.0
    )
}
