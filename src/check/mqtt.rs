//! What a check asks over an MQTT connection: subscriptions, and a token.
//!
//! Nothing is published but the empty request for a token, so a device is neither created nor
//! changed. Operations that arrive are left alone: the platform keeps them pending.

use std::time::Duration;

use smartrest::{CredentialsError, Token, Topics};
use tokio::time::{Instant, sleep_until, timeout};

use crate::auth::token::{self, ANSWER_LIMIT, NoToken};
use crate::mqtt::conversation::{Conversation, Event, Opening, Pings};
use crate::mqtt::link::{Link, Lost};
use crate::mqtt::outbox::Message;
use crate::platform::downlink::Downlink;
use crate::secret::Secret;

/// How long the broker may take to answer SUBSCRIBE.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);
/// How long a local broker, which is near, may take to say what it has kept.
const BRIDGE_LIMIT: Duration = Duration::from_secs(1);

type TokenAnswer = Result<Token, CredentialsError>;

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

/// A connection on which the broker is asked.
pub(super) struct Questions {
    link: Link,
    conversation: Conversation,
    topics: Topics,
    /// What the local broker has said of its bridge.
    bridge_has_cloud: Option<bool>,
}

impl Questions {
    /// Begins by subscribing to topics.
    pub(super) fn new(
        link: Link,
        subscriptions: &[String],
        keep_alive: Duration,
        topics: Topics,
    ) -> Self {
        let opening = Opening {
            subscribe_if_granted: subscriptions.to_vec(),
            ..Opening::default()
        };
        let now = Instant::now().into_std();
        Self {
            link,
            conversation: Conversation::new(opening, Pings::every(keep_alive), now),
            topics,
            bridge_has_cloud: None,
        }
    }

    /// Waits for the answers to all subscriptions; returns the topics that were refused.
    pub(super) async fn refused(&mut self) -> Result<Vec<String>, AskError> {
        let mut refused = Vec::new();
        let answers = async {
            while !self.conversation.is_subscribed_or_refused() {
                self.go_on().await?;
            }
            Ok::<_, Lost>(())
        };
        timeout(SUBSCRIBE_LIMIT, answers)
            .await
            .map_err(|_| AskError::NoSubAck)??;
        while let Some(event) = self.conversation.next_event() {
            match event {
                Event::Refused { topic, .. } => refused.push(topic),
                Event::Received { topic, payload } => self.hear(&topic, &payload),
                _ => {}
            }
        }
        Ok(refused)
    }

    /// Waits for what the local broker says of its bridge, which it keeps for whoever comes.
    pub(super) async fn bridge(&mut self) -> Option<bool> {
        let told = async {
            while self.bridge_has_cloud.is_none() && self.go_on().await.is_ok() {
                while let Some(event) = self.conversation.next_event() {
                    if let Event::Received { topic, payload } = event {
                        self.hear(&topic, &payload);
                    }
                }
            }
        };
        // Silence is an answer too.
        let _ = timeout(BRIDGE_LIMIT, told).await;
        self.bridge_has_cloud
    }

    fn hear(&mut self, topic: &str, payload: &[u8]) {
        if let Some(Downlink::Bridge(has_cloud)) = Downlink::read(&self.topics, topic, payload) {
            self.bridge_has_cloud = Some(has_cloud);
        }
    }

    /// Asks for a token; returns the value of an `Authorization` header, and how long it lives.
    pub(super) async fn token(&mut self) -> Result<(Secret, Duration), AskError> {
        let request = Message::new(self.topics.token_request(), "");
        let now = Instant::now().into_std();
        self.conversation.publish(&request, now);
        let answer = timeout(ANSWER_LIMIT, self.token_answer())
            .await
            .map_err(|_| NoToken::Silent(ANSWER_LIMIT))??;
        let token = answer.map_err(|error| match error {
            CredentialsError::NoCertificate => NoToken::Refused,
            _ => NoToken::Rubbish,
        })?;
        Ok(token::header(&token))
    }

    async fn token_answer(&mut self) -> Result<TokenAnswer, Lost> {
        loop {
            while let Some(event) = self.conversation.next_event() {
                let Event::Received { topic, payload } = event else {
                    continue;
                };
                match Downlink::read(&self.topics, &topic, &payload) {
                    Some(Downlink::Token(answer)) => return Ok(answer),
                    Some(said) if said.refuses_token() => {
                        return Ok(Err(CredentialsError::NoCertificate));
                    }
                    _ => {}
                }
            }
            self.go_on().await?;
        }
    }

    /// Sends what is to be sent, and waits for what comes or is due.
    async fn go_on(&mut self) -> Result<(), Lost> {
        let Self {
            link, conversation, ..
        } = self;
        link.send_all(conversation.packets()).await?;
        tokio::select! {
            biased;
            incoming = link.next() => {
                conversation.receive(incoming?, Instant::now().into_std())?;
            }
            () = sleep_until(conversation.next_deadline().into()) => {}
        }
        Ok(conversation.time_passed(Instant::now().into_std())?)
    }

    /// Says good-bye.
    pub(super) async fn disconnect(self) {
        self.link.disconnect().await;
    }
}
