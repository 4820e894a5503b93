//! Everything between two sockets: the machine on the LAN and the cloud's WebSocket.

pub(crate) mod cloud;
mod current_policy;
#[cfg(test)]
mod evasion;
pub(crate) mod lan;
pub(crate) mod manager;
pub(crate) mod policy;
pub mod relay;
mod settings;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::{Either, select};
use smartrest::{ConnectionKey, Target};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tracing::{Span, debug, info};

use crate::auth::authorization::{Authorization, Unauthorized};
use crate::net::resolve::Resolver;
use crate::net::{Endpoint, Stream, Tcp, Transport, TransportError};
use crate::secret::Secret;
use crate::state::record::Took;
use crate::state::snapshot::FailureKind;
use cloud::EndpointError;
use current_policy::CurrentPolicy;
use lan::DialError;
use policy::Denied;
pub(crate) use relay::Traffic;
use relay::{CloudSocket, DRAIN_LIMIT, Limits};
pub(crate) use relay::{EndReason, Ended};
pub use settings::Settings;

use crate::words::{failure_reason, seconds};

/// HTTP status of a refused `Authorization` header.
const UNAUTHORIZED: u16 = 401;

/// How long the cloud may take to answer the Close frame of a tunnel that does not come about.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What every tunnel of an agent needs besides its request.
pub struct Opener {
    /// Another may hold by the time a tunnel stands.
    policy: CurrentPolicy,
    names: Resolver,
    transport: Transport,
    cloud: Endpoint,
    authorization: Authorization,
    connect_timeout: Duration,
    limits: Limits,
}

/// A tunnel whose both ends stand. Bytes that came early wait in its sockets.
#[derive(Debug)]
pub struct OpenTunnel {
    lan: Tcp,
    cloud: CloudSocket<Stream>,
    limits: Limits,
    key: ConnectionKey,
    authorization: Secret,
    /// How long its ends took.
    took: Took,
    /// The one in which it was opened.
    span: Span,
}

/// Why a tunnel did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The machine was not reached, or may not be.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The cloud did not open the WebSocket.
    #[error(transparent)]
    Cloud(#[from] EndpointError),
    /// There is nothing to show the cloud who the device is.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
}

impl From<Denied> for OpenError {
    fn from(denied: Denied) -> Self {
        Self::Dial(denied.into())
    }
}

impl OpenError {
    /// Returns the HTTP status of a refusal by the cloud.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Dial(_) | Self::Unauthorized(_) => None,
            Self::Cloud(error) => error.status(),
        }
    }

    /// Returns what kind of failure this is, for whoever counts them.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Dial(error) => match error {
                DialError::Denied(_) => FailureKind::Policy,
                DialError::Resolve { .. } => FailureKind::Name,
                DialError::Reach { .. } | DialError::ReachAny { .. } => FailureKind::Unreachable,
                DialError::Timeout { .. } | DialError::ResolveTimeout { .. } => {
                    FailureKind::TargetTimeout
                }
            },
            Self::Cloud(error) => match error {
                EndpointError::Refused { .. } => FailureKind::CloudRefused,
                EndpointError::Timeout { .. }
                | EndpointError::Transport(TransportError::Timeout { .. }) => {
                    FailureKind::CloudTimeout
                }
                EndpointError::Credentials => FailureKind::Unauthorized,
                EndpointError::Transport(_)
                | EndpointError::NotWebSocket { .. }
                | EndpointError::Broken { .. } => FailureKind::Cloud,
            },
            Self::Unauthorized(_) => FailureKind::Unauthorized,
        }
    }
}

impl Opener {
    /// Opens tunnels between this gateway's network and `cloud`, which `transport` leads to.
    pub fn new(
        settings: &Settings,
        cloud: Endpoint,
        transport: Transport,
        authorization: Authorization,
    ) -> Self {
        Self {
            policy: settings.policy.clone().into(),
            names: Resolver::for_machines(),
            transport,
            cloud,
            authorization,
            connect_timeout: settings.connect_timeout,
            limits: Limits {
                keep_alive: settings.keep_alive,
                drain: DRAIN_LIMIT,
                idle: settings.idle_timeout,
                max_duration: settings.max_duration,
            },
        }
    }

    /// Connects to the machine and to the cloud at the same time; the first failure is the answer. Where
    /// the machine stands is noted in `reached` as soon as it does: whoever changes the policy from then
    /// on has to end what it denies.
    ///
    /// Nothing is read from either side, so what comes early waits in the sockets. Dropping the
    /// future closes both.
    pub async fn open(
        &self,
        target: &Target,
        key: &ConnectionKey,
        reached: &OnceLock<IpAddr>,
    ) -> Result<OpenTunnel, OpenError> {
        self.policy.check_name(target)?;
        let began = Instant::now();
        let lan = pin!(timed(began, self.reach_machine(target, reached)));
        let cloud = pin!(timed(began, self.reach_cloud(key)));
        let ((lan, on_lan), ((cloud, authorization), in_cloud)) = match select(lan, cloud).await {
            Either::Left((lan, cloud)) => (lan?, cloud.await?),
            Either::Right((cloud, lan)) => {
                let cloud = cloud?;
                match lan.await {
                    Ok(lan) => (lan, cloud),
                    Err(error) => {
                        let (cloud, _) = cloud;
                        let (cloud, _) = cloud;
                        dismiss(cloud, &failure_reason(&error, usize::MAX)).await;
                        return Err(error.into());
                    }
                }
            }
        };
        Ok(OpenTunnel {
            lan,
            cloud,
            limits: self.limits.clone(),
            key: key.clone(),
            authorization,
            took: Took {
                target: on_lan,
                cloud: in_cloud,
            },
            span: Span::current(),
        })
    }

    /// Connects to the machine and notes its address.
    async fn reach_machine(
        &self,
        target: &Target,
        reached: &OnceLock<IpAddr>,
    ) -> Result<Tcp, DialError> {
        let limit = self.connect_timeout;
        let lan = lan::connect(target, &self.policy, &self.names, limit).await?;
        // One that has none has gone already; the relay finds out how.
        if let Ok(peer) = lan.peer_addr() {
            // Noted before the policy is asked: whoever changes it later finds the address.
            let address = *reached.get_or_init(|| peer.ip());
            self.policy.check(target, address)?;
        }
        Ok(lan)
    }

    /// Opens the WebSocket; with a fresh token once more where the cloud refuses the one it gets.
    ///
    /// Returns the header that was taken, too.
    async fn reach_cloud(
        &self,
        key: &ConnectionKey,
    ) -> Result<(CloudSocket<Stream>, Secret), OpenError> {
        let header = self.authorization.header().await?;
        let refused = match self.connect_cloud(key, &header).await {
            Err(error) if error.status() == Some(UNAUTHORIZED) => error,
            answer => return Ok((answer?, header)),
        };
        if !self.authorization.refused(&header) {
            return Err(refused.into());
        }
        debug!("token refused; trying once more with a fresh one");
        let header = self.authorization.header().await?;
        let cloud = self.connect_cloud(key, &header).await?;
        Ok((cloud, header))
    }

    async fn connect_cloud(
        &self,
        key: &ConnectionKey,
        header: &Secret,
    ) -> Result<CloudSocket<Stream>, EndpointError> {
        let limit = self.connect_timeout;
        cloud::connect(&self.transport, &self.cloud, key, header, limit).await
    }
}

impl OpenTunnel {
    /// Carries bytes until one side ends, a limit is reached or `stop` completes.
    pub async fn relay(
        self,
        traffic: &Traffic,
        stop: impl Future<Output: Into<EndReason>> + Send,
    ) -> Ended {
        let Self {
            lan,
            cloud,
            limits,
            key,
            authorization,
            span,
            ..
        } = self;
        let mut ended = relay::relay(lan, cloud, &limits, traffic, span, stop).await;
        // What the cloud says at the end goes into the log and into an event.
        ended
            .reason
            .forget_words_if(&|words| cloud::repeats_secret(words, &key, &authorization));
        ended
    }
}

impl Ended {
    /// Logs the end, behind words that say what has ended.
    pub(crate) fn log(&self, words: &str) {
        info!(
            reason = self.reason.to_string(),
            up = self.up,
            down = self.down,
            lasted_s = seconds(self.lasted),
            "{words}"
        );
    }
}

/// Returns what comes, and how long after `began` it came.
async fn timed<T, E>(
    began: Instant,
    coming: impl Future<Output = Result<T, E>>,
) -> Result<(T, Duration), E> {
    let come = coming.await?;
    Ok((come, began.elapsed()))
}

/// Closes a WebSocket that nobody needs, and says why.
async fn dismiss(cloud: CloudSocket<Stream>, reason: &str) {
    match timeout(CLOSE_LIMIT, cloud.dismiss(CloseCode::Error, reason)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "the cloud was not told"),
        Err(_) => debug!("the cloud did not answer the Close frame"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use futures_util::{SinkExt, StreamExt};
    use smartrest::ConnectRequest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::accept_hdr_async;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

    use super::manager::{Event, Tunnels};
    use super::policy::Policy;
    use super::*;
    use crate::password::Password;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn within<T>(future: impl Future<Output = T>) -> T {
        timeout(DEADLINE, future).await.expect("in time")
    }

    struct Site {
        device: TcpListener,
        cloud: TcpListener,
        transport: Transport,
        password: Password,
    }

    impl Site {
        async fn new() -> Self {
            Self {
                device: TcpListener::bind("127.0.0.1:0").await.unwrap(),
                cloud: TcpListener::bind("127.0.0.1:0").await.unwrap(),
                transport: Transport::new(&[]).unwrap(),
                password: Password::new(Secret::new("hunter2")),
            }
        }

        fn request(&self) -> ConnectRequest {
            let port = self.device.local_addr().unwrap().port().to_string();
            ConnectRequest {
                device: "gw-1".into(),
                target: Target::parse("127.0.0.1", &port).unwrap(),
                key: ConnectionKey::parse("k").unwrap(),
            }
        }

        async fn open(
            &self,
            request: &ConnectRequest,
            policy: &Policy,
            connect_timeout: Duration,
        ) -> Result<OpenTunnel, OpenError> {
            let opener = self.opener(policy, connect_timeout);
            within(opener.open(&request.target, &request.key, &OnceLock::new())).await
        }

        fn opener(&self, policy: &Policy, connect_timeout: Duration) -> Opener {
            let cloud = Endpoint {
                tls: false,
                host: "127.0.0.1".into(),
                port: self.cloud.local_addr().unwrap().port(),
            };
            Opener {
                names: Resolver::for_machines(),
                policy: policy.clone().into(),
                transport: self.transport.clone(),
                cloud,
                authorization: Authorization::Basic(("t1/gw".to_owned(), self.password.clone())),
                connect_timeout,
                limits: Limits {
                    keep_alive: DEADLINE,
                    drain: DRAIN_LIMIT,
                    idle: None,
                    max_duration: None,
                },
            }
        }
    }

    fn private() -> Policy {
        Policy::new(vec!["private".parse().unwrap()], vec![])
    }

    #[expect(clippy::result_large_err, reason = "the library's type")]
    async fn accept(stream: TcpStream) -> tokio_tungstenite::WebSocketStream<TcpStream> {
        let name = |_: &Request, mut response: Response| {
            let binary = "binary".parse().unwrap();
            response
                .headers_mut()
                .insert("sec-websocket-protocol", binary);
            Ok(response)
        };
        accept_hdr_async(stream, name).await.unwrap()
    }

    #[tokio::test]
    async fn keeps_what_either_side_says_before_the_other_stands() {
        let site = Site::new().await;
        let (request, policy) = (site.request(), private());
        let device = async {
            let (mut stream, _) = site.device.accept().await.unwrap();
            stream.write_all(b"RFB 003.008\n").await.unwrap();
            // The machine says its piece and leaves before the cloud even accepts.
            drop(stream);
            let (stream, _) = site.cloud.accept().await.unwrap();
            let mut cloud = accept(stream).await;
            cloud.send(Message::binary("early")).await.unwrap();
            cloud
        };
        let (tunnel, _cloud) = tokio::join!(site.open(&request, &policy, DEADLINE), within(device));
        let OpenTunnel {
            mut lan, mut cloud, ..
        } = tunnel.unwrap();
        let mut banner = String::new();
        lan.read_to_string(&mut banner).await.unwrap();
        assert_eq!(banner, "RFB 003.008\n");
        let early = within(cloud.first_bytes(7)).await;
        assert_eq!(early, b"\x82\x05early");
    }

    #[tokio::test]
    async fn asks_nobody_when_the_policy_denies_the_name() {
        let site = Site::new().await;
        let policy = Policy::new(
            vec!["private".parse().unwrap()],
            vec!["127.0.0.1".parse().unwrap()],
        );
        let error = site
            .open(&site.request(), &policy, DEADLINE)
            .await
            .unwrap_err();
        assert!(matches!(error, OpenError::Dial(DialError::Denied(_))));
        assert!(error.to_string().contains("denies 127.0.0.1"), "{error}");
        let nobody = timeout(Duration::ZERO, site.cloud.accept()).await;
        assert!(nobody.is_err());
    }

    #[tokio::test]
    async fn leaves_a_machine_that_is_denied_and_does_not_wait_for_the_cloud() {
        let site = Site::new().await;
        let mut tunnels = Tunnels::new(site.opener(&private(), DEADLINE), 1);
        tunnels.open(1, site.request()).unwrap();
        let (mut device, _) = within(site.device.accept()).await.unwrap();
        let (_silent, _) = within(site.cloud.accept()).await.unwrap();
        tunnels.set_policy(Policy::new(vec![], vec![]));
        let event = within(tunnels.next()).await;
        let Event::Failed(1, FailureKind::Policy, reason) = event else {
            panic!("{event:?}");
        };
        let target = site.request().target;
        let denied = format!("the policy does not allow {target} (remote_access.allow)");
        assert_eq!(reason, denied);
        assert_eq!(within(device.read(&mut [0])).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn notes_where_the_machine_stands_before_the_cloud_does() {
        let site = Site::new().await;
        let opener = site.opener(&private(), DEADLINE);
        let (request, reached) = (site.request(), OnceLock::new());
        let noted = async {
            while reached.get().is_none() {
                tokio::task::yield_now().await;
            }
        };
        within(async {
            tokio::select! {
                opened = opener.open(&request.target, &request.key, &reached) => panic!("{opened:?}"),
                () = noted => {}
            }
        })
        .await;
        assert_eq!(reached.get(), Some(&[127, 0, 0, 1].into()));
    }

    #[tokio::test]
    async fn closes_the_machine_when_the_cloud_refuses() {
        let site = Site::new().await;
        let (request, policy) = (site.request(), private());
        let cloud = async {
            let (mut device, _) = site.device.accept().await.unwrap();
            let (mut stream, _) = site.cloud.accept().await.unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            assert_eq!(device.read(&mut head).await.unwrap(), 0, "still open");
        };
        let (tunnel, ()) = tokio::join!(site.open(&request, &policy, DEADLINE), within(cloud));
        assert_eq!(tunnel.unwrap_err().status(), Some(404));
    }

    #[tokio::test]
    async fn tells_the_cloud_why_the_machine_is_not_reached() {
        let site = Site::new().await;
        let mut request = site.request();
        let (_held, _socket, silent) = crate::net::dial::testing::black_hole().await;
        request.target = Target::parse("127.0.0.1", &silent.port().to_string()).unwrap();
        let policy = private();
        let cloud = async {
            let (stream, _) = site.cloud.accept().await.unwrap();
            let mut cloud = accept(stream).await;
            let message = cloud.next().await.unwrap().unwrap();
            while cloud.next().await.is_some() {}
            message
        };
        let limit = Duration::from_millis(300);
        let (tunnel, said) = tokio::join!(site.open(&request, &policy, limit), within(cloud));
        let error = tunnel.unwrap_err();
        let Message::Close(Some(frame)) = said else {
            panic!("{said:?}");
        };
        assert_eq!(frame.code, CloseCode::Error);
        assert_eq!(frame.reason.as_str(), failure_reason(&error, 123));
        assert!(frame.reason.ends_with("did not answer within 300ms"));
    }
}
