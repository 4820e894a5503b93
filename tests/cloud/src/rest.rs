//! As much of the platform's REST API as an operator's client asks before it opens a tunnel:
//! log-in, the user's roles, the device by its external id, and what can be reached through it.
//!
//! What is answered is decided without I/O. The paths and fields are those that c8ylp reads.

use std::io;

use serde_json::{Value, json};

use crate::board::Board;
use crate::http::{Request, error_body, respond};
use crate::options::{Login, Options};
use crate::platform::{Device, Key};
use crate::stream::Stream;

const LOGIN_OPTIONS: &str = "/tenant/loginOptions";
const LOG_IN: &str = "/tenant/oauth";
const USER: &str = "/user/currentUser";
const IDENTITY: &str = "/identity/externalIds/c8y_Serial/";
const INVENTORY: &str = "/inventory/managedObjects/";
/// The one role that opens tunnels.
const ROLE: &str = "ROLE_REMOTE_ACCESS_ADMIN";
/// The cookies of a log-in, and the header that has to repeat the second one.
const AUTHORIZATION: &str = "authorization";
const XSRF: &str = "XSRF-TOKEN";
const XSRF_HEADER: &str = "x-xsrf-token";

/// What a log-in of the operator is given, the same for all.
pub(crate) struct OperatorSession {
    token: String,
    xsrf: String,
}

impl OperatorSession {
    pub(crate) fn new() -> Self {
        let random = || Key::random().expose().to_owned();
        Self {
            token: random(),
            xsrf: random(),
        }
    }

    /// Returns whether a request comes from the operator: by password, by token, or by the cookies of
    /// a log-in together with the header that another site's page could not send.
    pub(crate) fn admits(&self, request: &Request, login: &Login) -> bool {
        let by_token = request.bearer() == Some(&self.token);
        let by_cookie = request.cookie(AUTHORIZATION) == Some(&self.token)
            && request.cookie(XSRF) == Some(&self.xsrf)
            && request.header(XSRF_HEADER) == Some(&self.xsrf);
        by_token || by_cookie || request.is_from(login)
    }
}

/// An answer.
pub(crate) struct Answer {
    status: u16,
    cookies: Vec<String>,
    body: String,
}

impl Answer {
    fn good(body: &Value) -> Self {
        Self {
            status: 200,
            cookies: Vec::new(),
            body: body.to_string(),
        }
    }

    fn refusal(status: u16) -> Self {
        Self {
            status,
            cookies: Vec::new(),
            body: error_body(status),
        }
    }
}

impl Answer {
    /// Sends it, and ends the connection.
    pub(crate) async fn send(&self, stream: &mut Stream) -> io::Result<()> {
        let cookies = self.cookies.iter();
        let cookies: String = cookies
            .map(|cookie| format!("Set-Cookie: {cookie}\r\n"))
            .collect();
        respond(stream, self.status, &cookies, &self.body).await
    }
}

/// Returns whether a request is answered here.
pub(crate) fn is_for(request: &Request) -> bool {
    let path = path(request);
    [LOGIN_OPTIONS, LOG_IN, USER].contains(&path)
        || path.starts_with(IDENTITY)
        || path.starts_with(INVENTORY)
}

/// Answers a request; `body` is that of a log-in.
pub(crate) fn answer(
    request: &Request,
    body: &[u8],
    options: &Options,
    session: &OperatorSession,
    board: &Board,
) -> Answer {
    let login = &options.operator_login;
    match (request.method.as_str(), path(request)) {
        ("GET", LOGIN_OPTIONS) => Answer::good(&login_options(request, login)),
        ("POST", LOG_IN) => log_in(body, login, session),
        _ if !session.admits(request, login) => Answer::refusal(401),
        ("GET", USER) => Answer::good(&json!({
            "id": login.user,
            "userName": login.user,
            "effectiveRoles": [{ "id": ROLE, "name": ROLE }],
        })),
        ("GET", path) => {
            object(path, board).map_or_else(|| Answer::refusal(404), |found| Answer::good(&found))
        }
        _ => Answer::refusal(404),
    }
}

/// Without the query.
fn path(request: &Request) -> &str {
    let path = request.path.split_once('?');
    path.map_or(request.path.as_str(), |(path, _)| path)
}

fn login_options(request: &Request, login: &Login) -> Value {
    let host = request.header("host").unwrap_or_default();
    json!({ "loginOptions": [{
        "type": "OAUTH2_INTERNAL",
        "grantType": "PASSWORD",
        "userManagementSource": "INTERNAL",
        "initRequest": format!("https://{host}{LOG_IN}?tenant_id={}", login.tenant),
    }] })
}

/// Takes user and password of a form, with or without the tenant before the user.
fn log_in(form: &[u8], login: &Login, session: &OperatorSession) -> Answer {
    let form = String::from_utf8_lossy(form);
    let field = |name: &str| {
        let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == name).then(|| decoded(&value.replace('+', " "))))
    };
    let user = field("username").unwrap_or_default();
    let is_known = user == login.user || user == format!("{}/{}", login.tenant, login.user);
    if !is_known || field("password").as_ref() != Some(&login.password) {
        return Answer::refusal(401);
    }
    let OperatorSession { token, xsrf } = session;
    Answer {
        status: 200,
        cookies: vec![
            format!("{AUTHORIZATION}={token}; Path=/; HttpOnly; Secure"),
            format!("{XSRF}={xsrf}; Path=/; Secure"),
        ],
        body: String::new(),
    }
}

/// Finds a device by its external id, or its managed object.
fn object(path: &str, board: &Board) -> Option<Value> {
    if let Some(id) = path.strip_prefix(IDENTITY) {
        let id = decoded(id);
        let object = board.look(|state| Some(state.platform.device(&id)?.object))?;
        return Some(json!({
            "externalId": id,
            "type": "c8y_Serial",
            "managedObject": { "id": object.to_string() },
        }));
    }
    let id = path.strip_prefix(INVENTORY)?;
    let device = board.look(|state| {
        let mut devices = state.platform.devices();
        devices
            .find(|device| device.object.to_string() == id)
            .cloned()
    })?;
    Some(managed_object(&device, board))
}

fn managed_object(device: &Device, board: &Board) -> Value {
    let reachable: Vec<_> = board
        .configurations(&device.id)
        .into_iter()
        .map(|(id, configuration)| {
            json!({
                "id": id.0.to_string(),
                "name": format!("{}:{}", configuration.host, configuration.port),
                "hostname": configuration.host,
                "port": configuration.port,
                "protocol": "PASSTHROUGH",
            })
        })
        .collect();
    json!({
        "id": device.object.to_string(),
        "name": device.name,
        "type": device.kind,
        "c8y_IsDevice": {},
        "c8y_SupportedOperations": device.supported_operations,
        "c8y_RemoteAccessList": reachable,
    })
}

/// Takes percent-encoding away; what is none is left as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let hex = behind.get(..2).filter(|_| first == b'%');
        let value = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(value.unwrap_or(first));
        rest = &behind[if value.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_percent_encoding_away() {
        for (text, plain) in [
            ("gateway-7", "gateway-7"),
            ("a%20b%2Fc", "a b/c"),
            ("50%", "50%"),
            ("%zz%4", "%zz%4"),
        ] {
            assert_eq!(decoded(text), plain);
        }
    }
}
