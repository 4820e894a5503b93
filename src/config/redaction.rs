//! The configuration as somebody else may read it, and the secrets that must not be found there.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::keys::{self, Fallback, KEYS, Key};
use super::sections::{ISSUED_CERTIFICATE, OWN_KEY};
use super::shape::Shape;
use super::sources::{self, Content, DEFAULT_FILE, Sources};
use super::values;
use crate::auth::{credentials_file, one_time_password};
use crate::files::FileContent;
use crate::net::identity::Files;
use crate::password;
use crate::secret::Secret;

/// Stands for a secret.
pub(crate) const HIDDEN: &str = "<set>";
/// Variables that may name a proxy, with its password.
const PROXIES: [&str; 6] = [
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "all_proxy",
    "ALL_PROXY",
    // Not used, but somebody may have set it.
    "HTTP_PROXY",
];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Characters of a line of a private key that are no accident.
const KEY_LINE: usize = 16;

/// A secret, and where it stands.
#[derive(Clone, Debug)]
pub struct Known {
    /// As `auth.password`; nothing of the secret.
    pub place: String,
    /// The secret itself, or a part of it that is one.
    pub secret: Secret,
}

impl Known {
    /// Names a secret that somebody else has chosen.
    pub fn new(place: &str, secret: Secret) -> Self {
        Self {
            place: place.to_owned(),
            secret,
        }
    }
}

/// What can be said of a configuration, good or bad.
#[derive(Debug)]
pub struct Redacted {
    /// Each key that is set, with its value and its place, a line each.
    pub text: String,
    /// The device id, if one is set.
    pub device: Option<String>,
    /// All secrets that it names, also those that something else wins over.
    pub secrets: Vec<Known>,
}

/// Reads a configuration for others to read. It need not be one that can be used.
pub fn redacted(sources: &Sources<'_>) -> Redacted {
    let gathered = sources::gather(sources);
    let given = |key: &'static Key| Some((key, gathered.values.get(&key.full_name())?));
    let set: Vec<_> = KEYS.iter().filter_map(given).collect();
    let mut lines: Vec<_> = set
        .iter()
        .map(|(key, given)| {
            let name = key.full_name();
            let value = shown(&given.content, key.shape);
            format!("{name} = {value}    # {}", given.place)
        })
        .collect();
    for (name, text) in variables(&sources.environment, |name| PROXIES.contains(&name)) {
        lines.push(format!("{name} = {}", shown_text(text, Shape::Url)));
    }
    for (name, text) in variables(&sources.environment, |name| EXCEPTIONS.contains(&name)) {
        lines.push(format!("{name} = {text:?}"));
    }
    let device = set.iter().find(|(key, _)| key.full_name() == "device.id");
    let device = device.and_then(|(_, given)| texts(&given.content).first().cloned());
    Redacted {
        text: lines.join("\n") + "\n",
        device,
        secrets: secrets(sources),
    }
}

fn shown(content: &Content, shape: Shape) -> String {
    match content {
        _ if shape == Shape::Secret => HIDDEN.to_owned(),
        Content::Written(text) | Content::Text(text) => shown_text(text, shape),
        Content::Number(number) => number.clone(),
        Content::Switch(switch) => switch.to_string(),
        Content::List(items) => {
            let items = items.iter().map(|item| shown(&item.content, shape));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Content::Other(words) => format!("({words})"),
    }
}

fn shown_text(text: &str, shape: Shape) -> String {
    if shape != Shape::Url || !text.contains('@') {
        return format!("{text:?}");
    }
    // Where a password ends is hard to tell in a URL that is not well formed.
    match values::any_proxy(text, Some(0)) {
        Ok(proxy) => format!("\"{HIDDEN}@{}\"", proxy.server),
        Err(_) => HIDDEN.to_owned(),
    }
}

/// The texts of a value.
fn texts(content: &Content) -> Vec<String> {
    match content {
        Content::Written(text) | Content::Text(text) | Content::Number(text) => vec![text.clone()],
        Content::List(items) => items.iter().flat_map(|item| texts(&item.content)).collect(),
        Content::Switch(_) | Content::Other(_) => Vec::new(),
    }
}

/// The variables of these names that say something.
fn variables<'a>(
    environment: &'a [(OsString, OsString)],
    is_wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = environment.iter();
    let legible = all.filter_map(|(name, text)| Some((name.to_str()?, text.to_str()?)));
    legible.filter(move |(name, text)| is_wanted(name) && !text.is_empty())
}

/// All secrets of all sources, whichever wins.
fn secrets(sources: &Sources<'_>) -> Vec<Known> {
    let file = sources::gather(&Sources {
        file: sources.file.clone(),
        settings: Vec::new(),
        environment: Vec::new(),
        host_name: None,
        now: sources.now,
        read: sources.read,
    });
    let mut found = Finder {
        read: sources.read,
        known: Vec::new(),
    };
    for key in KEYS {
        let (name, variable) = (key.full_name(), key.variable());
        if let Some(given) = file.values.get(&name) {
            texts(&given.content)
                .iter()
                .for_each(|text| found.value(key, text));
        }
        for (_, text) in variables(&sources.environment, |found| found == variable) {
            found.value(key, text);
        }
        // Refused there, and on the command line all the same.
        let settings = sources.settings.iter();
        let settings = settings.filter_map(|setting| setting.split_once('='));
        for (_, text) in settings.filter(|(key, _)| *key == name) {
            found.value(key, text);
        }
        if let Fallback::Value(default) = key.default {
            found.value(key, default);
        }
    }
    found.value(&keys::AUTH_CERT_FILE.key, ISSUED_CERTIFICATE);
    found.value(&keys::AUTH_KEY_FILE.key, OWN_KEY);
    for (name, text) in variables(&sources.environment, |name| PROXIES.contains(&name)) {
        found.url(name, text);
    }
    if file.incomplete {
        found.lines(sources.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)));
    }
    found.known
}

/// Finds what is secret in values, and in the files that they name.
struct Finder<'a> {
    read: &'a dyn Fn(&Path) -> io::Result<FileContent>,
    known: Vec<Known>,
}

impl Finder<'_> {
    fn value(&mut self, key: &Key, text: &str) {
        let place = key.full_name();
        match (key.shape, key.name) {
            (Shape::Secret, _) => self.add(&place, text),
            (Shape::Url, _) => self.url(&place, text),
            (_, "token_file") => self.file(&place, text),
            (_, name) if name.ends_with("password_file") => self.file(&place, text),
            (_, "cert_file") => {
                let files = Files {
                    certificate: text.into(),
                    key: PathBuf::new(),
                };
                let made = one_time_password::file(&files);
                self.file("the one-time password that adit has made", made);
            }
            (_, "credentials_file") => {
                let content = (self.read)(Path::new(text));
                let kept = content.ok().map(|it| credentials_file::parse(&it.bytes));
                if let Some(Ok(kept)) = kept {
                    self.add(&place, &kept.password);
                }
            }
            (_, "key_file") => self.private_key(&place, text),
            _ => {}
        }
    }

    fn add(&mut self, place: &str, secret: &str) {
        if !secret.is_empty() {
            self.known.push(Known::new(place, Secret::new(secret)));
        }
    }

    /// The password of a URL, as it stands there and as it is meant; all of a user if it is not clear.
    fn url(&mut self, place: &str, text: &str) {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let Some((user, _)) = rest.rsplit_once('@') else {
            return;
        };
        let password = user.split_once(':').map_or(user, |(_, password)| password);
        self.add(place, password);
        if let Ok(meant) = values::percent_decoded(password)
            && meant != password
        {
            self.add(place, &meant);
        }
    }

    fn file(&mut self, place: &str, path: impl AsRef<Path>) {
        let any = |text: &str| Ok(Secret::new(text));
        let content = (self.read)(path.as_ref());
        let content = content
            .ok()
            .map(|it| password::parse_content(it.bytes, any));
        if let Some(Ok(secret)) = content {
            self.add(place, secret.expose());
        }
    }

    fn private_key(&mut self, place: &str, path: &str) {
        let Ok(content) = (self.read)(Path::new(path)) else {
            return;
        };
        let text = String::from_utf8_lossy(&content.bytes);
        // A file may hold certificates too, which everybody may see.
        let keys = text.split("PRIVATE KEY-----").skip(1).step_by(2);
        let lines = keys.flat_map(|key| key.lines());
        for line in lines.filter(|line| line.len() >= KEY_LINE && !line.contains('-')) {
            self.add(place, line.trim());
        }
    }

    /// The secrets of a file that is no TOML, as far as lines look as if they were.
    fn lines(&mut self, file: &Path) {
        let Ok(content) = (self.read)(file) else {
            return;
        };
        let text = String::from_utf8_lossy(&content.bytes).into_owned();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let is_secret = |key: &&Key| key.shape == Shape::Secret && key.name == name.trim();
            if let Some(key) = KEYS.iter().find(is_secret) {
                let quoted = value.split(['"', '\'']).nth(1);
                self.add(&key.full_name(), quoted.unwrap_or(value).trim());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn redacted_of(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Redacted {
        let environment = environment.iter();
        redacted(&Sources {
            file: Some("adit.toml".into()),
            settings: vec!["auth.password=on-the-line".to_owned()],
            environment: environment.map(|(n, v)| (n.into(), v.into())).collect(),
            host_name: None,
            now: SystemTime::UNIX_EPOCH,
            read: &|path| {
                let found = files.iter().find(|(name, _)| path.to_str() == Some(name));
                let (_, text) = found.ok_or(io::ErrorKind::NotFound)?;
                Ok(FileContent {
                    bytes: text.as_bytes().to_vec(),
                    world_readable: false,
                })
            },
        })
    }

    fn found(redacted: &Redacted) -> Vec<(&str, &str)> {
        let secrets = redacted.secrets.iter();
        secrets
            .map(|known| (known.place.as_str(), known.secret.expose()))
            .collect()
    }

    #[test]
    fn shows_every_value_but_secrets_and_knows_those_wherever_they_are() {
        let config = "\
            [device]\nid = \"gw-7\"\nchildren = [\"a\", \"b\"]\n\
            [cloud]\nproxy = \"http://u:p%2Fw-1@proxy:3128\"\n\
            [auth]\npassword = 4711\nkey_file = \"k.pem\"\ncert_file = \"c.pem\"\n\
            credentials_file = \"kept.toml\"\nbootstrap_password_file = \"b\"\n\
            [admin]\ntoken_file = \"token\"\nlisten = \"nonsense\"\n";
        let key = "-----BEGIN CERTIFICATE-----\nQ0VSVElGSUNBVEVfTElORQ\n\
                   -----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n\
                   TElORV9PTkVfT0ZfVEhFX0tFWQ\n-----END PRIVATE KEY-----\n";
        let kept = "tenant = \"t\"\nusername = \"u\"\npassword = \"kept-pw\"\n";
        let files = [
            ("adit.toml", config),
            ("k.pem", key),
            ("c.one-time-password", "pw-5-once"),
            ("kept.toml", kept),
            ("b", "pw-3-boot\r\n"),
            ("token", "\u{feff}pw-4-token"),
        ];
        let environment = [
            ("ADIT_AUTH_PASSWORD", "in-a-variable"),
            ("all_proxy", "w:pw-2@proxy"),
            ("no_proxy", "localhost"),
        ];
        let redacted = redacted_of(&files, &environment);
        for line in [
            "device.id = \"gw-7\"    # adit.toml, line 2, device.id\n",
            "device.children = [\"a\", \"b\"]    # ",
            "cloud.proxy = \"<set>@proxy:3128\"    # ",
            "auth.password = <set>    # ADIT_AUTH_PASSWORD\n",
            "auth.key_file = \"k.pem\"    # ",
            "admin.listen = \"nonsense\"    # ",
            "all_proxy = <set>\n",
            "no_proxy = \"localhost\"\n",
        ] {
            assert!(redacted.text.contains(line), "{line}\n{}", redacted.text);
        }
        assert_eq!(redacted.device.as_deref(), Some("gw-7"));
        let found = found(&redacted);
        for known in [
            ("cloud.proxy", "p%2Fw-1"),
            ("cloud.proxy", "p/w-1"),
            ("auth.password", "4711"),
            ("auth.password", "in-a-variable"),
            ("auth.password", "on-the-line"),
            ("auth.key_file", "TElORV9PTkVfT0ZfVEhFX0tFWQ"),
            ("the one-time password that adit has made", "pw-5-once"),
            ("auth.credentials_file", "kept-pw"),
            ("auth.bootstrap_password_file", "pw-3-boot"),
            ("admin.token_file", "pw-4-token"),
            ("all_proxy", "pw-2"),
        ] {
            assert!(found.contains(&known), "{known:?}\n{found:#?}");
            assert!(!redacted.text.contains(known.1), "{}", redacted.text);
        }
        assert_eq!(found.len(), 11, "{found:#?}");
    }

    #[test]
    fn knows_the_secrets_of_a_file_that_is_no_toml() {
        let config = "[auth]\npassword = \"first\" # x\none_time_password='second'\n[oops\n";
        let redacted = redacted_of(&[("adit.toml", config)], &[]);
        let found = found(&redacted);
        for known in [
            ("auth.one_time_password", "second"),
            // Of which section it is cannot be told.
            ("mqtt.password", "first"),
        ] {
            assert!(found.contains(&known), "{found:?}");
        }
    }
}
