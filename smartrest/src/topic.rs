//! Topics of the platform, with the prefix of a bridging broker.
//!
//! A topic that adit builds must be one that a broker takes: what becomes a level of it (a child's
//! id, the id of a template collection) comes from outside and is checked here. Which topic is
//! published or subscribed to is left to the caller.

use crate::text::plain_text;

const UP: &str = "s/us";
const DOWN: &str = "s/ds";
const ERRORS: &str = "s/e";
const TOKEN_REQUEST: &str = "s/uat";
const TOKEN: &str = "s/dat";
const REGISTRATION_REQUEST: &str = "s/ucr";
const REGISTRATION: &str = "s/dcr";
const CUSTOM_UP: &str = "s/uc";
const CUSTOM_DOWN: &str = "s/dc";
const TEMPLATES_REQUEST: &str = "s/ut";
const TEMPLATES: &str = "s/dt";
const NOTIFICATIONS: &str = "devicecontrol/notifications";
const INVENTORY_UPDATE: &str = "inventory/managedObjects/update";
const BRIDGE_STATE: &str = "bridge/state";

/// Bytes of a prefix or a level: far beyond any real one, and far below the 65,535 bytes of a topic
/// and the packet that has to hold it.
const LEVEL_LIMIT: usize = 1024;
/// Bytes of a faulty text that its error repeats.
const SHOWN_TEXT: usize = 64;

/// Builds and recognises the topics behind one prefix.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Topics {
    prefix: String,
}

/// A topic of the platform, without its prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Topic<'a> {
    /// `s/us`: what the gateway says of itself.
    Up,
    /// `s/us/<child id>`: what the gateway says of this child device.
    ChildUp(&'a str),
    /// `s/ds`: operations for the gateway and all its children.
    Down,
    /// `s/e`: errors of own publishes.
    Errors,
    /// `s/uat`: asks for a token.
    TokenRequest,
    /// `s/dat`: the token.
    Token,
    /// `s/ucr`: asks for credentials.
    RegistrationRequest,
    /// `s/dcr`: the credentials.
    Registration,
    /// `s/uc/<X-ID>`: rows of this template collection, to the platform.
    CustomUp(&'a str),
    /// `s/dc/<X-ID>`: rows of this template collection, from the platform.
    CustomDown(&'a str),
    /// `s/ut/<X-ID>`: creates this template collection, or asks whether it exists.
    TemplatesRequest(&'a str),
    /// `s/dt`: answers about template collections.
    Templates,
    /// `devicecontrol/notifications`: operations as JSON, with their ids.
    Notifications,
    /// `inventory/managedObjects/update/<device id>`: JSON that changes what the platform keeps of a
    /// device.
    InventoryUpdate(&'a str),
    /// `bridge/state`: the local broker tells whether its bridge has the cloud. The one topic that is
    /// not the platform's.
    BridgeState,
}

/// Why a text cannot be part of a topic.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TopicError {
    /// The prefix holds a wildcard, a control character or a non-character, or is too long. The text
    /// is cut.
    #[error("'{0}' cannot stand before topics: it must not be long, or have any of + #")]
    Prefix(String),
    /// The id is empty, too long, or holds `/`, a wildcard, a control character or a non-character.
    /// The text is cut.
    #[error("'{0}' cannot be part of a topic: it must not be empty, long, or have any of / + #")]
    Level(String),
}

impl Topics {
    /// Takes the prefix of all topics, as `c8y/`; the slash at its end may be left out.
    pub fn new(prefix: &str) -> Result<Self, TopicError> {
        if prefix.len() > LEVEL_LIMIT || prefix.contains(is_impossible) {
            return Err(TopicError::Prefix(plain_text(prefix, SHOWN_TEXT)));
        }
        let mut prefix = prefix.to_owned();
        // Nobody means `c8ys/us`, and other agents are given the prefix without the slash.
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(Self { prefix })
    }

    /// The prefix, empty or with a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `s/us`
    pub fn up(&self) -> String {
        self.with(UP)
    }

    /// `s/us/<child>`
    pub fn child_up(&self, child: &str) -> Result<String, TopicError> {
        self.with_level(UP, child)
    }

    /// `s/ds`
    pub fn down(&self) -> String {
        self.with(DOWN)
    }

    /// `s/e`
    pub fn errors(&self) -> String {
        self.with(ERRORS)
    }

    /// `s/uat`
    pub fn token_request(&self) -> String {
        self.with(TOKEN_REQUEST)
    }

    /// `s/dat`
    pub fn token(&self) -> String {
        self.with(TOKEN)
    }

    /// `s/ucr`
    pub fn registration_request(&self) -> String {
        self.with(REGISTRATION_REQUEST)
    }

    /// `s/dcr`
    pub fn registration(&self) -> String {
        self.with(REGISTRATION)
    }

    /// `s/uc/<collection>`
    pub fn custom_up(&self, collection: &str) -> Result<String, TopicError> {
        self.with_level(CUSTOM_UP, collection)
    }

    /// `s/dc/<collection>`
    pub fn custom_down(&self, collection: &str) -> Result<String, TopicError> {
        self.with_level(CUSTOM_DOWN, collection)
    }

    /// `s/ut/<collection>`
    pub fn templates_request(&self, collection: &str) -> Result<String, TopicError> {
        self.with_level(TEMPLATES_REQUEST, collection)
    }

    /// `s/dt`
    pub fn templates(&self) -> String {
        self.with(TEMPLATES)
    }

    /// `devicecontrol/notifications`
    pub fn notifications(&self) -> String {
        self.with(NOTIFICATIONS)
    }

    /// `inventory/managedObjects/update/<device>`
    pub fn inventory_update(&self, device: &str) -> Result<String, TopicError> {
        self.with_level(INVENTORY_UPDATE, device)
    }

    /// `bridge/state`, where there is a prefix: without one no broker bridges.
    pub fn bridge_state(&self) -> Option<String> {
        (!self.prefix.is_empty()).then(|| self.with(BRIDGE_STATE))
    }

    /// Recognises a topic of the platform; `None` for any other, and for one without the prefix.
    pub fn parse<'a>(&self, topic: &'a str) -> Option<Topic<'a>> {
        let topic = topic.strip_prefix(self.prefix.as_str())?;
        match topic {
            UP => return Some(Topic::Up),
            DOWN => return Some(Topic::Down),
            ERRORS => return Some(Topic::Errors),
            TOKEN_REQUEST => return Some(Topic::TokenRequest),
            TOKEN => return Some(Topic::Token),
            REGISTRATION_REQUEST => return Some(Topic::RegistrationRequest),
            REGISTRATION => return Some(Topic::Registration),
            TEMPLATES => return Some(Topic::Templates),
            NOTIFICATIONS => return Some(Topic::Notifications),
            BRIDGE_STATE if !self.prefix.is_empty() => return Some(Topic::BridgeState),
            _ => {}
        }
        let (stem, level) = topic.rsplit_once('/')?;
        check_level(level).ok()?;
        match stem {
            UP => Some(Topic::ChildUp(level)),
            CUSTOM_UP => Some(Topic::CustomUp(level)),
            CUSTOM_DOWN => Some(Topic::CustomDown(level)),
            TEMPLATES_REQUEST => Some(Topic::TemplatesRequest(level)),
            INVENTORY_UPDATE => Some(Topic::InventoryUpdate(level)),
            _ => None,
        }
    }

    fn with(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    fn with_level(&self, stem: &str, level: &str) -> Result<String, TopicError> {
        check_level(level)?;
        Ok(format!("{}{stem}/{level}", self.prefix))
    }
}

/// A `/` would make two levels of one, and the topic that of nobody.
fn check_level(level: &str) -> Result<(), TopicError> {
    let fits = !level.is_empty() && level.len() <= LEVEL_LIMIT;
    if !fits || level.contains('/') || level.contains(is_impossible) {
        return Err(TopicError::Level(plain_text(level, SHOWN_TEXT)));
    }
    Ok(())
}

/// Wildcards are forbidden in the topic of a publish, and a broker may end the connection over a
/// control character or a non-character (MQTT 3.1.1, 1.5.3).
fn is_impossible(character: char) -> bool {
    matches!(character, '+' | '#') || character.is_control() || is_noncharacter(character)
}

/// Whether Unicode promises that this is no character, ever: 32 of the first plane, and the last two
/// of each. A broker may end the connection over one in any text of MQTT (3.1.1, 1.5.3).
pub fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(topics: &Topics) -> Vec<(String, Topic<'static>)> {
        vec![
            (topics.up(), Topic::Up),
            (topics.child_up("plc 7").unwrap(), Topic::ChildUp("plc 7")),
            (topics.down(), Topic::Down),
            (topics.errors(), Topic::Errors),
            (topics.token_request(), Topic::TokenRequest),
            (topics.token(), Topic::Token),
            (topics.registration_request(), Topic::RegistrationRequest),
            (topics.registration(), Topic::Registration),
            (topics.custom_up("x").unwrap(), Topic::CustomUp("x")),
            (topics.custom_down("x").unwrap(), Topic::CustomDown("x")),
            (
                topics.templates_request("x").unwrap(),
                Topic::TemplatesRequest("x"),
            ),
            (topics.templates(), Topic::Templates),
            (topics.notifications(), Topic::Notifications),
            (
                topics.inventory_update("gw").unwrap(),
                Topic::InventoryUpdate("gw"),
            ),
        ]
    }

    #[test]
    fn builds_the_topics_of_the_platform() {
        let topics: Vec<_> = all(&Topics::default())
            .into_iter()
            .map(|(topic, _)| topic)
            .collect();
        assert_eq!(
            topics,
            [
                "s/us",
                "s/us/plc 7",
                "s/ds",
                "s/e",
                "s/uat",
                "s/dat",
                "s/ucr",
                "s/dcr",
                "s/uc/x",
                "s/dc/x",
                "s/ut/x",
                "s/dt",
                "devicecontrol/notifications",
                "inventory/managedObjects/update/gw",
            ]
        );
    }

    #[test]
    fn recognises_what_it_has_built() {
        for prefix in ["", "c8y/", "c8y", "site/1/"] {
            let topics = Topics::new(prefix).unwrap();
            for (topic, meaning) in all(&topics) {
                assert_eq!(topics.parse(&topic), Some(meaning), "{topic}");
            }
        }
        let bridged = Topics::new("c8y").unwrap();
        assert_eq!(bridged.up(), "c8y/s/us");
        assert_eq!(bridged.prefix(), "c8y/");
        assert_eq!(Topics::default().prefix(), "");
        assert_eq!(bridged.bridge_state().as_deref(), Some("c8y/bridge/state"));
        assert_eq!(bridged.parse("c8y/bridge/state"), Some(Topic::BridgeState));
        assert_eq!(Topics::default().bridge_state(), None);
    }

    #[test]
    fn recognises_no_other_topic() {
        let (plain, bridged) = (Topics::default(), Topics::new("c8y/").unwrap());
        for topic in [
            "",
            "s",
            "s/",
            "s/us/",
            "s/us//",
            "s/us/a/b",
            "s/us/+",
            "s/us/#",
            "s/uc",
            "s/dc/",
            "s/ds/x",
            "/s/us",
            "S/US",
            "c8y/s/us",
            "te/device/main",
            "s/us/a\0",
            "bridge/state",
        ] {
            assert_eq!(plain.parse(topic), None, "{topic}");
        }
        for topic in ["s/us", "c8y", "c8ys/us", "c8y/c8y/s/us"] {
            assert_eq!(bridged.parse(topic), None, "{topic}");
        }
    }

    #[test]
    fn refuses_ids_that_cannot_be_one_level() {
        let long = "x".repeat(LEVEL_LIMIT + 1);
        for id in [
            "",
            "a/b",
            "/",
            "+",
            "a#",
            "a\0",
            "a\nb",
            "a\u{7f}",
            "a\u{9f}",
            // What no character ever is, in the first plane and in the last.
            "plc-\u{fdd0}",
            "plc-\u{fdef}",
            "plc-\u{fffe}",
            "plc-\u{ffff}",
            "plc-\u{1fffe}",
            "plc-\u{10ffff}",
            &long,
        ] {
            let error = Topics::default().child_up(id).unwrap_err().to_string();
            assert!(
                error.len() < 200 && !error.contains(['"', '\0', '\n']),
                "{error}"
            );
        }
        for id in [
            "gw-1",
            "0",
            "mac:00:11",
            "Pumpe Süd",
            "$SYS",
            "a.b",
            "\u{a0}\u{fdcf}\u{fdf0}\u{fffd}\u{1f600}",
            &long[1..],
        ] {
            let topic = Topics::default().child_up(id);
            assert_eq!(topic, Ok(format!("s/us/{id}")));
        }
    }

    #[test]
    fn refuses_prefixes_with_wildcards() {
        for prefix in [
            "+/",
            "c8y/#",
            "a\0/",
            "\u{fdd0}/",
            &"x".repeat(LEVEL_LIMIT + 1),
        ] {
            assert!(Topics::new(prefix).is_err(), "{prefix:?}");
        }
    }

    proptest! {
        #[test]
        fn recognises_every_child_it_can_address(child: String) {
            let topics = Topics::new("c8y/").unwrap();
            if let Ok(topic) = topics.child_up(&child) {
                prop_assert_eq!(topics.parse(&topic), Some(Topic::ChildUp(&child)));
            }
        }

        #[test]
        fn survives_any_topic(topic: String) {
            Topics::default().parse(&topic);
        }
    }
}
