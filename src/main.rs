//! The `adit` command: command line, log and configuration to the agent or to one tunnel.

use std::io::{self, Write};
use std::process::ExitCode;

use adit::cli::{self, Command};
use adit::config::{Config, Sources};
use adit::reason::failure_reason;
use adit::{agent, connect, logging};
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Exit code of a bad configuration or command line.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = cli::parse();
    logging::install(cli.log_level, cli.log_format);
    let config = match Config::load(&Sources::of_this_machine(cli.config, cli.settings)) {
        Ok(config) => config,
        Err(faults) => {
            // Faults are for the person at the terminal, also where logs are JSON.
            let _ = writeln!(io::stderr(), "{faults}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    for warning in &config.warnings {
        warn!("{warning}");
    }
    match run(cli.command, &config) {
        Ok(code) => code,
        Err(error) => {
            error!(error = format!("{error:#}"), "adit cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// One thread is enough to keep a gateway's link full, and costs least.
fn run(command: Command, config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        let stop = stop_on_signal().context("cannot listen for signals")?;
        match command {
            Command::Run => agent::run(config, stop).await.map(|()| ExitCode::SUCCESS),
            Command::Connect(request) => connect::run(config, &request, stop).await,
        }
    });
    // A name that is still being resolved holds a thread that cannot be stopped.
    runtime.shutdown_background();
    code
}

/// Stops in good order at the first SIGTERM or SIGINT and at once at the second.
fn stop_on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        first.cancel();
        either(&mut terminate, &mut interrupt).await;
        warn!("second signal: leaving at once");
        std::process::exit(1);
    });
    Ok(stop)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
