//! Asks the running agent: by its socket, or where it has none, by HTTP.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use smartrest::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tracing::Level;

use super::Checked;
use super::settings::Settings;
use super::socket;
use crate::inquiry::{self, RELOAD_LIMIT, UPGRADE_LIMIT};
use crate::secret::Secret;
use crate::state::Snapshot;
use crate::state::reloaded::Reloaded;
use crate::state::upgraded::Upgraded;
use crate::words::{legible, words};

/// How long the agent may take for a reload, its own limits included.
const RELOADED_LIMIT: Duration = RELOAD_LIMIT.saturating_add(Duration::from_secs(10));
/// How long it may take for an upgrade, its own limits included.
const UPGRADED_LIMIT: Duration = UPGRADE_LIMIT.saturating_add(Duration::from_secs(10));
/// How long it may take to say what it does, which it does at once unless it hangs.
const STATUS_LIMIT: Duration = inquiry::ANSWER_LIMIT.saturating_add(Duration::from_secs(5));
/// Bytes of what is shown of its health: the reason why it is not connected is shorter.
const HEALTH_LIMIT: usize = 1000;
/// Bytes of an answer: thousands of tunnels fit.
const ANSWER_LIMIT: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nobody is there.
    #[error("no adit runs: {0}")]
    NobodyRuns(String),
    /// Somebody is there, and does not answer.
    #[error("{0}")]
    NoAnswer(String),
    /// It runs, and there is no place where it tells more than its health.
    #[error("{words}")]
    OnlyHealth {
        /// What it says, and why no more.
        words: String,
        /// Whether it is connected.
        is_well: bool,
    },
}

impl Unanswered {
    /// Returns how a command that has asked in vain ends: 3 where no agent runs, 1 where it does not
    /// answer; what its health is where it tells that alone.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OnlyHealth { is_well: true, .. } => 0,
            Self::NoAnswer(_) | Self::OnlyHealth { .. } => 1,
            Self::NobodyRuns(_) => 3,
        })
    }
}

/// What an agent says that cannot answer.
#[derive(Deserialize)]
struct Complaint {
    error: String,
}

/// What only whoever looks for a fault is interested in.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Inside {
    /// In OpenMetrics text.
    pub(crate) metrics: String,
    /// The last lines of the log, as they were logged.
    pub(crate) log: Vec<String>,
}

/// Asks what the agent does and has done.
///
/// # Errors
/// Nobody runs, or does not answer.
pub(crate) async fn status(settings: &Settings) -> Result<Snapshot, Unanswered> {
    read(&status_as_sent(settings).await?)
}

/// Asks for more of the agent than its status. It tells that at its socket alone.
///
/// # Errors
/// Nobody runs, or does not answer.
pub(crate) async fn inside(settings: &Settings) -> Result<Inside, Unanswered> {
    read(&ask_at_socket(settings, socket::INSIDE, STATUS_LIMIT).await?)
}

/// Has the agent try the way to the cloud itself.
///
/// # Errors
/// Nobody runs, or does not answer.
pub(crate) async fn check(
    settings: &Settings,
    target: Option<&Target>,
) -> Result<Checked, Unanswered> {
    let question = match target {
        Some(target) => format!("{} {target}", socket::CHECK),
        None => socket::CHECK.to_owned(),
    };
    read(&ask_at_socket(settings, &question, RELOADED_LIMIT).await?)
}

/// Asks what the agent tells at its socket alone. Like all that asks, it is boxed, so that it is compiled
/// once and not into each command.
fn ask_at_socket<'a>(
    settings: &'a Settings,
    question: &'a str,
    limit: Duration,
) -> BoxFuture<'a, Result<Vec<u8>, Unanswered>> {
    Box::pin(async move {
        let Some(path) = &settings.socket else {
            let words = "admin.socket is none, and only there it tells that";
            return Err(Unanswered::NoAnswer(words.to_owned()));
        };
        let answer = ask_socket(path, question, limit).await;
        answer.map_err(|error| unanswered(&path.display(), &error))
    })
}

/// Asks what the agent does and has done, and returns its JSON.
///
/// # Errors
/// Nobody runs, or does not answer.
pub(crate) fn status_as_sent(settings: &Settings) -> BoxFuture<'_, Result<Vec<u8>, Unanswered>> {
    Box::pin(async move {
        let by_socket = match &settings.socket {
            Some(path) => Some((path, ask_socket(path, socket::STATUS, STATUS_LIMIT).await)),
            None => None,
        };
        match (by_socket, settings.listen) {
            (Some((_, Ok(answer))), _) => Ok(answer),
            // Where nobody runs, anybody may listen at the port, and would be shown the token.
            (Some((_, Err(error))), Some(listen))
                if is_nobody(&error) && settings.token.is_none() =>
            {
                ask_port(listen, settings).await
            }
            (Some((path, Err(error))), Some(listen)) if is_nobody(&error) => {
                let health = health(listen, path, &error).await;
                Err(health.unwrap_or_else(|| unanswered(&path.display(), &error)))
            }
            (Some((path, Err(error))), _) => Err(unanswered(&path.display(), &error)),
            (None, Some(listen)) => ask_port(listen, settings).await,
            (None, None) => {
                let words = "neither admin.socket nor admin.listen is set, so it cannot be asked";
                Err(Unanswered::NobodyRuns(words.to_owned()))
            }
        }
    })
}

/// Returns the process of the agent that sent its status.
pub(crate) fn process_of(status: &[u8]) -> Option<u32> {
    let snapshot: Snapshot = read(status).ok()?;
    Some(snapshot.agent.process_id)
}

/// Has the agent read its configuration again. It listens to this at its socket alone, where nobody
/// else can ask.
///
/// # Errors
/// Nobody runs, or does not answer.
pub(crate) async fn reload(
    settings: &Settings,
    log_level: Option<Level>,
) -> Result<Reloaded, Unanswered> {
    let Some(path) = &settings.socket else {
        let words = "admin.socket is none, so it can only be told by a signal: kill -HUP";
        return Err(Unanswered::NoAnswer(words.to_owned()));
    };
    let level = log_level.map_or_else(String::new, |level| format!(" {level}"));
    let question = format!("{}{level}", socket::RELOAD);
    let answer = ask_socket(path, &question, RELOADED_LIMIT).await;
    read(&answer.map_err(|error| unanswered(&path.display(), &error))?)
}

/// Has the program started again in the place of the agent. It listens to this at its socket alone.
///
/// # Errors
/// Nobody runs, or does not answer.
pub(crate) async fn upgrade(settings: &Settings) -> Result<Upgraded, Unanswered> {
    let Some(path) = &settings.socket else {
        let words = "admin.socket is none, so it can only be told by a signal: kill -USR2";
        return Err(Unanswered::NoAnswer(words.to_owned()));
    };
    let answer = ask_socket(path, socket::UPGRADE, UPGRADED_LIMIT).await;
    read(&answer.map_err(|error| unanswered(&path.display(), &error))?)
}

/// Asks by the socket; the answer is one line of JSON.
fn ask_socket<'a>(
    path: &'a Path,
    question: &'a str,
    limit: Duration,
) -> BoxFuture<'a, io::Result<Vec<u8>>> {
    let asking = async move {
        let stream = UnixStream::connect(path).await?;
        exchange(stream, format!("{question}\n").as_bytes()).await
    };
    Box::pin(within(limit, asking))
}

async fn ask_port(listen: SocketAddr, settings: &Settings) -> Result<Vec<u8>, Unanswered> {
    let address = reached_by(listen);
    let answer = ask_http(address, super::STATUS_PATH, settings.token.as_ref()).await;
    let answer = answer.map_err(|error| unanswered(&address, &error))?;
    let strange = || Unanswered::NoAnswer(format!("what listens at {address} is no adit"));
    let (status, body) = taken_apart(&answer).ok_or_else(strange)?;
    match status {
        "200" => Ok(body.to_owned()),
        "401" => Err(Unanswered::NoAnswer(format!(
            "adit at {address} wants another token than that of admin.token_file; was the file \
             changed since adit was started?"
        ))),
        _ => Err(strange()),
    }
}

/// Asks for what everybody is told, where nobody is at the socket: adit may run without it, and whoever
/// listens is shown no token. `None` where nobody is at the port either, or no adit.
async fn health(listen: SocketAddr, socket: &Path, missing: &io::Error) -> Option<Unanswered> {
    let address = reached_by(listen);
    let answer = ask_http(address, super::HEALTH_PATH, None).await.ok()?;
    let (status, body) = taken_apart(&answer)?;
    let is_well = match status {
        "200" if body == super::HEALTHY.as_bytes() => true,
        "503" => false,
        _ => return None,
    };
    let mut said = legible(String::from_utf8_lossy(body).trim());
    said.truncate(said.floor_char_boundary(HEALTH_LIMIT));
    let (socket, missing) = (socket.display(), words(missing));
    let words = format!(
        "adit runs and says {said:?} at {address}, but nobody answers at its socket {socket} ({missing}), \
         and only there is its status told without showing the token: the log of adit says why it made \
         no socket; have its directory made, writable for the user that adit runs as"
    );
    Some(Unanswered::OnlyHealth { words, is_well })
}

fn ask_http<'a>(
    address: SocketAddr,
    path: &'a str,
    token: Option<&'a Secret>,
) -> BoxFuture<'a, io::Result<Vec<u8>>> {
    let asking = async move {
        let authorization = match token {
            Some(token) => format!("Authorization: Bearer {}\r\n", token.expose()),
            None => String::new(),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\r\n"
        );
        let stream = TcpStream::connect(address).await?;
        exchange(stream, request.as_bytes()).await
    };
    Box::pin(within(STATUS_LIMIT, asking))
}

/// The status of an answer and its body, if it is one.
fn taken_apart(answer: &[u8]) -> Option<(&str, &[u8])> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|bytes| bytes == END)?;
    let (head, rest) = answer.split_at(end);
    let status = str::from_utf8(head).ok()?.split(' ').nth(1)?;
    Some((status, rest.strip_prefix(END)?))
}

/// Returns the address by which a command on the same machine reaches what listens at another.
fn reached_by(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &[u8],
) -> io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn within<T>(limit: Duration, asking: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let silent = || io::Error::new(ErrorKind::TimedOut, "it does not answer");
    timeout(limit, asking)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

fn unanswered(place: &dyn std::fmt::Display, error: &io::Error) -> Unanswered {
    let said = words(error);
    if is_nobody(error) {
        return Unanswered::NobodyRuns(format!("nobody answers at {place} ({said})"));
    }
    Unanswered::NoAnswer(match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("{place}: {said}; the socket is for the user that adit runs as, and for root")
        }
        _ => format!("{place}: {said}"),
    })
}

fn read<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Unanswered> {
    if let Ok(Complaint { error }) = serde_json::from_slice(answer) {
        return Err(Unanswered::NoAnswer(legible(&error)));
    }
    serde_json::from_slice(answer).map_err(|_| {
        let words = match answer.is_empty() {
            true => "it has ended, or was overloaded, before it had answered",
            false => "the answer makes no sense; is the running adit of another version?",
        };
        Unanswered::NoAnswer(words.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_no_answer_from_one_without_sense() {
        for (answer, words) in [
            (
                "",
                "it has ended, or was overloaded, before it had answered",
            ),
            (
                "{",
                "the answer makes no sense; is the running adit of another version?",
            ),
            (r#"{"error":"it \u001b[31mhangs\u0007"}"#, "it [31mhangs"),
        ] {
            let error = read::<Upgraded>(answer.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn reaches_what_listens_everywhere_at_its_own_machine() {
        for (listen, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.7:1", "10.0.0.7:1"),
        ] {
            let reached: SocketAddr = reached.parse().unwrap();
            assert_eq!(reached_by(listen.parse().unwrap()), reached);
        }
    }

    #[tokio::test]
    async fn says_that_nobody_runs() {
        let settings = Settings {
            socket: Some("/nowhere/adit.sock".into()),
            ..Settings::default()
        };
        let error = status(&settings).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no adit runs: nobody answers at /nowhere/adit.sock (no such file or directory)"
        );
        let error = status(&Settings::default()).await.unwrap_err();
        assert!(matches!(error, Unanswered::NobodyRuns(_)));
    }

    /// Asks where nobody is at the socket, and whoever listens at the port says something; returns what
    /// he was asked.
    async fn asked_at_the_port(answer: &str) -> (Unanswered, String) {
        let somebody = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let somebody = somebody.await.unwrap();
        let settings = Settings {
            socket: Some("/nowhere/adit.sock".into()),
            listen: Some(somebody.local_addr().unwrap()),
            token: Some(Secret::new("a token of the page")),
            ..Settings::default()
        };
        let answering = async {
            let (mut stream, _) = somebody.accept().await.unwrap();
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                question.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(question).unwrap()
        };
        let both = async { tokio::join!(status(&settings), answering) };
        let (status, question) = timeout(STATUS_LIMIT, both).await.expect("asked");
        (status.unwrap_err(), question)
    }

    #[tokio::test]
    async fn shows_its_token_to_nobody_who_listens_at_the_port_while_no_adit_runs() {
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\nokay\n",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "220 smtp\r\n",
            "",
        ] {
            let (error, question) = asked_at_the_port(answer).await;
            assert!(matches!(error, Unanswered::NobodyRuns(_)), "{error}");
            assert!(question.starts_with("GET /healthz "), "{question}");
            assert!(!question.contains("Authorization"), "{question}");
            assert!(!question.contains("a token"), "{question}");
        }
    }

    #[tokio::test]
    async fn tells_the_health_of_an_adit_that_has_no_socket() {
        for (answer, is_connected, words) in [
            (
                "HTTP/1.1 200 OK\r\nA: b\r\n\r\nok\n",
                true,
                "says \"ok\" at 127.0.0.1:",
            ),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\nnot \u{1b}[2Jconnected\n",
                false,
                "says \"not [2Jconnected\" at 127.0.0.1:",
            ),
        ] {
            let (error, _) = asked_at_the_port(answer).await;
            let said = error.to_string();
            assert!(said.contains(words), "{said}");
            let why = "nobody answers at its socket /nowhere/adit.sock (no such file or directory)";
            assert!(said.contains(why), "{said}");
            let is_well = matches!(error, Unanswered::OnlyHealth { is_well: true, .. });
            assert_eq!(is_well, is_connected, "{said}");
        }
    }
}
