//! `adit diagnose`: one archive for a support ticket, of all that can be said without a secret.
//!
//! What cannot be had says why in its place; nothing but a secret that has got in, or the disk, keeps
//! the archive from being written. The running agent is asked, and not disturbed.

mod archive;
mod machine;
mod output;
mod secrets;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use crate::admin::client;
use crate::admin::settings::Settings;
use crate::auth::invitation::without_passwords;
use crate::check::report::Report;
use crate::cli::{self, Diagnose};
use crate::config::{self, Config, HIDDEN, Known, Redacted, Sources};
use crate::words::{date, sized, words};
use archive::File;

/// Stands for standard output in the place of a file.
const STANDARD_OUTPUT: &str = "-";
/// Characters of a device id in the name of the archive.
const NAME_LIMIT: usize = 40;

const KERNEL: [&str; 5] = [
    "/proc/sys/kernel/ostype",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/version",
    "/proc/sys/kernel/arch",
    "/etc/os-release",
];
const ROUTES: [&str; 2] = ["/proc/net/route", "/proc/net/ipv6_route"];
const RESOLVER: [&str; 3] = ["/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/hosts"];

/// The files of the archive in their order, and what each is; `README.txt` lists them.
const CONTENTS: [(&str, &str); 11] = [
    ("README.txt", "this"),
    (
        "configuration.txt",
        "the keys that are set, with their places, and what is wrong with them; secrets as <set>",
    ),
    (
        "check.txt",
        "the way to the cloud, hop by hop: adit check --no-login",
    ),
    ("check.json", "the same for programs"),
    (
        "status.json",
        "what the running agent does and has done: adit status --json",
    ),
    ("metrics.txt", "its metrics, as /metrics serves them"),
    ("log.txt", "the last lines that it has logged"),
    (
        "versions.txt",
        "adit (the command that wrote this), kernel and distribution",
    ),
    ("limits.txt", "limits of the command and of the agent"),
    ("routes.txt", "the routes of the kernel"),
    ("resolver.txt", "how names become addresses"),
];

/// What the running agent says, or why it says nothing.
pub(crate) struct Agent {
    status: Result<String, String>,
    inside: Result<client::Inside, String>,
}

/// Tries the way to the cloud as the agent goes it.
pub(crate) type Check<'a> = &'a dyn Fn(&Config) -> anyhow::Result<Report>;
/// Asks the running agent.
pub(crate) type Ask<'a> = &'a dyn Fn(&Settings) -> anyhow::Result<Agent>;

/// Writes the archive.
///
/// The exit code is 0 once the archive is written, and 1 if it is not.
pub(crate) fn run(
    sources: &Sources<'_>,
    diagnose: Diagnose,
    check: Check<'_>,
    ask: Ask<'_>,
) -> ExitCode {
    let Diagnose { output, force } = diagnose;
    let now = SystemTime::now();
    let redacted = config::redacted(sources);
    let name = name(&redacted, sources.host_name.as_deref(), now);
    let path = output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let is_standard = path == Path::new(STANDARD_OUTPUT);
    if is_standard && io::stdout().is_terminal() {
        return give_up("an archive is nothing for a terminal: redirect it, or name a file");
    }
    if !is_standard && !force && path.symlink_metadata().is_ok() {
        return give_up(&format!("{} is there: --force replaces it", path.display()));
    }
    for Known { place, .. } in secrets::too_short(&redacted.secrets) {
        say(&format!(
            "the secret of {place} is too short to be looked for in the archive; choose a longer one"
        ));
    }
    let (ordinary, secrets) = by_kind(&redacted, &name);
    for known in &ordinary {
        say(&format!(
            "the secret of {} is an ordinary word that is in every archive; choose another one",
            known.place
        ));
    }
    let files = collect(sources, &redacted, now, check, ask);
    let leaks = secrets::find(&files, &secrets, &ordinary);
    if !leaks.is_empty() {
        for secrets::Leak { file, secret } in leaks {
            say(&format!("{file} would hold a secret: {secret}"));
        }
        return give_up("nothing is written: change the secret, or what repeats it, and try again");
    }
    let content = archive::tar_gz(&name, &files, now);
    let written = match is_standard {
        true => io::stdout().write_all(&content),
        false => output::write(&path, &content, force),
    };
    if let Err(error) = written {
        return give_up(&format!(
            "cannot write {}: {}",
            path.display(),
            words(&error)
        ));
    }
    let size = sized(content.len() as u64);
    say(&format!(
        "{} files, {size}, without secrets; names of machines are in it",
        files.len()
    ));
    if !is_standard {
        // Whoever does not read it finds the file all the same.
        let _ = writeln!(io::stdout(), "{}", path.display());
    }
    ExitCode::SUCCESS
}

/// Returns the secrets that are words which adit says anyway (its own, those of the configuration, or a
/// name of the machine), and all others.
fn by_kind<'a>(redacted: &'a Redacted, name: &str) -> (Vec<&'a Known>, Vec<&'a Known>) {
    // Without it more is refused, and nothing leaks.
    let own = std::env::current_exe().and_then(fs::read);
    let own = own.unwrap_or_default();
    let public = [&own, redacted.text.as_bytes(), name.as_bytes()];
    let secrets = redacted.secrets.iter();
    secrets.partition(|known| secrets::is_ordinary(known, &public))
}

/// Names the archive, and the directory in it.
fn name(redacted: &Redacted, host_name: Option<&str>, now: SystemTime) -> String {
    let device = redacted.device.as_deref().or(host_name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let plain = |c: char| if is_plain(c) { c } else { '_' };
    let device: String = device.unwrap_or("unknown").chars().map(plain).collect();
    let device = device.get(..NAME_LIMIT).unwrap_or(&device);
    let time = date(now).replace(['-', ':'], "");
    format!("adit-diagnose-{device}-{time}")
}

fn collect(
    sources: &Sources<'_>,
    redacted: &Redacted,
    now: SystemTime,
    check: Check<'_>,
    ask: Ask<'_>,
) -> Vec<File> {
    let loaded = Config::load(sources);
    let mut files = Vec::with_capacity(CONTENTS.len());
    let mut add = |content: String| {
        let name = CONTENTS.get(files.len()).map_or("more.txt", |file| file.0);
        // The log repeats the link until a person has opened it. The command may know nothing of its
        // password: where the service is told of the files in variables, and once they are gone.
        let content = without_passwords(&content, HIDDEN).into_bytes();
        files.push(File { name, content });
    };
    add(readme(now));
    add(configuration(redacted, &loaded));
    say(
        "trying the way to the cloud, as adit check --no-login does; that may take a minute or two",
    );
    let report = match &loaded {
        Ok(config) => check(config),
        Err(faults) => Ok(crate::check::refused(&faults.to_string())),
    };
    let (text, json) = match &report {
        Ok(report) => (report.to_text(), report.to_json().unwrap_or_default()),
        Err(error) => {
            let error = format!("{error:#}");
            (not_there(&error), in_json(&error))
        }
    };
    add(text);
    add(json + "\n");
    say("asking the running agent");
    let agent = match config::admin(sources) {
        Ok((settings, _)) => ask(&settings),
        Err(faults) => Err(anyhow::anyhow!(
            "the configuration does not say where: {faults}"
        )),
    };
    let agent = agent.unwrap_or_else(|error| Agent {
        status: Err(format!("{error:#}")),
        inside: Err(format!("{error:#}")),
    });
    let status = agent.status.unwrap_or_else(|error| in_json(&error));
    let id = client::process_of(status.as_bytes());
    add(status);
    let (metrics, log) = match agent.inside {
        Ok(client::Inside { metrics, log }) => (metrics, log.join("\n") + "\n"),
        Err(error) => (not_there(&error), not_there(&error)),
    };
    add(metrics);
    add(log);
    add(cli::build() + "\n" + &machine::files(&KERNEL));
    add(machine::limits(id));
    add(machine::files(&ROUTES));
    add(machine::files(&RESOLVER));
    files
}

fn not_there(error: &str) -> String {
    format!("not there: {error}\n")
}

fn in_json(error: &str) -> String {
    serde_json::json!({ "error": error }).to_string()
}

impl Agent {
    /// Asks at one place for all.
    pub(crate) async fn ask(settings: &Settings) -> Self {
        let status = client::status_as_sent(settings).await;
        let inside = client::inside(settings).await;
        Self {
            status: status
                .map(|status| String::from_utf8_lossy(&status).into_owned())
                .map_err(|error| error.to_string()),
            inside: inside.map_err(|error| error.to_string()),
        }
    }
}

fn configuration(redacted: &Redacted, loaded: &Result<Config, config::Faults>) -> String {
    let mut text = redacted.text.clone();
    text += "\nAll other keys have their defaults.\n";
    let (title, lines) = match loaded {
        Ok(config) => ("warnings", config.warnings.join("\n")),
        Err(faults) => ("it cannot be used", faults.to_string()),
    };
    if !lines.is_empty() {
        text += &format!("\n{title}:\n{lines}\n");
    }
    text
}

fn readme(now: SystemTime) -> String {
    let mut text = format!(
        "What adit and its machine say of themselves, written by adit diagnose (version {}) at {}.\n\
         Where something could not be had, its file says why.\n\n",
        env!("CARGO_PKG_VERSION"),
        date(now)
    );
    for (name, about) in CONTENTS {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name:18} {about}");
    }
    text + "\nPasswords, tokens and keys that the configuration names are in none of these files: they \
            were looked\nfor before this was written, but for ordinary words and those of less than 4 \
            letters. Names and\naddresses of machines are. It is not compressed.\n"
}

/// Tells the person who waits.
fn say(words: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "{words}");
}

fn give_up(words: &str) -> ExitCode {
    say(words);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_the_archive_after_the_device_and_the_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_000_000);
        let named = |device: Option<&str>, host_name| {
            let redacted = Redacted {
                text: String::new(),
                device: device.map(str::to_owned),
                secrets: Vec::new(),
            };
            name(&redacted, host_name, now)
        };
        let time = "20261130T005320Z";
        for (device, host_name, name) in [
            (Some("gw-7"), Some("box"), "gw-7"),
            (None, Some("box"), "box"),
            (None, None, "unknown"),
            (Some("../Tür 7/x"), None, ".._T_r_7_x"),
        ] {
            let name = format!("adit-diagnose-{name}-{time}");
            assert_eq!(named(device, host_name), name);
        }
        assert!(named(Some(&"x".repeat(200)), None).len() < 80);
    }

    #[test]
    fn says_what_each_file_is() {
        let readme = readme(SystemTime::UNIX_EPOCH);
        for (name, about) in CONTENTS {
            assert!(readme.contains(&format!("{name:18} {about}\n")), "{readme}");
        }
        assert!(readme.lines().all(|line| line.chars().count() <= 120));
    }
}
