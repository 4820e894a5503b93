//! The builder of `adit diagnose`.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::LocalBoxFuture;
use tokio::runtime::Builder;

use super::{confine_as_agent, subject, transport};
use crate::admin;
use crate::check::{self, report::Report};
use crate::cli::Diagnose;
use crate::config::{Config, Sources};
use crate::confinement::{self, Sandbox};
use crate::diagnose::{self, Agent};

/// How long the whole way to the cloud may take to be tried. Each hop has a limit of its own.
const CHECK_LIMIT: Duration = Duration::from_mins(2);

/// Packs what can be said of this gateway into one archive; the configuration may be bad.
pub fn diagnose(sources: &Sources<'_>, sandbox: Sandbox, diagnose: Diagnose) -> ExitCode {
    if sandbox == Sandbox::On {
        // All secrets that there are come together here. Without it the archive is the same.
        let _ = confinement::keep_memory_private();
    }
    let check = |config: &Config| examine(config, sandbox);
    diagnose::run(sources, diagnose, &check, &ask)
}

fn ask(settings: &admin::Settings) -> anyhow::Result<Agent> {
    let mut agent = None;
    complete(Box::pin(async {
        agent = Some(Agent::ask(settings).await);
        Ok(())
    }))?;
    agent.context("it was not asked")
}

/// Tries the way to the cloud with as few rights as the agent has. They are taken from a thread of its
/// own, because what is left to do needs more.
fn examine(config: &Config, sandbox: Sandbox) -> anyhow::Result<Report> {
    let examine = || {
        let mut report = None;
        complete(Box::pin(async {
            let transport = transport(config)?;
            let subject = subject(config, confine_as_agent(config, sandbox))?;
            report = Some(check::examine(&subject, transport, None, CHECK_LIMIT).await);
            Ok(())
        }))?;
        report.context("nothing was tried")
    };
    thread::scope(|scope| {
        let examining = thread::Builder::new().spawn_scoped(scope, examine)?;
        examining.join().map_err(|_| anyhow!("a fault in adit"))?
    })
}

/// Runs something to its end, in a runtime of its own.
fn complete(future: LocalBoxFuture<'_, anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    // A name that is still being resolved holds a thread that cannot be stopped.
    runtime.shutdown_background();
    result
}
