//! `adit reload`: has the running agent read its configuration again, and says what became of it.

use std::io::{self, Write};
use std::process::ExitCode;

use tracing::Level;

use crate::admin::Settings;
use crate::admin::client;
use crate::state::reloaded::Reloaded;
use crate::words::legible;

/// Exit code where the new configuration is bad.
const BAD_CONFIGURATION: u8 = 2;

/// Asks, and prints the answer.
pub(crate) async fn run(settings: &Settings, log_level: Option<Level>) -> ExitCode {
    let (words, code) = match client::reload(settings, log_level).await {
        Ok(reloaded) => {
            let code = match reloaded.faults.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(BAD_CONFIGURATION),
            };
            (text(&reloaded), code)
        }
        Err(error) => (format!("{error}\n"), error.exit_code()),
    };
    // Who asked may not want to read it.
    let _ = io::stdout().write_all(words.as_bytes());
    code
}

fn text(reloaded: &Reloaded) -> String {
    let mut lines = Vec::new();
    if !reloaded.faults.is_empty() {
        lines.push("nothing is changed:".to_owned());
        lines.extend(reloaded.faults.iter().map(|fault| legible(fault)));
    }
    for (words, keys) in [
        ("changed", &reloaded.changed),
        (
            "changed from the next login and tunnel on",
            &reloaded.at_next_login,
        ),
        ("needs a restart", &reloaded.needs_restart),
    ] {
        if !keys.is_empty() {
            lines.push(format!("{words}: {}", legible(&keys.join(", "))));
        }
    }
    if reloaded.other_roots {
        lines.push(
            "this machine trusts other certificates than before, and adit does from the next login and \
             tunnel on"
                .to_owned(),
        );
    }
    match reloaded.ended_tunnels {
        0 => {}
        1 => lines.push("1 tunnel is ended, which the policy denies now".to_owned()),
        count => lines.push(format!(
            "{count} tunnels are ended, which the policy denies now"
        )),
    }
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    let warnings = reloaded.warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {}", legible(warning))));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_what_became_of_the_new_configuration() {
        let text = |reloaded| super::text(&reloaded);
        assert_eq!(text(Reloaded::default()), "nothing has changed\n");
        let reloaded = Reloaded {
            changed: vec![
                "remote_access.deny".to_owned(),
                "device.children".to_owned(),
            ],
            at_next_login: vec!["cloud.proxy".to_owned()],
            needs_restart: vec!["mqtt.url".to_owned()],
            other_roots: true,
            ended_tunnels: 2,
            ..Reloaded::default()
        };
        assert_eq!(
            text(reloaded),
            "changed: remote_access.deny, device.children\n\
             changed from the next login and tunnel on: cloud.proxy\n\
             needs a restart: mqtt.url\n\
             this machine trusts other certificates than before, and adit does from the next login and \
             tunnel on\n\
             2 tunnels are ended, which the policy denies now\n"
        );
        let reloaded = Reloaded {
            faults: vec!["adit.toml, line 2: \x1bx".to_owned()],
            ..Reloaded::default()
        };
        assert_eq!(
            text(reloaded),
            "nothing is changed:\n\
             adit.toml, line 2: x\n"
        );
    }
}
