//! The `adit` command: command line, log and configuration to the agent, to one tunnel or to a check.

use std::alloc::System;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use adit::assembly::{Source, Surroundings, Upgrade};
use adit::cli::{
    self, Check, Command, Connect, Enrol, Invocation, LogFormat, Question, Request, Tunnel, Work,
};
use adit::config::{self, Config, Sources};
use adit::confinement::{self, Sandbox};
use adit::succession::{Inheritance, Program};
use adit::words::failure_reason;
use adit::{assembly, check, limits, logging};
use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use zeroizing_alloc::ZeroAlloc;

/// Wipes whatever is freed. Libraries copy passwords, tokens and keys into memory of their own, as the
/// packet of a login or the buffers of TLS, and know nothing of what they carry.
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

/// Exit code of a bad configuration or command line.
const BAD_CONFIGURATION: u8 = 2;

/// Bytes of a row on standard input: one row is far shorter, and no more is waited for.
const ROW_LIMIT: u64 = 16 * 1024;

/// What there is to do, with all that it takes besides the configuration.
enum Task {
    /// With what the configuration is read with again, and the process that is to be followed.
    Agent(Again, Option<Inheritance>),
    Tunnel(Tunnel),
    Check(Check),
    Enrol(Enrol),
}

/// What a configuration is read with again: the flags, and the name of the machine, which a confined
/// process may not be allowed to read.
struct Again {
    file: Option<PathBuf>,
    settings: Vec<String>,
    host_name: Option<String>,
}

impl Again {
    fn sources(&self) -> Sources<'static> {
        Sources {
            host_name: self.host_name.clone(),
            ..Sources::of_this_machine(self.file.clone(), self.settings.clone())
        }
    }
}

fn main() -> ExitCode {
    let code = start();
    logging::flush();
    code
}

fn start() -> ExitCode {
    let Invocation {
        config,
        settings,
        log_level,
        log_format,
        sandbox,
        command,
    } = match cli::parse() {
        Request::Work(invocation) => invocation,
        Request::Print(text) => return written(io::stdout().write_all(text.as_bytes())),
        Request::Manual(directory) => return written(cli::write_manual(&directory)),
    };
    if let Err(error) = logging::install(log_level, log_format) {
        let _ = writeln!(io::stderr(), "cannot write to standard error: {error}");
        return ExitCode::FAILURE;
    }
    let (file, flags) = (config.clone(), settings.clone());
    let mut sources = Sources::of_this_machine(config, settings);
    let work = match command {
        Command::Ask(question) => return ask(&sources, log_format, question),
        Command::Diagnose(what) => return assembly::diagnose(&sources, sandbox, what),
        Command::Work(work) => work,
    };
    let private = match sandbox {
        Sandbox::On => confinement::keep_memory_private(),
        Sandbox::Off => Ok(()),
    };
    let inheritance = match work {
        Work::Run => Inheritance::of_this_process(),
        _ => None,
    };
    if let Some(code) = inheritance.as_ref().and_then(Inheritance::stand_between) {
        return code;
    }
    if let Err(error) = private {
        let error = error.to_string();
        warn!(error, "others may look into the memory of adit");
    }
    if sandbox == Sandbox::Off {
        warn!("not confined, and open to debuggers, as ADIT_NO_SANDBOX says");
    }
    if let Some(name) = inheritance.as_ref().and_then(Inheritance::host_name) {
        sources.host_name = Some(name.to_owned());
    }
    let config = match Config::load(&sources) {
        Ok(config) => config,
        Err(faults) => {
            let faults = faults.to_string();
            if let Some(inheritance) = inheritance {
                inheritance.refuse(&format!("{faults}{}", assembly::why_forbidden(&faults)));
            }
            if let Work::Check(Check { json: true, .. }) = work {
                check::refuse(&faults);
            }
            return refuse(log_format, &faults);
        }
    };
    let task = match work {
        Work::Run => {
            let again = Again {
                file,
                settings: flags,
                host_name: sources.host_name,
            };
            Task::Agent(again, inheritance)
        }
        Work::Connect(Connect::Tunnel(tunnel)) => Task::Tunnel(tunnel),
        Work::Connect(Connect::StandardInput) => match row_from_standard_input() {
            Ok(tunnel) => Task::Tunnel(tunnel),
            Err(error) => return refuse(log_format, &format!("standard input: {error:#}")),
        },
        Work::Check(check) => Task::Check(check),
        Work::Enrol(enrol) => Task::Enrol(enrol),
    };
    // A check has a place for them in its result.
    if !matches!(task, Task::Check(_)) {
        for warning in &config.warnings {
            warn!(target: logging::EACH, "{warning}");
        }
    }
    code_of(run(task, &config, sandbox))
}

fn code_of(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        let error = failure_reason(error.as_ref(), usize::MAX);
        error!(error, "adit cannot go on");
        ExitCode::FAILURE
    })
}

/// Asks the agent that runs, which takes no more of the configuration than where that is.
fn ask(sources: &Sources<'_>, log_format: LogFormat, question: Question) -> ExitCode {
    let (settings, unread) = match config::admin(sources) {
        Ok(read) => read,
        Err(faults) => return refuse(log_format, &faults.to_string()),
    };
    for fault in unread {
        warn!(target: logging::EACH, "{fault}");
    }
    code_of(runtime().map(|runtime| {
        runtime.block_on(async {
            match question {
                Question::Reload(reload) => assembly::reload(&settings, reload).await,
                Question::Check(check) => assembly::check_by_agent(&settings, &check).await,
                Question::Status(status) => assembly::status(&settings, status).await,
                Question::Upgrade => assembly::upgrade(&settings).await,
            }
        })
    }))
}

fn refuse(format: LogFormat, faults: &str) -> ExitCode {
    for fault in faults.lines() {
        logging::refuse(format, fault);
    }
    ExitCode::from(BAD_CONFIGURATION)
}

fn written(result: io::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(io::stderr(), "cannot write: {error}");
    ExitCode::FAILURE
}

fn row_from_standard_input() -> anyhow::Result<Tunnel> {
    let mut row = String::new();
    BufReader::new(io::stdin().take(ROW_LIMIT)).read_line(&mut row)?;
    Ok(cli::parse_row(&row)?)
}

/// Runs the agent, opens the one tunnel that was asked for, tries every hop, or gets credentials.
///
/// One thread is enough to keep a gateway's link full, and costs least.
fn run(task: Task, config: &Config, sandbox: Sandbox) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let stop = stop_on_signal().context("cannot listen for signals")?;
        match task {
            Task::Agent(again, inheritance) => {
                let around =
                    surroundings(again, inheritance).context("cannot listen for signals")?;
                let running = assembly::agent(config, Some(around), sandbox, stop);
                running.await.map(|()| ExitCode::SUCCESS)
            }
            Task::Tunnel(tunnel) => assembly::connect(config, tunnel, sandbox, stop).await,
            Task::Check(check) => assembly::check(config, check, sandbox, stop).await,
            Task::Enrol(enrol) => assembly::enrol(config, enrol, sandbox, stop).await,
        }
    });
    // A name that is still being resolved holds a thread that cannot be stopped.
    runtime.shutdown_background();
    code
}

fn runtime() -> anyhow::Result<Runtime> {
    limits::allow_least_files()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Reads the configuration again when it is asked for, also by SIGHUP, and starts the program again,
/// also by SIGUSR2.
fn surroundings(again: Again, inheritance: Option<Inheritance>) -> io::Result<Surroundings> {
    let program = Program::of_this_process(again.host_name.clone());
    let program = program.inspect_err(|error| warn!(%error, "the program cannot be started again"));
    Ok(Surroundings {
        reload: Source {
            load: Arc::new(move || Config::load(&again.sources())),
            hangups: signals(SignalKind::hangup())?,
        },
        upgrade: Upgrade {
            signals: signals(SignalKind::user_defined2())?,
            program: program.ok(),
        },
        inheritance,
    })
}

/// Takes a kind of signals; one that waits already stands for all.
fn signals(kind: SignalKind) -> io::Result<mpsc::Receiver<()>> {
    let mut signals = signal(kind)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                warn!("signal passed over: this process only carries its tunnels to their end");
            }
        }
    });
    Ok(receiver)
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
        logging::flush();
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
