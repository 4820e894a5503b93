//! What the platform says: topic and payload to a typed value, once, where they come in.

use smartrest::{
    COLLECTION_ID, CollectionAnswer, CredentialsError, FieldError, PendingOperation, Row, Token,
    Topic, Topics, decode, plain_text,
};
use tracing::debug;

use super::notification::Notified;

/// How the refusal of a token begins.
const NO_TOKEN: &str = "MqttAuth: Cannot publish token";
/// Bytes of a complaint that are kept.
const COMPLAINT_LIMIT: usize = 500;

/// A message of the platform to a device.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Downlink {
    /// `s/ds`: operations of the static templates, those for other agents left out.
    Operations(Vec<PendingOperation>),
    /// `s/dc/<X-ID>`: operations with their ids, or what one of them lacks.
    OperationsById(Vec<Result<PendingOperation, FieldError>>),
    /// `devicecontrol/notifications`: operations as JSON, with their ids.
    Notified(Notified),
    /// `s/dt`: answers for the template collection.
    Collection(Vec<CollectionAnswer>),
    /// `s/dat`: the answer to a request for a token.
    Token(Result<Token, CredentialsError>),
    /// `s/e`: what the platform did not understand.
    Complaints(Vec<Complaint>),
    /// `bridge/state`, from the local broker: whether its bridge has the cloud.
    Bridge(bool),
}

/// What the platform says of a row of adit's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Complaint {
    /// `41,100`: the device exists, as it does at every connect but the first.
    DeviceExists,
    /// `40`: it knows no template with this id.
    UnknownTemplate(String),
    /// `41,,MqttAuth`: it gives no token over MQTT.
    NoToken,
    /// Anything else, made plain.
    Other(String),
}

impl Downlink {
    /// Reads a message; `None` where its topic means nothing to a device that is registered.
    pub(crate) fn read(topics: &Topics, topic: &str, payload: &[u8]) -> Option<Self> {
        let topic = topics.parse(topic)?;
        if topic == Topic::Notifications {
            return Some(Self::Notified(Notified::read(payload)));
        }
        let rows = decode(payload);
        Some(match topic {
            Topic::Down => Self::Operations(rows.iter().filter_map(own_operation).collect()),
            Topic::CustomDown(COLLECTION_ID) => {
                let rows = rows.iter();
                Self::OperationsById(
                    rows.filter_map(PendingOperation::from_collection_row)
                        .collect(),
                )
            }
            Topic::Templates => {
                let rows = rows.iter();
                Self::Collection(rows.filter_map(CollectionAnswer::from_row).collect())
            }
            Topic::Token => {
                let nothing = Row::new::<String>([]);
                Self::Token(Token::from_row(rows.first().unwrap_or(&nothing)))
            }
            Topic::BridgeState => match payload {
                b"1" => Self::Bridge(true),
                b"0" => Self::Bridge(false),
                _ => return None,
            },
            Topic::Errors => Self::Complaints(rows.iter().map(complaint).collect()),
            _ => return None,
        })
    }
}

impl Downlink {
    /// Whether the platform says among its complaints that it gives no token.
    pub(crate) fn refuses_token(&self) -> bool {
        matches!(self, Self::Complaints(all) if all.contains(&Complaint::NoToken))
    }
}

fn own_operation(row: &Row) -> Option<PendingOperation> {
    let operation = PendingOperation::from_static_row(row);
    if operation.is_none() {
        debug!(template = row.template(), "row for another agent");
    }
    operation
}

fn complaint(row: &Row) -> Complaint {
    match (row.template(), row.get(1), row.get(2)) {
        ("41", Some("100"), _) => Complaint::DeviceExists,
        ("40", Some(template), _) if is_template(template) => {
            Complaint::UnknownTemplate(template.to_owned())
        }
        ("41", None, Some(words)) if words.starts_with(NO_TOKEN) => Complaint::NoToken,
        _ => Complaint::Other(plain_text(&row.fields().join(","), COMPLAINT_LIMIT)),
    }
}

fn is_template(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(topic: &str, payload: &str) -> Option<Downlink> {
        let topics = Topics::new("c8y/").unwrap();
        Downlink::read(&topics, topic, payload.as_bytes())
    }

    #[test]
    fn reads_operations_and_leaves_those_of_other_agents() {
        let Some(Downlink::Operations(pending)) =
            read("c8y/s/ds", "530,gw,plc,22,k\n511,gw,reboot\n530,gw")
        else {
            panic!("no operations");
        };
        let keys: Vec<_> = pending.iter().map(PendingOperation::key).collect();
        assert_eq!(keys, [Some("k"), None]);
    }

    #[test]
    fn reads_what_belongs_to_the_own_collection() {
        let topic = format!("c8y/s/dc/{COLLECTION_ID}");
        let Some(Downlink::OperationsById(pending)) =
            read(&topic, "901,gw,1,plc,22,k\n999,x\n901,gw")
        else {
            panic!("no operations");
        };
        assert_eq!(pending.len(), 2);
        assert!(pending[0].is_ok() && pending[1].is_err());
        assert_eq!(read("c8y/s/dc/another", "901,gw,1,plc,22,k"), None);
        let answers = format!("20,{COLLECTION_ID},7\n41,another");
        assert_eq!(
            read("c8y/s/dt", &answers),
            Some(Downlink::Collection(vec![CollectionAnswer::Exists]))
        );
    }

    #[test]
    fn takes_an_answer_without_a_token_for_an_answer() {
        let good = read("c8y/s/dat", "71,eyJh");
        assert!(matches!(good, Some(Downlink::Token(Ok(_)))), "{good:?}");
        for payload in ["", "71", "41,,MqttAuth: Cannot publish token", "71,a b"] {
            let answer = read("c8y/s/dat", payload);
            assert!(matches!(answer, Some(Downlink::Token(Err(_)))), "{payload}");
        }
    }

    #[test]
    fn reads_complaints_as_plain_text() {
        assert_eq!(
            read(
                "c8y/s/e",
                "41,\"Device \"\"gw\"\" is gone\"\n41,100,Device already existing\n40,150\n40,x\n\
                 41,,MqttAuth: Cannot publish token for device that do not use certificate \
                 authentication\n41,,MqttAuth: no"
            ),
            Some(Downlink::Complaints(vec![
                Complaint::Other("41,Device 'gw' is gone".to_owned()),
                Complaint::DeviceExists,
                Complaint::UnknownTemplate("150".to_owned()),
                Complaint::Other("40,x".to_owned()),
                Complaint::NoToken,
                Complaint::Other("41,,MqttAuth: no".to_owned()),
            ]))
        );
    }

    #[test]
    fn reads_the_state_of_a_bridge() {
        for (payload, state) in [
            ("1", Some(Downlink::Bridge(true))),
            ("0", Some(Downlink::Bridge(false))),
            ("", None),
            ("2", None),
            ("connected", None),
        ] {
            assert_eq!(read("c8y/bridge/state", payload), state, "{payload}");
        }
    }

    #[test]
    fn reads_nothing_from_other_topics() {
        for topic in ["s/ds", "c8y/s/us", "c8y/s/dcr", "te/device/main", ""] {
            assert_eq!(read(topic, "530,gw,plc,22,k"), None, "{topic}");
        }
    }
}
