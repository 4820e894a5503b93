//! The platform's mind: rows in, rows out, without I/O and without a clock.
//!
//! `501`, `502`, `503` and `507` name no operation. They apply to the oldest one of the device
//! whose topic carries them, and so they do here, whoever is hurt by it. What cannot be applied
//! is answered on `s/e` and kept, because a device that causes it has miscounted.

mod access;
mod collection;
mod device;
mod inventory;
mod notification;
mod operation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use smartrest::{Row, Topic, Topics, decode, encode};

use crate::options::Login;
use access::Access;
use collection::Collection;

pub use access::TokenAnswer;
pub use device::{Device, Event, Service};
pub use notification::{NOTIFICATIONS, Notifications};
pub use operation::{Key, Operation, OperationId, Status};

/// The fragment of the operation that opens a tunnel.
pub const REMOTE_ACCESS: &str = "c8y_RemoteAccessConnect";

/// The topic for operations, without prefix.
pub const DOWN: &str = "s/ds";
/// The topic for answers about template collections, without prefix.
pub const TEMPLATES: &str = "s/dt";
/// The topic for complaints about a device's own rows, without prefix.
pub const ERRORS: &str = "s/e";

const TOKEN_REQUEST: &str = "s/uat";
const TOKEN: &str = "s/dat";
const REGISTRATION_REQUEST: &str = "s/ucr";
const REGISTRATION: &str = "s/dcr";

/// The topic of the gateway's own rows; a child's has the child's id behind another slash.
const UP: &str = "s/us";

/// What fits into one publish: a packet of 16,184 bytes less its header.
const MAX_PAYLOAD: usize = 16_150;

/// What the platform publishes. `Debug` leaves out the payload, which may hold connection keys.
#[derive(Clone, Eq, PartialEq)]
pub struct Delivery {
    /// Without prefix.
    pub topic: String,
    /// Rows, or anything a test wants to be sent.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// A row that arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// When it arrived.
    pub at: Instant,
    /// Without prefix.
    pub topic: String,
    /// The row; of an empty publish, one empty field.
    pub row: Row,
}

/// A row that the platform could not apply.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Complaint {
    /// The topic it arrived on, without prefix.
    pub topic: String,
    /// The row.
    pub row: Row,
    /// What is wrong with it.
    pub message: String,
}

/// Devices, operations and events of one gateway and its children.
#[derive(Debug)]
pub struct Platform {
    gateway: String,
    loses_early_operations: bool,
    live_delivery: bool,
    heard: bool,
    devices: BTreeMap<String, Device>,
    /// In the order of their ids, the oldest first.
    operations: Vec<Operation>,
    events: Vec<Event>,
    log: Vec<Record>,
    errors: Vec<Complaint>,
    access: Access,
    offers_collections: bool,
    collections: BTreeMap<String, Collection>,
    /// The ids of collections that the gateway has used; operations are delivered in them too.
    used_collections: BTreeSet<String>,
    notifications: Notifications,
    /// The templates that it is too old for.
    unknown_templates: BTreeSet<String>,
}

impl Platform {
    /// Makes a platform that has never heard of `gateway`.
    ///
    /// With `loses_early_operations`, a `114` vanishes silently until the device exists, as it does
    /// in the very first session of a new device; without, it creates the device.
    pub fn new(gateway: impl Into<String>, loses_early_operations: bool) -> Self {
        Self {
            gateway: gateway.into(),
            loses_early_operations,
            live_delivery: true,
            heard: false,
            devices: BTreeMap::new(),
            operations: Vec::new(),
            events: Vec::new(),
            log: Vec::new(),
            errors: Vec::new(),
            access: Access::default(),
            offers_collections: true,
            collections: BTreeMap::new(),
            used_collections: BTreeSet::new(),
            notifications: Notifications::default(),
            unknown_templates: BTreeSet::new(),
        }
    }

    /// Says whether devices are notified of operations; at first they are not.
    pub fn notify(&mut self, notifications: Notifications) {
        self.notifications = notifications;
    }

    /// Makes the platform too old for templates: `150` came with 10.20.325, `507` with 10.18.114.
    pub fn forget_templates(&mut self, templates: &[&str]) {
        self.unknown_templates = templates.iter().map(|&t| t.to_owned()).collect();
    }

    /// Says whether devices may have template collections; without, the platform never answers.
    pub fn offer_collections(&mut self, offered: bool) {
        self.offers_collections = offered;
    }

    /// Takes a publish of the gateway and returns what is published in answer.
    pub fn receive(&mut self, topic: &str, payload: &[u8], at: Instant) -> Vec<Delivery> {
        self.heard = true;
        let topics = Topics::default();
        let topic_of = topics.parse(topic);
        let mut rows = match topic_of {
            Some(Topic::InventoryUpdate(_)) => {
                vec![Row::new([String::from_utf8_lossy(payload)])]
            }
            _ => decode(payload),
        };
        if rows.is_empty() {
            rows.push(Row::new([""]));
        }
        let mut out = Vec::new();
        for row in rows {
            self.log.push(Record {
                at,
                topic: topic.to_owned(),
                row: row.clone(),
            });
            let applied = match (self.device_of(topic), topic_of) {
                (_, Some(Topic::InventoryUpdate(device))) => self
                    .known(device)
                    .and_then(|device| inventory::update(&mut device.fragments, payload))
                    .map(|()| Vec::new()),
                (Some(_), _) if self.unknown_templates.contains(row.template()) => {
                    out.push(self.unknown_template(topic, row));
                    continue;
                }
                (Some(device), _) => self.apply(&device, &row, at),
                (None, Some(Topic::CustomUp(id))) => self.apply_custom(id, &row),
                _ => {
                    out.extend(self.answer(topic));
                    continue;
                }
            };
            match applied {
                Ok(deliveries) => out.extend(deliveries),
                Err(message) => out.push(self.complain(topic, row, message)),
            }
        }
        // All templates of a collection are in one publish.
        if let Some(Topic::TemplatesRequest(id)) = topic_of {
            match self.collection_requested(id, payload) {
                Ok(answer) => out.extend(answer),
                Err(message) => out.push(self.complain(topic, Row::new([""]), message)),
            }
        }
        out
    }

    /// Says what requests for a token are answered from now on.
    pub fn answer_token_requests(&mut self, answer: TokenAnswer) {
        self.access.answer = answer;
    }

    /// Says what requests for a token over mutual TLS are answered, or the HTTP status that refuses them.
    pub fn answer_certified_requests(&mut self, answer: Result<TokenAnswer, u16>) {
        self.access.certified = answer;
    }

    /// Returns the body that answers a request over mutual TLS, or the HTTP status; nothing for silence.
    pub fn certified_token(&mut self) -> Option<Result<String, u16>> {
        self.access.certified_token()
    }

    /// Returns whether a token was given out, is not revoked and has not expired.
    pub fn is_token_good(&self, token: &str) -> bool {
        self.access.is_good(token)
    }

    /// Gives out a token outside of MQTT, unless requests for one are met with silence.
    pub fn issue_token(&mut self) -> Option<String> {
        Some(self.access.token()?.0.get(1)?.to_owned())
    }

    /// Takes back all tokens.
    pub fn revoke_tokens(&mut self) {
        self.access.revoke();
    }

    /// Begins at another time than this machine's, which tokens tell.
    pub fn begin_at(&mut self, time: SystemTime) {
        self.access.begin_at(time);
    }

    /// Accepts the registration of the device, which gets these credentials when it next asks.
    pub fn accept_registration(&mut self, credentials: Login) {
        self.access.registered = Some(credentials);
    }

    fn answer(&mut self, topic: &str) -> Option<Delivery> {
        let (topic, row) = match topic {
            TOKEN_REQUEST => match self.access.token()? {
                (row, true) => (ERRORS, row),
                (row, false) => (TOKEN, row),
            },
            REGISTRATION_REQUEST => (REGISTRATION, self.access.registration()?),
            _ => return None,
        };
        Some(Delivery {
            topic: topic.to_owned(),
            payload: encode([&row]).into(),
        })
    }

    fn complain(&mut self, topic: &str, row: Row, message: String) -> Delivery {
        self.refuse("41", topic, row, message)
    }

    /// Answers a row that the platform is too old for.
    fn unknown_template(&mut self, topic: &str, row: Row) -> Delivery {
        let message = "No static template for this message id".to_owned();
        self.refuse("40", topic, row, message)
    }

    /// Notes an error, and answers with it in a template.
    fn refuse(&mut self, template: &str, topic: &str, row: Row, message: String) -> Delivery {
        let answer = Row::new([template, row.template(), &message]);
        self.errors.push(Complaint {
            topic: topic.to_owned(),
            row,
            message,
        });
        Delivery {
            topic: ERRORS.to_owned(),
            payload: encode([&answer]).into(),
        }
    }

    /// Answers an empty publish, and creates the collection of any other.
    fn collection_requested(
        &mut self,
        id: &str,
        payload: &[u8],
    ) -> Result<Option<Delivery>, String> {
        if !self.offers_collections {
            return Ok(None);
        }
        self.used_collections.insert(id.to_owned());
        if payload.is_empty() {
            let answer = match self.collections.get(id) {
                Some(collection) => Row::new(["20", id, &collection.id.to_string()]),
                None => Row::new(["41", id]),
            };
            return Ok(Some(Delivery {
                topic: TEMPLATES.to_owned(),
                payload: encode([&answer]).into(),
            }));
        }
        if self.collections.contains_key(id) {
            return Err(format!("the collection {id} exists and cannot be changed"));
        }
        const FIRST: u64 = 8001;
        let number = FIRST + self.collections.len() as u64;
        let collection = Collection::read(number, payload)?;
        self.collections.insert(id.to_owned(), collection);
        Ok(None)
    }

    fn apply_custom(&mut self, id: &str, row: &Row) -> Result<Vec<Delivery>, String> {
        let collection = self.collections.get(id);
        let collection = collection.ok_or_else(|| format!("there is no collection {id}"))?;
        let (device, values) = collection.change(row)?;
        self.used_collections.insert(id.to_owned());
        let fragments = &mut self.known(&device)?.fragments;
        let top = |path: &str| path.split('.').next().map(str::to_owned);
        // An update replaces a fragment as a whole.
        fragments.retain(|path, _| values.iter().all(|(new, _)| top(new) != top(path)));
        fragments.extend(values);
        Ok(Vec::new())
    }

    /// Forgets a collection, as if somebody had deleted it.
    pub fn delete_collection(&mut self, id: &str) {
        self.collections.remove(id);
    }

    /// Creates a device, or leaves it alone if it exists; all but the gateway are its children.
    pub fn create_device(&mut self, id: &str, name: &str, kind: &str) {
        const FIRST: u64 = 501;
        let parent = (id != self.gateway).then(|| self.gateway.clone());
        let object = FIRST + self.devices.len() as u64;
        self.devices.entry(id.to_owned()).or_insert_with(|| Device {
            id: id.to_owned(),
            object,
            name: name.to_owned(),
            kind: kind.to_owned(),
            parent,
            ..Device::default()
        });
    }

    /// Creates a PENDING operation that is delivered as `row`, whatever that says, and returns what
    /// is published now; `None` if there is no such device.
    pub fn create_operation(
        &mut self,
        device: &str,
        fragment: &str,
        row: Row,
    ) -> Option<(OperationId, Vec<Delivery>)> {
        const FIRST: u64 = 1001;
        if !self.devices.contains_key(device) {
            return None;
        }
        let id = self
            .operations
            .last()
            .map_or(OperationId(FIRST), |last| OperationId(last.id.0 + 1));
        self.operations.push(Operation {
            id,
            device: device.to_owned(),
            fragment: fragment.to_owned(),
            row,
            history: vec![Status::Pending],
            reports: Vec::new(),
            reason: None,
            deliveries: 0,
            is_notified: false,
        });
        let deliveries = if self.live_delivery && self.heard {
            self.deliver(&[id])
        } else {
            Vec::new()
        };
        Some((id, deliveries))
    }

    /// Publishes the row of an operation once more, as QoS 1 may.
    pub fn redeliver(&mut self, id: OperationId) -> Vec<Delivery> {
        self.deliver(&[id])
    }

    /// Says whether a new operation is published at once, or only when the device asks.
    pub fn set_live_delivery(&mut self, live: bool) {
        self.live_delivery = live;
    }

    /// Returns whether the device has published anything yet; before, nothing is delivered.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Returns a device by its external id.
    pub fn device(&self, id: &str) -> Option<&Device> {
        self.devices.get(id)
    }

    /// Returns all devices in the order of their ids.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// Returns an operation by its number.
    pub fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.id == id)
    }

    /// Returns all operations, the oldest first.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Returns the events of all devices in the order of their arrival.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns every row that arrived, in order.
    pub fn log(&self) -> &[Record] {
        &self.log
    }

    /// Returns every row that could not be applied, in order.
    pub fn errors(&self) -> &[Complaint] {
        &self.errors
    }

    /// Returns whose rows `topic` carries; `None` for topics that are only recorded.
    fn device_of(&self, topic: &str) -> Option<String> {
        match topic.strip_prefix(UP)? {
            "" => Some(self.gateway.clone()),
            child => child.strip_prefix('/').map(str::to_owned),
        }
    }

    fn apply(&mut self, device: &str, row: &Row, at: Instant) -> Result<Vec<Delivery>, String> {
        let text = |index| row.get(index).unwrap_or_default();
        let list = || row.fields().iter().skip(1).cloned().collect::<Vec<_>>();
        match row.template() {
            // No fault: an agent says so at each connect.
            "100" if self.devices.contains_key(device) => {
                let answer = Row::new(["41", "100", "Device already existing"]);
                return Ok(vec![Delivery {
                    topic: ERRORS.to_owned(),
                    payload: encode([&answer]).into(),
                }]);
            }
            "100" => self.create_device(device, text(1), text(2)),
            "101" => match row.get(1) {
                Some(child) => self.create_device(child, text(2), text(3)),
                None => return Err("the child id is missing".to_owned()),
            },
            "114" => self.set_supported_operations(device, list())?,
            // Only where none is set.
            "117" => {
                let known = self.known(device)?;
                let minutes = row.get(1).map(str::to_owned);
                known.required_minutes = known.required_minutes.take().or(minutes);
            }
            "122" => self.known(device)?.agent = list(),
            "150" => self.known(device)?.protocols = list(),
            "102" => match row.get(1) {
                Some(id) => {
                    let service = self.known(device)?.services.entry(id.to_owned());
                    let service = service.or_default();
                    (service.kind, service.name) = (text(2).to_owned(), text(3).to_owned());
                    service.history.push(text(4).to_owned());
                }
                None => return Err("the service id is missing".to_owned()),
            },
            "104" => {
                let services = self.devices.values_mut().flat_map(|d| &mut d.services);
                let mut services = services.filter(|(id, _)| *id == device);
                // The will of a first connection may come before the service exists.
                if let Some((_, service)) = services.next() {
                    service.history.push(text(1).to_owned());
                }
            }
            // Hardware, heartbeats and alarms are nothing that adit depends on.
            "110" | "125" | "301" | "302" | "303" | "304" | "306" => {
                self.known(device)?;
            }
            "400" => {
                self.known(device)?;
                self.events.push(Event {
                    at,
                    device: device.to_owned(),
                    kind: text(1).to_owned(),
                    text: text(2).to_owned(),
                });
            }
            "500" => return Ok(self.deliver_pending(device)),
            "501" => self
                .oldest(device, text(1), Status::Pending)?
                .report(Status::Executing, row),
            "502" => fail(self.oldest(device, text(1), Status::Executing)?, row),
            "503" => self
                .oldest(device, text(1), Status::Executing)?
                .report(Status::Successful, row),
            "504" => self
                .numbered(text(1), Status::Pending)?
                .report(Status::Executing, row),
            "505" => fail(self.numbered(text(1), Status::Executing)?, row),
            "506" => self
                .numbered(text(1), Status::Executing)?
                .report(Status::Successful, row),
            "507" => {
                for operation in &mut self.operations {
                    // Without a fragment, those of every agent.
                    if operation.device == device
                        && row
                            .get(1)
                            .is_none_or(|fragment| fragment == operation.fragment)
                        && operation.status() == Status::Executing
                    {
                        fail(operation, row);
                    }
                }
            }
            other => return Err(format!("there is no static template '{other}'")),
        }
        Ok(Vec::new())
    }

    fn set_supported_operations(&mut self, device: &str, list: Vec<String>) -> Result<(), String> {
        if !self.devices.contains_key(device) {
            if self.loses_early_operations {
                return Ok(());
            }
            self.create_device(device, device, "");
        }
        self.known(device)?.supported_operations = list;
        Ok(())
    }

    fn known(&mut self, device: &str) -> Result<&mut Device, String> {
        self.devices
            .get_mut(device)
            .ok_or_else(|| format!("there is no device {device}"))
    }

    fn oldest(
        &mut self,
        device: &str,
        fragment: &str,
        status: Status,
    ) -> Result<&mut Operation, String> {
        self.operations
            .iter_mut()
            .find(|operation| {
                operation.device == device
                    && operation.fragment == fragment
                    && operation.status() == status
            })
            .ok_or_else(|| format!("no {fragment} of {device} is {status:?}"))
    }

    fn numbered(&mut self, id: &str, status: Status) -> Result<&mut Operation, String> {
        self.operations
            .iter_mut()
            .find(|operation| operation.id.to_string() == id && operation.status() == status)
            .ok_or_else(|| format!("no operation {id} is {status:?}"))
    }

    /// The gateway is answered for itself and its children, a child for itself. Notified is only of
    /// what was not notified of before.
    fn deliver_pending(&mut self, device: &str) -> Vec<Delivery> {
        let all = device == self.gateway;
        let pending: Vec<_> = self
            .operations
            .iter()
            .filter(|operation| operation.status() == Status::Pending)
            .filter(|operation| all || operation.device == device)
            .map(|operation| (operation.id, operation.is_notified))
            .collect();
        let notify = pending.iter().filter(|(_, is_notified)| !is_notified);
        let notify: Vec<_> = notify.map(|(id, _)| *id).collect();
        let ids: Vec<_> = pending.into_iter().map(|(id, _)| id).collect();
        self.deliver_and_notify(&ids, &notify)
    }

    fn deliver(&mut self, ids: &[OperationId]) -> Vec<Delivery> {
        self.deliver_and_notify(ids, ids)
    }

    /// Publishes operations by the static template, and by those of each collection in use; and
    /// notifies of some.
    fn deliver_and_notify(&mut self, ids: &[OperationId], notify: &[OperationId]) -> Vec<Delivery> {
        let notified = match self.notifications {
            Notifications::Never => Vec::new(),
            Notifications::BehindRows | Notifications::BeforeRows => self.notifications_of(notify),
        };
        let mut operations: Vec<_> = self.operations.iter_mut().collect();
        operations.retain(|operation| ids.contains(&operation.id));
        for operation in &mut operations {
            operation.deliveries += 1;
        }
        let statics = operations.iter().map(|operation| operation.row.clone());
        let mut deliveries = in_packets(DOWN, statics);
        for id in &self.used_collections {
            if let Some(collection) = self.collections.get(id) {
                let rows = operations.iter().flat_map(|o| collection.rows(o));
                deliveries.extend(in_packets(&format!("s/dc/{id}"), rows));
            }
        }
        match self.notifications {
            Notifications::BeforeRows => [notified, deliveries].concat(),
            Notifications::Never | Notifications::BehindRows => [deliveries, notified].concat(),
        }
    }

    /// Returns what a device gets that subscribes to notifications: what is pending, and was not
    /// notified of before.
    pub fn notify_of_pending(&mut self) -> Vec<Delivery> {
        if self.notifications == Notifications::Never {
            return Vec::new();
        }
        let pending = self
            .operations
            .iter()
            .filter(|o| o.status() == Status::Pending && !o.is_notified);
        let ids: Vec<_> = pending.map(|operation| operation.id).collect();
        self.notifications_of(&ids)
    }

    /// Returns what notifies of operations, whether that is done of itself or not.
    pub fn notifications_of(&mut self, ids: &[OperationId]) -> Vec<Delivery> {
        let mut lines = Vec::new();
        for operation in &mut self.operations {
            if ids.contains(&operation.id) {
                operation.is_notified = true;
                lines.push(operation.to_json());
            }
        }
        in_lines(NOTIFICATIONS, lines)
    }
}

/// Puts rows into one publish, or into as few as the packet limit allows.
fn in_packets(topic: &str, rows: impl Iterator<Item = Row>) -> Vec<Delivery> {
    in_lines(topic, rows.map(|row| encode([&row])))
}

fn in_lines(topic: &str, lines: impl IntoIterator<Item = String>) -> Vec<Delivery> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        let line: Vec<u8> = line.into();
        match payloads.last_mut() {
            Some(last) if last.len() + line.len() < MAX_PAYLOAD => {
                last.push(b'\n');
                last.extend(line);
            }
            _ => payloads.push(line),
        }
    }
    payloads
        .into_iter()
        .map(|payload| Delivery {
            topic: topic.to_owned(),
            payload,
        })
        .collect()
}

fn fail(operation: &mut Operation, row: &Row) {
    operation.report(Status::Failed, row);
    operation.reason = row.get(2).map(str::to_owned);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Status::{Executing, Failed, Pending, Successful};

    fn platform() -> Platform {
        let mut platform = Platform::new("gw", true);
        platform.create_device("gw", "Gateway", "adit_Gateway");
        platform.create_device("plc", "PLC", "plc");
        platform
    }

    fn tell(platform: &mut Platform, topic: &str, rows: &str) -> Vec<String> {
        platform
            .receive(topic, rows.as_bytes(), Instant::now())
            .into_iter()
            .map(|delivery| {
                format!(
                    "{} {}",
                    delivery.topic,
                    String::from_utf8(delivery.payload).unwrap()
                )
            })
            .collect()
    }

    fn create(platform: &mut Platform, device: &str, key: &str) -> (OperationId, usize) {
        let row = Row::new(["530", device, "host", "22", key]);
        let (id, deliveries) = platform
            .create_operation(device, REMOTE_ACCESS, row)
            .unwrap();
        (id, deliveries.len())
    }

    #[test]
    fn applies_a_status_to_the_oldest_operation_of_the_device_that_reports() {
        for (reports, statuses, complaints) in [
            (&["gw 501,F"][..], [Executing, Pending, Pending], 0),
            (
                &["gw 501,F", "gw 501,F", "gw 503,F"],
                [Successful, Executing, Pending],
                0,
            ),
            (
                &["gw 501,F", "gw 501,F", "gw 502,F,why", "gw 503,F"],
                [Failed, Successful, Pending],
                0,
            ),
            (
                &["gw 501,F", "gw 501,F", "plc 501,F", "gw 507,F,why"],
                [Failed, Failed, Executing],
                0,
            ),
            (
                &["plc 501,F", "plc 503,F"],
                [Pending, Pending, Successful],
                0,
            ),
            (
                &[
                    "gw 504,1002",
                    "gw 506,1002",
                    "gw 504,1003",
                    "plc 505,1003,why",
                ],
                [Pending, Successful, Failed],
                0,
            ),
            (&["gw 507,F,why"], [Pending, Pending, Pending], 0),
            (&["gw 503,F"], [Pending, Pending, Pending], 1),
            (&["gw 502,F,why"], [Pending, Pending, Pending], 1),
            (
                &["plc 501,F", "plc 501,F"],
                [Pending, Pending, Executing],
                1,
            ),
            (&["gw 501,c8y_Restart"], [Pending, Pending, Pending], 1),
            (
                &["gw 506,1001", "gw 504,99"],
                [Pending, Pending, Pending],
                2,
            ),
            (
                &["gw 501,F", "gw 503,F", "gw 503,F"],
                [Successful, Pending, Pending],
                1,
            ),
        ] {
            let mut platform = platform();
            for (device, key) in [("gw", "a"), ("gw", "b"), ("plc", "c")] {
                create(&mut platform, device, key);
            }
            let mut answers = 0;
            for report in reports {
                let (device, row) = report.split_once(' ').unwrap();
                let topic = if device == "gw" {
                    "s/us".to_owned()
                } else {
                    format!("s/us/{device}")
                };
                answers += tell(
                    &mut platform,
                    &topic,
                    &row.replace(",F", ",c8y_RemoteAccessConnect"),
                )
                .iter()
                .filter(|answer| answer.starts_with("s/e 41,"))
                .count();
            }
            let found: Vec<_> = platform
                .operations()
                .iter()
                .map(Operation::status)
                .collect();
            assert_eq!(found, statuses, "{reports:?}");
            assert_eq!(platform.errors().len(), complaints, "{reports:?}");
            assert_eq!(answers, complaints, "{reports:?}");
            for operation in platform.operations() {
                assert_eq!(operation.reason.is_some(), operation.status() == Failed);
            }
        }
    }

    #[test]
    fn notifies_of_operations_with_their_ids_and_of_each_but_once_by_itself() {
        let mut platform = platform();
        tell(&mut platform, "s/us", "100,Gateway,adit_Gateway");
        platform.set_live_delivery(false);
        create(&mut platform, "plc", "offline");
        platform.set_live_delivery(true);
        platform.notify(Notifications::BehindRows);
        let (id, count) = create(&mut platform, "gw", "k");
        assert_eq!(count, 2);
        let operation = platform.operation(id).unwrap().to_json();
        let json: serde_json::Value = serde_json::from_str(&operation).unwrap();
        assert_eq!(json["id"], "1002");
        assert_eq!(json["status"], "PENDING");
        assert_eq!(json["externalSource"]["externalId"], "gw");
        let request = serde_json::json!({"hostname": "host", "port": 22, "connectionKey": "k"});
        assert_eq!(json["c8y_RemoteAccessConnect"], request);
        platform.notify(Notifications::BeforeRows);
        let answer = tell(&mut platform, "s/us", "500");
        assert_eq!(answer.len(), 2);
        assert!(answer[0].starts_with("devicecontrol/notifications {"));
        assert!(answer[0].contains("offline") && !answer[0].contains("\"k\""));
        assert_eq!(answer[1].lines().count(), 2);
        assert_eq!(tell(&mut platform, "s/us", "500").len(), 1, "of all by now");
        assert_eq!(platform.redeliver(id).len(), 2);
        let both = [OperationId(1001), id];
        let payload = &platform.notifications_of(&both)[0].payload;
        assert_eq!(payload.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn keeps_services_and_what_updates_of_the_inventory_set() {
        let mut platform = platform();
        tell(&mut platform, "s/us", "102,gw_adit,service,adit,up");
        tell(&mut platform, "s/us/gw_adit", "104,down");
        let service = &platform.device("gw").unwrap().services["gw_adit"];
        assert_eq!((&*service.kind, &*service.name), ("service", "adit"));
        assert_eq!(service.history, ["up", "down"]);
        let topic = "inventory/managedObjects/update/gw";
        tell(
            &mut platform,
            topic,
            r#"{"a":{"old":1,"x":true},"b":"text"}"#,
        );
        tell(&mut platform, topic, r#"{"a":{"new":2}}"#);
        let fragments = &platform.device("gw").unwrap().fragments;
        let paths: Vec<_> = fragments
            .iter()
            .map(|(path, value)| format!("{path}={value}"))
            .collect();
        assert_eq!(paths, ["a.new=2", "b=text"]);
        assert!(platform.errors().is_empty());
        for (topic, row) in [
            ("s/us", "102"),
            (topic, "no json"),
            ("inventory/managedObjects/update/nobody", "{}"),
        ] {
            assert!(
                tell(&mut platform, topic, row)[0].starts_with("s/e 41,"),
                "{row}"
            );
        }
    }

    #[test]
    fn knows_what_single_rows_do_that_one_would_not_expect() {
        let mut platform = platform();
        let answer = tell(&mut platform, "s/us", "100,Gateway,adit_Gateway");
        assert_eq!(answer, ["s/e 41,100,Device already existing"]);
        assert!(platform.errors().is_empty(), "that is no fault");
        tell(&mut platform, "s/us", "117,10\n117,20\n150,SSH\n150");
        let gateway = platform.device("gw").unwrap();
        assert_eq!(gateway.required_minutes.as_deref(), Some("10"));
        assert!(gateway.protocols.is_empty());
        let (id, _) = create(&mut platform, "gw", "k");
        let row = Row::new(["510", "gw"]);
        let restart = platform
            .create_operation("gw", "c8y_Restart", row)
            .unwrap()
            .0;
        tell(
            &mut platform,
            "s/us",
            "501,c8y_RemoteAccessConnect\n501,c8y_Restart",
        );
        tell(&mut platform, "s/us", "507,,why");
        for id in [id, restart] {
            assert_eq!(platform.operation(id).unwrap().status(), Failed);
        }
        platform.forget_templates(&["150", "507"]);
        for row in ["150,SSH", "507,c8y_RemoteAccessConnect,why"] {
            let refused = format!("s/e 40,{},", &row[..3]);
            assert!(tell(&mut platform, "s/us", row)[0].starts_with(&refused));
        }
    }

    #[test]
    fn answers_500_with_all_pending_operations_oldest_first_in_one_publish() {
        let mut platform = platform();
        for (device, key) in [("gw", "a"), ("plc", "b"), ("gw", "c")] {
            create(&mut platform, device, key);
        }
        tell(&mut platform, "s/us", "501,c8y_RemoteAccessConnect");
        let answer = ["s/ds 530,plc,host,22,b\n530,gw,host,22,c"];
        assert_eq!(tell(&mut platform, "s/us", "500"), answer);
        assert_eq!(tell(&mut platform, "s/us", "500"), answer, "again");
        assert_eq!(
            tell(&mut platform, "s/us/plc", "500"),
            ["s/ds 530,plc,host,22,b"]
        );
        tell(&mut platform, "s/us", "501,c8y_RemoteAccessConnect");
        tell(&mut platform, "s/us/plc", "501,c8y_RemoteAccessConnect");
        assert!(tell(&mut platform, "s/us", "500").is_empty());
    }

    #[test]
    fn splits_an_answer_that_no_packet_holds() {
        let mut platform = platform();
        for n in 0..1000 {
            create(&mut platform, "gw", &format!("key-{n}"));
        }
        let answers = tell(&mut platform, "s/us", "500");
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| answer.len() < MAX_PAYLOAD + 10));
        assert_eq!(
            answers
                .iter()
                .map(|answer| answer.lines().count())
                .sum::<usize>(),
            1000
        );
    }

    #[test]
    fn delivers_nothing_before_the_device_was_heard_or_while_it_is_offline() {
        let mut platform = platform();
        assert_eq!(create(&mut platform, "gw", "a").1, 0, "not heard yet");
        tell(&mut platform, "s/us", "100,Gateway,adit_Gateway");
        assert_eq!(create(&mut platform, "gw", "b").1, 1, "heard");
        platform.set_live_delivery(false);
        assert_eq!(create(&mut platform, "gw", "c").1, 0, "offline");
        platform.set_live_delivery(true);
        let (id, count) = create(&mut platform, "plc", "d");
        assert_eq!((count, platform.redeliver(id).len()), (1, 1));
        assert_eq!(platform.operation(id).unwrap().deliveries, 2);
    }

    #[test]
    fn keeps_what_a_device_announces() {
        let mut platform = Platform::new("gw", true);
        tell(&mut platform, "s/us", "114,c8y_Restart");
        assert!(
            platform.device("gw").is_none(),
            "lost until the device exists"
        );
        tell(
            &mut platform,
            "s/us",
            "100,\"Gateway, left\",adit_Gateway\n114,a,b\n117,10\n150,SSH,VNC",
        );
        tell(
            &mut platform,
            "s/us",
            "122,adit,1.0,https://example.com,us\n100,Other,other\n114,c",
        );
        tell(&mut platform, "s/us", "101,plc,PLC,plc");
        tell(&mut platform, "s/us/plc", "400,c8y_Opened,to here");
        let gateway = platform.device("gw").unwrap();
        assert_eq!(gateway.name, "Gateway, left");
        assert_eq!(gateway.supported_operations, ["c"]);
        assert_eq!(gateway.required_minutes.as_deref(), Some("10"));
        assert_eq!(gateway.agent[..2], ["adit", "1.0"]);
        assert_eq!(gateway.protocols, ["SSH", "VNC"]);
        assert_eq!(
            platform.device("plc").unwrap().parent.as_deref(),
            Some("gw")
        );
        let event = &platform.events()[0];
        assert_eq!(
            (&*event.device, &*event.kind, &*event.text),
            ("plc", "c8y_Opened", "to here")
        );
        assert!(platform.errors().is_empty());
    }

    #[test]
    fn creates_the_device_with_114_where_early_rows_are_kept() {
        let mut platform = Platform::new("gw", false);
        tell(&mut platform, "s/us", "114,c8y_Restart");
        assert_eq!(
            platform.device("gw").unwrap().supported_operations,
            ["c8y_Restart"]
        );
    }

    #[test]
    fn complains_about_what_it_cannot_apply() {
        for (topic, row, complaint) in [
            ("s/us", "999,x", "there is no static template '999'"),
            ("s/us", "", "there is no static template ''"),
            ("s/us", "101", "the child id is missing"),
            ("s/us/nobody", "400,a,b", "there is no device nobody"),
            ("s/us", "503,X", "no X of gw is Executing"),
        ] {
            let mut platform = platform();
            let answers = tell(&mut platform, topic, row);
            assert_eq!(platform.errors()[0].message, complaint, "{row}");
            assert!(answers[0].starts_with("s/e 41,"), "{answers:?}");
        }
    }

    #[test]
    fn only_records_what_the_other_topics_carry() {
        let mut platform = platform();
        assert!(tell(&mut platform, "s/ucr", "").is_empty());
        let log: Vec<_> = platform.log().iter().map(|record| &*record.topic).collect();
        assert_eq!(log, ["s/ucr"]);
        assert!(platform.errors().is_empty());
    }

    const TEMPLATES: &str = "11,9,,c8y_RemoteAccessConnect,id,\
        c8y_RemoteAccessConnect.hostname,c8y_RemoteAccessConnect.port,\
        c8y_RemoteAccessConnect.connectionKey\n\
        10,8,PUT,INVENTORY,false,false,c8y_Serial,a.number,UNSIGNED,,a.fixed,STRING,x,a.text,,";

    #[test]
    fn creates_a_collection_once_and_says_so() {
        let mut platform = platform();
        assert_eq!(tell(&mut platform, "s/ut/mine", ""), ["s/dt 41,mine"]);
        assert!(tell(&mut platform, "s/ut/mine", TEMPLATES).is_empty());
        assert_eq!(tell(&mut platform, "s/ut/mine", ""), ["s/dt 20,mine,8001"]);
        assert!(tell(&mut platform, "s/ut/mine", TEMPLATES)[0].starts_with("s/e 41,"));
        platform.delete_collection("mine");
        assert_eq!(tell(&mut platform, "s/ut/mine", ""), ["s/dt 41,mine"]);
    }

    #[test]
    fn never_answers_for_collections_that_it_does_not_offer() {
        let mut platform = platform();
        platform.offer_collections(false);
        for payload in ["", TEMPLATES, ""] {
            assert!(tell(&mut platform, "s/ut/mine", payload).is_empty());
        }
        create(&mut platform, "gw", "k");
        assert_eq!(
            tell(&mut platform, "s/us", "500"),
            ["s/ds 530,gw,host,22,k"]
        );
    }

    #[test]
    fn delivers_operations_in_the_templates_of_a_collection_too() {
        let mut platform = platform();
        tell(&mut platform, "s/ut/mine", TEMPLATES);
        create(&mut platform, "gw", "k");
        let row = Row::new(["530", "plc", "host"]);
        platform.create_operation("plc", REMOTE_ACCESS, row);
        let row = Row::new(["510", "gw"]);
        platform.create_operation("gw", "c8y_Restart", row);
        assert_eq!(
            tell(&mut platform, "s/us", "500"),
            [
                "s/ds 530,gw,host,22,k\n530,plc,host\n510,gw",
                "s/dc/mine 9,gw,1001,host,22,k\n9,plc,1002,host,,",
            ]
        );
        tell(&mut platform, "s/us", "504,1002\n505,1002,why");
        assert_eq!(platform.operations()[1].status(), Failed);
    }

    #[test]
    fn delivers_no_operation_in_a_collection_that_the_device_never_used() {
        let mut platform = platform();
        tell(&mut platform, "s/ut/mine", TEMPLATES);
        platform.used_collections.clear();
        create(&mut platform, "gw", "k");
        assert_eq!(tell(&mut platform, "s/us", "500").len(), 1);
        tell(&mut platform, "s/ut/mine", "");
        assert_eq!(tell(&mut platform, "s/us", "500").len(), 2);
    }

    #[test]
    fn sets_a_fragment_by_the_template_of_a_collection() {
        let mut platform = platform();
        tell(&mut platform, "s/ut/mine", TEMPLATES);
        tell(&mut platform, "s/uc/mine", "8,gw,1,\"a, b\"\n8,plc,2");
        tell(&mut platform, "s/uc/mine", "8,gw,3,c");
        let fragments = |id: &str| {
            let fragments = &platform.device(id).unwrap().fragments;
            let texts = fragments
                .iter()
                .map(|(path, value)| format!("{path}={value}"));
            texts.collect::<Vec<_>>()
        };
        assert_eq!(fragments("gw"), ["a.fixed=x", "a.number=3", "a.text=c"]);
        assert_eq!(fragments("plc"), ["a.fixed=x", "a.number=2", "a.text="]);
        assert!(platform.errors().is_empty());
    }

    #[test]
    fn complains_about_rows_that_no_collection_explains() {
        for (topic, row, complaint) in [
            ("s/uc/other", "8,gw,1,a", "there is no collection other"),
            ("s/uc/mine", "7,gw,1,a", "there is no template '7'"),
            ("s/uc/mine", "8,nobody,1,a", "there is no device nobody"),
            ("s/uc/mine", "8,,1,a", "the external id is missing"),
            ("s/uc/mine", "8,gw,-1,a", "'-1' is no number for a.number"),
            ("s/ut/new", "12,x", "'12' is no kind of template"),
            ("s/ut/new", "10", "a template without a message id"),
            (
                "s/ut/new",
                "10,8,POST,INVENTORY,,c8y_Serial",
                "only PUT,INVENTORY by c8y_Serial is known here",
            ),
        ] {
            let mut platform = platform();
            tell(&mut platform, "s/ut/mine", TEMPLATES);
            assert!(tell(&mut platform, topic, row)[0].starts_with("s/e 41,"));
            assert_eq!(platform.errors()[0].message, complaint, "{row}");
        }
    }

    #[test]
    fn gives_out_a_token_when_it_is_asked() {
        let mut platform = platform();
        let answers = tell(&mut platform, "s/uat", "");
        let token = answers[0].strip_prefix("s/dat 71,").unwrap().to_owned();
        assert!(platform.is_token_good(&token));
        platform.revoke_tokens();
        assert!(!platform.is_token_good(&token));
        for (answer, said) in [
            (TokenAnswer::Silence, 0),
            (TokenAnswer::Text("rubbish".into()), 1),
            (TokenAnswer::Refused(Duration::from_secs(60)), 1),
            (TokenAnswer::Good(Duration::ZERO), 1),
            (
                TokenAnswer::NoCertificate {
                    among_errors: false,
                },
                1,
            ),
            (TokenAnswer::NoCertificate { among_errors: true }, 1),
        ] {
            platform.answer_token_requests(answer);
            let answers = tell(&mut platform, "s/uat", "");
            assert_eq!(answers.len(), said);
            let good = |answer: &String| platform.is_token_good(&answer["s/dat 71,".len()..]);
            assert!(!answers.iter().any(good));
        }
        let refusal = tell(&mut platform, "s/uat", "").remove(0);
        assert!(refusal.starts_with("s/e 41,,MqttAuth: Cannot publish token"));
        let body = platform.certified_token().unwrap().unwrap();
        let token = body.split('"').nth(3).unwrap();
        assert!(platform.is_token_good(token));
        platform.answer_certified_requests(Err(401));
        assert_eq!(platform.certified_token(), Some(Err(401)));
        platform.answer_certified_requests(Ok(TokenAnswer::Silence));
        assert_eq!(platform.certified_token(), None);
    }

    #[test]
    fn gives_out_credentials_once_the_registration_is_accepted() {
        let mut platform = platform();
        assert!(tell(&mut platform, "s/ucr", "").is_empty());
        platform.accept_registration(Login::new("t1", "device_gw", "secret"));
        assert_eq!(
            tell(&mut platform, "s/ucr", ""),
            ["s/dcr 70,t1,device_gw,secret"]
        );
    }

    #[test]
    fn shows_no_connection_key() {
        let mut platform = platform();
        let (id, _) = create(&mut platform, "gw", "hunter2");
        let delivery = platform.redeliver(id);
        let operation = platform.operation(id).unwrap();
        assert_eq!(operation.key().unwrap().expose(), "hunter2");
        let shown = format!("{platform:?}{operation:?}{:?}{delivery:?}", operation.key());
        assert!(!shown.contains("hunter2"));
    }
}
