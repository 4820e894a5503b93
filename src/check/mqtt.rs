//! What a check asks over an MQTT connection: subscriptions, and a token.
//!
//! Nothing is published but the empty request for a token, so a device is neither created nor
//! changed. Operations that arrive are left alone: the platform keeps them pending.

use std::time::Duration;

use rumqttc::{Packet, Publish, QoS, Subscribe, SubscribeFilter, SubscribeReasonCode};
use smartrest::{Token, Topic, Topics};
use tokio::time::timeout;

use crate::auth::token::{self, ANSWER_LIMIT, NoToken};
use crate::mqtt::link::{Link, Lost};
use crate::secret::Secret;

/// How long the broker may take to answer SUBSCRIBE.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);
const SUBSCRIBE_ID: u16 = 1;
const REQUEST_ID: u16 = 2;

/// Why there is no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error("the broker did not answer SUBSCRIBE within {SUBSCRIBE_LIMIT:?}")]
    NoSubAck,
    #[error(transparent)]
    NoToken(#[from] NoToken),
}

/// Subscribes to topics, and returns those that the broker refused.
pub(super) async fn subscribe(link: &mut Link, topics: &[String]) -> Result<Vec<String>, AskError> {
    let filters = topics.iter().cloned();
    let filters = filters.map(|topic| SubscribeFilter::new(topic, QoS::AtLeastOnce));
    let mut packet = Subscribe::new_many(filters);
    packet.pkid = SUBSCRIBE_ID;
    let answer = async {
        link.send(Packet::Subscribe(packet)).await?;
        loop {
            match link.next().await? {
                Packet::SubAck(answer) if answer.pkid == SUBSCRIBE_ID => {
                    return Ok::<_, Lost>(answer.return_codes);
                }
                _ => {}
            }
        }
    };
    let codes = timeout(SUBSCRIBE_LIMIT, answer)
        .await
        .map_err(|_| AskError::NoSubAck)??;
    let granted = |at: usize| matches!(codes.get(at), Some(SubscribeReasonCode::Success(_)));
    let refused = topics.iter().enumerate().filter(|(at, _)| !granted(*at));
    Ok(refused.map(|(_, topic)| topic.clone()).collect())
}

/// Asks for a token; returns the value of an `Authorization` header, and how long it lives.
pub(super) async fn token(
    link: &mut Link,
    topics: &Topics,
) -> Result<(Secret, Duration), AskError> {
    let mut request = Publish::new(topics.token_request(), QoS::AtLeastOnce, Vec::new());
    request.pkid = REQUEST_ID;
    let answer = async {
        link.send(Packet::Publish(request)).await?;
        loop {
            match link.next().await? {
                Packet::Publish(publish) if topics.parse(&publish.topic) == Some(Topic::Token) => {
                    return Ok::<_, Lost>(publish.payload);
                }
                _ => {}
            }
        }
    };
    let payload = timeout(ANSWER_LIMIT, answer)
        .await
        .map_err(|_| NoToken::Silent)??;
    let rows = smartrest::decode(&payload);
    let token = rows.first().map(Token::from_row).and_then(Result::ok);
    Ok(token.as_ref().map(token::header).ok_or(NoToken::Rubbish)?)
}
