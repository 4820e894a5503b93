//! The builder of `adit diagnose`.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime::Builder;

use super::{subject, transport};
use crate::check::{self, report::Report};
use crate::cli::Diagnose;
use crate::config::{Config, Sources};
use crate::confinement::{self, Sandbox};
use crate::diagnose;

/// How long the whole way to the cloud may take to be tried. Each hop has a limit of its own.
const CHECK_LIMIT: Duration = Duration::from_mins(2);

/// Packs what can be said of this gateway into one archive; the configuration may be bad.
pub async fn diagnose(sources: &Sources<'_>, sandbox: Sandbox, diagnose: Diagnose) -> ExitCode {
    if sandbox == Sandbox::On {
        // All secrets that there are come together here. Without it the archive is the same.
        let _ = confinement::keep_memory_private();
    }
    diagnose::run(sources, diagnose, |config| examine(config, sandbox)).await
}

/// Tries the way to the cloud with as few rights as the agent has. They are taken from a thread of its
/// own, because what is left to do needs more.
fn examine(config: &Config, sandbox: Sandbox) -> anyhow::Result<Report> {
    let examine = || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let report = runtime.block_on(async {
            let transport = transport(config)?;
            let subject = subject(config, sandbox)?;
            Ok(check::examine(&subject, transport, CHECK_LIMIT).await)
        });
        // A name that is still being resolved holds a thread that cannot be stopped.
        runtime.shutdown_background();
        report
    };
    thread::scope(|scope| {
        let examining = thread::Builder::new().spawn_scoped(scope, examine)?;
        examining.join().map_err(|_| anyhow!("a fault in adit"))?
    })
}
