//! `adit enrol`: gets the gateway its credentials, and tells a person at a terminal what to do.
//!
//! How they are got is the same as for `adit run`, and so is the log; this is what stands on
//! standard output.

mod code;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use tracing::error;

use crate::auth::invitation::Invitation;
use crate::net::certificate::day;
use crate::net::identity::Identity;
use crate::words::legible;

/// Exit code where the configuration names nothing that could be got.
const NOTHING_CONFIGURED: u8 = 2;

/// Shows a link that a person has to open, and on a terminal the code of it for a telephone.
pub(crate) fn show_invitation(invitation: &Invitation) {
    let Invitation { id, link, .. } = invitation;
    let mut text = format!(
        "to enrol '{}', {}:\n\n  {link}\n\n",
        legible(id),
        invitation.instruction()
    );
    if io::stdout().is_terminal()
        && let Some(code) = code::of(link)
    {
        text.push_str(&code);
    }
    text.push_str("waiting until the platform issues a certificate …");
    say(&text);
}

/// Shows the code of a link to whoever reads the log on a terminal; the link itself is in the log.
pub(crate) fn show_code(invitation: &Invitation) {
    if io::stderr().is_terminal()
        && let Some(code) = code::of(&invitation.link)
    {
        // Nothing depends on whether it is seen.
        let _ = io::stderr().write_all(code.as_bytes());
    }
}

/// Shows what a person has to enter for a registration.
pub(crate) fn show_registration(id: &str) {
    say(&format!(
        "to register '{id}', enter this id in the cloud's device management under device \
         registration, then accept the device when it shows up\n\
         waiting until the platform hands out credentials …"
    ));
}

pub(crate) fn issued(identity: &Identity) -> ExitCode {
    done(&format!("enrolled: {}", certificate(identity)))
}

pub(crate) fn registered(id: &str) -> ExitCode {
    done(&format!("registered: '{id}' has a user of its own"))
}

pub(crate) fn is_certified(identity: &Identity) -> ExitCode {
    if identity.life.1 < SystemTime::now() {
        let words = "it has expired: renew it, or set this machine's clock if that is wrong";
        say(&format!("{}; {words}", certificate(identity)));
        return ExitCode::FAILURE;
    }
    done(&format!(
        "nothing to do: there is {}",
        certificate(identity)
    ))
}

pub(crate) fn renewed(identity: &Identity) -> ExitCode {
    done(&format!(
        "renewed: {}; adit uses it at its next login",
        certificate(identity)
    ))
}

pub(crate) fn nothing_to_renew() -> ExitCode {
    error!("there is no certificate yet that could be renewed: run adit enrol");
    ExitCode::FAILURE
}

/// Whoever has issued a certificate renews it.
pub(crate) fn not_issued() -> ExitCode {
    error!(
        "only a certificate of the platform's own authority can be renewed by adit, and \
         auth.certificate_authority is not true"
    );
    ExitCode::from(NOTHING_CONFIGURED)
}

pub(crate) fn has_user(user: &str) -> ExitCode {
    done(&format!(
        "nothing to do: there is the user {}",
        legible(user)
    ))
}

/// A local broker vouches for the gateway, and nothing says what else it could be.
pub(crate) fn nothing_to_get() -> ExitCode {
    error!(
        "the configuration names no credentials to get: set auth.certificate_authority, or \
         auth.bootstrap_username and its password"
    );
    ExitCode::from(NOTHING_CONFIGURED)
}

pub(crate) fn stopped() -> ExitCode {
    say("stopped before the credentials were there");
    ExitCode::FAILURE
}

fn certificate(identity: &Identity) -> String {
    format!(
        "a certificate for '{}', good until {}",
        legible(identity.name()),
        day(identity.life.1)
    )
}

fn done(words: &str) -> ExitCode {
    say(words);
    ExitCode::SUCCESS
}

/// Whoever started this may have closed the pipe; the exit code tells the result too.
fn say(words: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{words}").and_then(|()| out.flush());
}
