//! The platform's MQTT Service, before a broker: what it takes at port 9883, as it was measured on a real
//! tenant.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt, StreamExt};
use rumqttc::{
    Codec, ConnAck, Connect, ConnectReturnCode, Login, Packet, PubAck, Publish, QoS, SubAck,
    Subscribe, SubscribeReasonCode,
};
use rustls::RootCertStore;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::codec::Framed;

use super::site::Site;

/// Of the platform's host.
pub(crate) const SERVICE_PORT: u16 = 9883;
/// The largest packet that it takes.
const MAX_PACKET: usize = 128 << 10;
/// What a session without a certificate gets for a token.
const NO_TOKEN: &str = "41,,MqttAuth: Cannot publish token for device that do not use certificate \
                        authentication";

/// The MQTT Service at an address that is the test's own.
pub(crate) struct MqttService {
    address: Ipv4Addr,
    /// The one that is as good as a certificate here.
    pub(crate) token: String,
    heard: Arc<Mutex<Heard>>,
    _serving: JoinSet<()>,
}

/// What clients have done.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    /// The filters of each SUBSCRIBE.
    pub(crate) subscribed: Vec<Vec<String>>,
    /// Logins that were taken.
    pub(crate) logins: usize,
    /// Logins that were refused.
    pub(crate) refused: usize,
}

/// What a connection is judged by.
#[derive(Clone)]
struct Judge {
    tenant: String,
    /// One that the platform has given out.
    token: String,
    /// Where the broker knows the gateway.
    broker: (u16, Login),
    heard: Arc<Mutex<Heard>>,
}

type Near = Framed<TlsStream<TcpStream>, Codec>;
type Far = Framed<TcpStream, Codec>;

impl MqttService {
    /// Stands before the broker of a site, and takes the certificates that `devices` have issued.
    pub(crate) async fn before(site: &Site, address: Ipv4Addr, devices: &RootCertStore) -> Self {
        let acceptor = TlsAcceptor::from(site.authority.server_admitting(address, devices));
        let listener = TcpListener::bind((address, SERVICE_PORT)).await.unwrap();
        let (username, password) = site.user();
        let heard = Arc::<Mutex<Heard>>::default();
        let token = site.cloud.issue_token().unwrap();
        let judge = Judge {
            token: token.clone(),
            tenant: site.cloud.options().device_login.tenant.clone(),
            broker: (site.broker.port(), Login { username, password }),
            heard: Arc::clone(&heard),
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // Dropped with the task that serves, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, judge) = (acceptor.clone(), judge.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        judge.serve(stream).await;
                    }
                });
            }
        });
        Self {
            address,
            token,
            heard,
            _serving: serving,
        }
    }

    /// The setting that leads adit to it.
    pub(crate) fn setting(&self) -> String {
        format!("mqtt.url=mqtts://{}:{SERVICE_PORT}", self.address)
    }

    pub(crate) fn heard(&self) -> Heard {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }
}

impl Judge {
    async fn serve(self, stream: TlsStream<TcpStream>) -> Option<()> {
        let (_, tls) = stream.get_ref();
        let is_certified = tls.peer_certificates().is_some();
        let mut near = Framed::new(stream, codec(MAX_PACKET));
        let Packet::Connect(connect) = near.next().await?.ok()? else {
            return None;
        };
        if !connect.clean_session {
            // There is no answer at all.
            return std::future::pending().await;
        }
        let is_taken = self.takes(connect.login.as_ref(), is_certified);
        self.note(|heard| match is_taken {
            true => heard.logins += 1,
            false => heard.refused += 1,
        });
        if !is_taken {
            let refusal = ConnAck::new(ConnectReturnCode::NotAuthorized, false);
            return near.send(Packet::ConnAck(refusal)).await.ok();
        }
        let far = self.reach_broker(connect).await?;
        self.carry(near, far, is_certified).await
    }

    /// A certificate with the tenant or nobody as user, or a token as password.
    fn takes(&self, login: Option<&Login>, is_certified: bool) -> bool {
        match (login, is_certified) {
            (None, _) => is_certified,
            (Some(login), true) => login.username.is_empty() || login.username == self.tenant,
            (Some(login), false) => login.password == self.token,
        }
    }

    async fn reach_broker(&self, mut connect: Connect) -> Option<Far> {
        let (port, login) = &self.broker;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))
            .await
            .ok()?;
        let mut far = Framed::new(stream, codec(1 << 20));
        connect.login = Some(login.clone());
        far.send(Packet::Connect(connect)).await.ok()?;
        Some(far)
    }

    async fn carry(&self, mut near: Near, mut far: Far, is_certified: bool) -> Option<()> {
        loop {
            tokio::select! {
                packet = near.next() => match packet?.ok()? {
                    Packet::Subscribe(subscribe) => match self.judged(&subscribe) {
                        Some(answer) => near.send(Packet::SubAck(answer)).await.ok()?,
                        None => far.send(Packet::Subscribe(subscribe)).await.ok()?,
                    },
                    Packet::Publish(publish) if publish.qos == QoS::ExactlyOnce => return None,
                    Packet::Publish(publish) if publish.topic == "s/uat" && !is_certified => {
                        near.send(Packet::PubAck(PubAck::new(publish.pkid))).await.ok()?;
                        let answer = Publish::new("s/dat", QoS::AtMostOnce, NO_TOKEN);
                        near.send(Packet::Publish(answer)).await.ok()?;
                    }
                    packet => far.send(packet).await.ok()?,
                },
                packet = far.next() => near.send(packet?.ok()?).await.ok()?,
            }
        }
    }

    /// Returns the answer to a SUBSCRIBE that leads to nothing.
    fn judged(&self, subscribe: &Subscribe) -> Option<SubAck> {
        let filters: Vec<_> = subscribe
            .filters
            .iter()
            .map(|filter| &filter.path)
            .collect();
        self.note(|heard| {
            let filters = filters.iter().map(|&filter| filter.clone());
            heard.subscribed.push(filters.collect());
        });
        // Two or more are refused as a whole, and wildcards are granted and bring nothing.
        let code = match filters.as_slice() {
            [filter] if !filter.contains(['+', '#']) => return None,
            [_] => SubscribeReasonCode::Success(QoS::AtLeastOnce),
            _ => SubscribeReasonCode::Failure,
        };
        Some(SubAck::new(subscribe.pkid, vec![code; filters.len()]))
    }

    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn codec(max_incoming_size: usize) -> Codec {
    Codec {
        max_incoming_size,
        max_outgoing_size: 1 << 20,
    }
}
