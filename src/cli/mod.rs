//! The command line, and the environment of the flags that are no keys of the configuration.
//!
//! A value that the command line library refuses is repeated in its message. Rows and keys are
//! secrets, so it takes them as they are, and they are read afterwards.

mod package;

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use smartrest::{ConnectRequest, ConnectionKey, RequestError, Target, TargetError};

use crate::config::{LOG_FORMAT_VARIABLE, LOG_LEVEL_VARIABLE, NO_SANDBOX_VARIABLE};
use crate::confinement::Sandbox;
use crate::secret::Secret;

pub(crate) use package::build;
pub use package::write_manual;

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Print this text: the build, or the completions of a shell.
    Print(String),
    /// Write the manual pages into this directory.
    Manual(PathBuf),
    /// Something that takes a configuration.
    Work(Invocation),
}

/// What adit is asked to do, and how.
#[derive(Debug)]
pub struct Invocation {
    /// The file of `--config`.
    pub config: Option<PathBuf>,
    /// The values of `--set`, as `section.key=value`; the configuration reads them.
    pub settings: Vec<String>,
    /// The least important messages to log. `Info` unless set, and `Warn` for a check, a
    /// status, a reload or an upgrade, whose result is what somebody wants to read.
    pub log_level: LogLevel,
    /// `Text` unless set.
    pub log_format: LogFormat,
    /// `On` unless `ADIT_NO_SANDBOX` says otherwise.
    pub sandbox: Sandbox,
    /// What to do.
    pub command: Command,
}

/// What adit is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Do something with the configuration.
    Work(Work),
    /// Ask the agent that runs.
    Ask(Question),
    /// Pack what can be said of this gateway, whatever state it is in.
    Diagnose(Diagnose),
}

/// What adit is asked to do itself.
#[derive(Debug)]
pub enum Work {
    /// Be the agent until a signal comes.
    Run,
    /// Open one tunnel, then exit.
    Connect(Connect),
    /// Try every hop, then exit.
    Check(Check),
    /// Get the gateway its credentials, then exit.
    Enrol(Enrol),
}

/// What the running agent is asked.
#[derive(Debug)]
pub enum Question {
    /// What it does.
    Status(Status),
    /// To read its configuration again.
    Reload(Reload),
    /// To try the way to the cloud itself.
    Check(Check),
    /// To have the program started again in its place.
    Upgrade,
}

/// How `adit enrol` is to get credentials.
#[derive(Debug, Default)]
pub struct Enrol {
    /// A new certificate in the place of the one that is there.
    pub renew: bool,
}

/// What `adit check` is to try, and how it is to tell.
#[derive(Debug, Default)]
pub struct Check {
    /// A machine to reach as a tunnel does.
    pub target: Option<Target>,
    /// Leaves out what would throw a running agent out of its connection.
    pub no_login: bool,
    /// One JSON object in place of the text.
    pub json: bool,
}

/// Where `adit diagnose` is to write its archive.
#[derive(Debug, Default)]
pub struct Diagnose {
    /// The archive; `-` is standard output. A name of its own in the working directory unless set.
    pub output: Option<PathBuf>,
    /// Whether a file that is there may be replaced.
    pub force: bool,
}

/// How `adit status` is to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// One JSON object in a line in place of the text.
    pub json: bool,
    /// Again every second.
    pub watch: bool,
}

/// What `adit reload` is to change besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reload {
    /// The least important messages that the agent logs from then on. As before unless set.
    pub log_level: Option<LogLevel>,
}

/// Where the one tunnel of `adit connect` is described.
#[derive(Debug)]
pub enum Connect {
    /// On the command line.
    Tunnel(Tunnel),
    /// In a row on standard input, for [`parse_row`].
    StandardInput,
}

/// One tunnel to open. The device of a row does not matter: nothing is reported.
#[derive(Debug)]
pub struct Tunnel {
    /// The machine to reach.
    pub target: Target,
    /// The one-time key of the WebSocket.
    pub key: ConnectionKey,
}

/// How important a message has to be to be logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogLevel {
    /// Adit gives up.
    Error,
    /// It goes on, and somebody should look.
    Warn,
    /// A tunnel or a connection began or ended.
    Info,
    /// Why adit took one branch.
    Debug,
    /// Each message.
    Trace,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line, for machines.
    Json,
}

/// Why a text does not describe a tunnel.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RowError {
    /// There is no row.
    #[error("there is no row")]
    Empty,
    /// There is more than one row, and one tunnel to open.
    #[error("there is more than one row")]
    Several,
    /// The row asks for something else. Its template is not shown: it may be a key that slipped.
    #[error("the row does not begin with 530")]
    Template,
    /// A value is missing or wrong.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Stands for standard input in place of a row.
const STANDARD_INPUT: &str = "-";

/// Remote access agent for gateways that speak MQTT to Cumulocity.
///
/// The cloud asks for a tunnel with a SmartREST row, `530,…`; adit opens a TCP connection to a
/// machine of the gateway's network and a WebSocket to the cloud, and carries the bytes between.
#[derive(Parser)]
#[command(
    name = "adit",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "\
Example:
  ADIT_AUTH_PASSWORD=… adit run --set cloud.url=https://tenant.example.com \\
    --set auth.tenant=t12345 --set auth.username=device_gateway-7

Every key of the configuration also has a variable: section and key in upper case behind ADIT_, as
ADIT_CLOUD_URL; lists are separated by commas. Flags win over variables, variables over the file.
An empty variable counts as not set, except of a list: that is an empty list.
ADIT_NO_SANDBOX=1 leaves adit unconfined and open to debuggers.
--version --verbose also tells from which commit adit was built, when and for which machine.
Exit status: 2 for a bad command line or configuration."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Args)]
struct Common {
    /// Configuration file [default: /etc/adit/adit.toml, if it exists]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets a key of the configuration, as mqtt.keep_alive=30s; no value means the default,
    /// or an empty list
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
    /// Least important messages to log [env: ADIT_LOG_LEVEL] [default: info; warn for check, diagnose, status, reload and upgrade]
    #[arg(long, global = true, value_name = "LEVEL", ignore_case = true)]
    log_level: Option<LogLevel>,
    /// Form of the log, which goes to standard error [env: ADIT_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT", ignore_case = true)]
    log_format: Option<LogFormat>,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Runs the agent until SIGTERM or SIGINT
    #[command(after_help = "\
Example:
  adit run --config /etc/adit/adit.toml --log-level debug

Exit status: 0 after SIGTERM or SIGINT, 2 for a bad command line or configuration; never for a reason
of the network.")]
    Run,
    /// Opens one tunnel without MQTT, prints CONNECTED when both ends stand, and exits at its end
    #[command(after_help = "\
Examples:
  adit connect '530,gateway-7,plc-7.lan,22,4f3a…'
  adit connect --target plc-7.lan:22 --key 4f3a…
  adit connect - < row.csv

Every user of the machine sees a command line, and whoever holds the connection key can take the
tunnel; a row on standard input is seen by nobody.
Exit status: 0 if one side ended the tunnel, 1 if it did not open or broke, 2 for a bad row, command
line or configuration.")]
    Connect(ConnectArgs),
    /// Tries every hop to the cloud, says which is broken and what to do, and exits
    #[command(after_help = "\
Examples:
  adit check
  adit check --target plc-7.lan:22
  adit check --no-login --json
  adit check --agent --target plc-7.lan:22

The platform allows one connection for a client id, so the MQTT login throws a running agent out for
a moment; it comes back by itself, and its tunnels stay. --agent has the running agent itself try it,
with its rights, its variables and its network, and without a login.
Exit status: 0 if nothing is broken, 1 if something is, 2 for a bad command line or configuration, 3 if
--agent finds none running.")]
    Check(CheckArgs),
    /// Gets the gateway its credentials as `adit run` would, then exits
    #[command(after_help = "\
Examples:
  adit enrol
  adit enrol --renew

Says what a person has to do, and waits until it is done: a certificate of the platform's own
authority (auth.certificate_authority), or the user of a registration (auth.bootstrap_username).
Exit status: 0 once the credentials are there, at once if they are; 1 if a signal ended it or they
cannot be kept, 2 for a bad command line or configuration.")]
    Enrol(EnrolArgs),
    /// Says what the running agent does: its connection, tunnels and last operations
    #[command(after_help = "\
Examples:
  adit status
  adit status --watch
  adit status --json | jq .connection.is_connected

It asks at admin.socket, or where nobody answers there, at admin.listen.
Exit status: 0 if the agent is connected, 1 if it is not or does not answer, 2 for a bad command line
or configuration, 3 if none runs.")]
    Status(StatusArgs),
    /// Has the running agent read its configuration again, and says what has changed
    #[command(after_help = "\
Examples:
  adit reload
  adit reload --log-level debug

Tunnels stay, but for those to targets that the new policy denies. A configuration that cannot be used
changes nothing. --log-level is the agent's from then on. SIGHUP does the same.
Exit status: 0 if the new configuration holds, also where parts of it need a restart, 1 if the agent
does not answer, 2 for a bad command line or configuration, 3 if none runs.")]
    Reload,
    /// Packs what a support ticket needs into one archive without secrets
    #[command(after_help = "\
Examples:
  adit diagnose
  adit diagnose -o /tmp/adit.tar.gz
  docker exec adit /usr/bin/adit diagnose -o - > adit.tar.gz

The configuration, the result of `adit check --no-login`, what the running agent does and its last log
lines, versions, limits, routes and resolver: a .tar.gz. It works without an agent and with a bad
configuration; the running agent is not disturbed. A secret that has got into it is told, and nothing
is written then.
Exit status: 0 if it is written, 1 if it is not, 2 for a bad command line.")]
    Diagnose(DiagnoseArgs),
    /// Starts the program again in the place of the running agent, whose tunnels go on
    #[command(after_help = "\
Example:
  adit upgrade

For a new version, and for keys of the configuration that a reload does not change. The new process
takes over once it is ready; the old one carries its tunnels until they end, or for as long as
remote_access.drain says. Where the new one fails, the old one goes on, and the reason is said.
SIGUSR2 does the same.
Exit status: 0 if the new process is in charge, 1 if the old one goes on or does not answer, 2 for a bad
command line or configuration, 3 if none runs.")]
    Upgrade,
    /// Prints the completions for a shell
    #[command(after_help = "\
Example:
  adit completions bash | sudo tee /usr/share/bash-completion/completions/adit >/dev/null")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: package::Shell,
    },
    /// Writes the manual pages, adit.1 and one for each command
    #[command(after_help = "\
Example:
  adit man /usr/local/share/man/man1")]
    Man {
        /// A directory that exists; files of the same names are replaced
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Args)]
struct StatusArgs {
    /// Prints one JSON object in a line; its names stay the same from version to version
    #[arg(long)]
    json: bool,
    /// Looks again every second
    #[arg(long)]
    watch: bool,
}

#[derive(Args)]
struct DiagnoseArgs {
    /// The archive; - is standard output [default: adit-diagnose-DEVICE-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replaces a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct EnrolArgs {
    /// Renews the certificate of the platform's own authority now; a running agent uses the new one at
    /// its next login
    #[arg(long)]
    renew: bool,
}

#[derive(Args)]
struct CheckArgs {
    /// A machine to reach as a tunnel would, policy included
    #[arg(long, value_name = "HOST:PORT", value_parser = NonEmptyStringValueParser::new())]
    target: Option<String>,
    /// Leaves out the MQTT login, which throws a running agent out for a moment
    #[arg(long)]
    no_login: bool,
    /// Has the running agent try it, which may see another network than this shell; without a login
    #[arg(long, conflicts_with = "no_login")]
    agent: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ConnectArgs {
    /// The row, as '530,<device>,<host>,<port>,<connection key>'; - reads it from standard input
    #[arg(value_parser = hidden, conflicts_with_all = ["target", "key"])]
    row: Option<Secret>,
    /// The machine to reach; an IPv6 address stands in brackets
    #[arg(long, value_name = "HOST:PORT", requires = "key",
          value_parser = NonEmptyStringValueParser::new())]
    target: Option<String>,
    /// The connection key
    #[arg(long, value_parser = hidden, requires = "target")]
    key: Option<Secret>,
}

fn hidden(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Reads the command line and the environment of this process.
///
/// Where there is nothing to do but to say something, as for `--help` or a mistake, it says so and
/// ends the process, with 2 for a mistake.
pub fn parse() -> Request {
    let variable = |name: &str| std::env::var_os(name);
    parse_from(std::env::args_os(), variable).unwrap_or_else(|error| error.exit())
}

/// Reads a command line, the name of the program first.
///
/// # Errors
/// What is wrong with it, or what it asks to be told.
pub fn parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Request, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if package::asks_for_build(&arguments) {
        return Ok(Request::Print(package::build()));
    }
    let Cli { common, command } = Cli::try_parse_from(arguments)?;
    let asked_level = common.log_level;
    let default_level = match command {
        Subcommands::Check(_)
        | Subcommands::Diagnose(_)
        | Subcommands::Status(_)
        | Subcommands::Reload
        | Subcommands::Upgrade => LogLevel::Warn,
        _ => LogLevel::Info,
    };
    let command = match command {
        Subcommands::Run => Command::Work(Work::Run),
        Subcommands::Connect(arguments) => Command::Work(Work::Connect(arguments.connect()?)),
        Subcommands::Check(arguments) => match arguments.agent {
            true => Command::Ask(Question::Check(arguments.check()?)),
            false => Command::Work(Work::Check(arguments.check()?)),
        },
        Subcommands::Enrol(EnrolArgs { renew }) => Command::Work(Work::Enrol(Enrol { renew })),
        Subcommands::Diagnose(DiagnoseArgs { output, force }) => {
            Command::Diagnose(Diagnose { output, force })
        }
        Subcommands::Status(StatusArgs { json, watch }) => {
            Command::Ask(Question::Status(Status { json, watch }))
        }
        Subcommands::Reload => Command::Ask(Question::Reload(Reload {
            log_level: asked_level,
        })),
        Subcommands::Upgrade => Command::Ask(Question::Upgrade),
        Subcommands::Completions { shell } => {
            return Ok(Request::Print(package::completions(shell)));
        }
        Subcommands::Man { directory } => return Ok(Request::Manual(directory)),
    };
    Ok(Request::Work(Invocation {
        config: common.config,
        settings: common.settings,
        log_level: or_variable(common.log_level, LOG_LEVEL_VARIABLE, &variable)?
            .unwrap_or(default_level),
        log_format: or_variable(common.log_format, LOG_FORMAT_VARIABLE, &variable)?
            .unwrap_or(LogFormat::Text),
        sandbox: sandbox(variable(NO_SANDBOX_VARIABLE))?,
        command,
    }))
}

/// Reads a `530` row, as `adit connect -` finds it on standard input.
///
/// # Errors
/// What the row lacks; nothing of the connection key.
pub fn parse_row(text: &str) -> Result<Tunnel, RowError> {
    let rows = smartrest::decode(text.as_bytes());
    let row = match rows.as_slice() {
        [] => return Err(RowError::Empty),
        [row] => row,
        _ => return Err(RowError::Several),
    };
    if row.template() != ConnectRequest::TEMPLATE {
        return Err(RowError::Template);
    }
    let ConnectRequest { target, key, .. } = ConnectRequest::from_row(row)?;
    Ok(Tunnel { target, key })
}

/// Takes a flag, else its variable if that is not empty.
fn or_variable<T: ValueEnum>(
    flag: Option<T>,
    name: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<T>, clap::Error> {
    let text = variable(name).filter(|text| !text.is_empty());
    let (None, Some(text)) = (&flag, text) else {
        return Ok(flag);
    };
    let text = text.to_string_lossy();
    let value = T::from_str(&text, true).map_err(|_| {
        let known = T::value_variants().iter();
        let known: Vec<_> = known
            .filter_map(ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        let known = known.join(", ");
        mistake(
            None,
            ErrorKind::InvalidValue,
            format!("{name}: {text:?} is not one of {known}"),
        )
    })?;
    Ok(Some(value))
}

/// Reads the variable that leaves the sandbox out.
fn sandbox(variable: Option<OsString>) -> Result<Sandbox, clap::Error> {
    let text = variable.unwrap_or_default();
    match &*text.to_string_lossy() {
        "" | "0" => Ok(Sandbox::On),
        "1" => Ok(Sandbox::Off),
        text => Err(mistake(
            None,
            ErrorKind::InvalidValue,
            format!("{NO_SANDBOX_VARIABLE}: {text:?} is not 1, which leaves the sandbox out, or 0"),
        )),
    }
}

impl ConnectArgs {
    fn connect(self) -> Result<Connect, clap::Error> {
        let tunnel = match self {
            Self { row: Some(row), .. } if row.expose() == STANDARD_INPUT => {
                return Ok(Connect::StandardInput);
            }
            Self { row: Some(row), .. } => {
                parse_row(row.expose()).map_err(|error| error.to_string())
            }
            Self {
                target: Some(target),
                key: Some(key),
                ..
            } => tunnel(&target, &key),
            _ => Err("nothing says what to connect: give a row, or --target and --key".to_owned()),
        };
        tunnel
            .map(Connect::Tunnel)
            .map_err(|words| mistake(Some("connect"), ErrorKind::ValueValidation, words))
    }
}

impl CheckArgs {
    fn check(self) -> Result<Check, clap::Error> {
        let Self {
            target,
            no_login,
            json,
            agent: _,
        } = self;
        let target = target.map(|text| text.parse::<Target>()).transpose();
        Ok(Check {
            target: target.map_err(|error| {
                mistake(Some("check"), ErrorKind::ValueValidation, error.to_string())
            })?,
            no_login,
            json,
        })
    }
}

fn tunnel(target: &str, key: &Secret) -> Result<Tunnel, String> {
    if key.expose().is_empty() {
        return Err("the connection key is empty".to_owned());
    }
    Ok(Tunnel {
        target: target
            .parse()
            .map_err(|error: TargetError| error.to_string())?,
        key: ConnectionKey::parse(key.expose()).map_err(|error| error.to_string())?,
    })
}

/// A mistake on the command line, with the usage of the subcommand where there is one.
fn mistake(subcommand: Option<&str>, kind: ErrorKind, words: String) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let subcommand = subcommand.and_then(|name| command.find_subcommand(name).cloned());
    subcommand.unwrap_or(command).error(kind, words)
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Invocation, clap::Error> {
        with_variables(arguments, &[])
    }

    fn with_variables(
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Invocation, clap::Error> {
        let arguments = ["adit"].iter().chain(arguments).map(OsString::from);
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| OsString::from(text))
        };
        parse_from(arguments, variable).map(|request| match request {
            Request::Work(invocation) => invocation,
            other => panic!("asks for no work: {other:?}"),
        })
    }

    fn refusal(arguments: &[&str]) -> String {
        let error = parsed(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
        error.to_string()
    }

    fn connected(arguments: &[&str]) -> (String, String) {
        match parsed(arguments).unwrap().command {
            Command::Work(Work::Connect(Connect::Tunnel(Tunnel { target, key }))) => {
                (target.to_string(), key.expose().to_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn is_declared_without_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn runs_with_defaults() {
        let invocation = parsed(&["run"]).unwrap();
        assert!(matches!(invocation.command, Command::Work(Work::Run)));
        assert_eq!(invocation.config, None);
        assert_eq!(invocation.settings, Vec::<String>::new());
        assert_eq!(invocation.log_level, LogLevel::Info);
        assert_eq!(invocation.log_format, LogFormat::Text);
        assert_eq!(invocation.sandbox, Sandbox::On);
    }

    #[test]
    fn leaves_the_sandbox_out_only_where_it_is_told_so() {
        for (text, sandbox) in [("", Sandbox::On), ("0", Sandbox::On), ("1", Sandbox::Off)] {
            let invocation = with_variables(&["run"], &[(NO_SANDBOX_VARIABLE, text)]);
            assert_eq!(invocation.unwrap().sandbox, sandbox, "{text:?}");
        }
        let refused = with_variables(&["run"], &[(NO_SANDBOX_VARIABLE, "yes")]).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        let words = "ADIT_NO_SANDBOX: \"yes\" is not 1, which leaves the sandbox out, or 0";
        assert!(refused.to_string().contains(words), "{refused}");
    }

    #[test]
    fn takes_the_common_flags_on_either_side_of_the_command() {
        let flags = [
            "-c",
            "a.toml",
            "--set",
            "a.b=c",
            "--log-level",
            "warn",
            "--log-format",
            "json",
        ];
        let before = [&flags[..], &["run"]].concat();
        let behind = [&["run"], &flags[..]].concat();
        for arguments in [before, behind] {
            let invocation = parsed(&arguments).unwrap();
            assert_eq!(invocation.config, Some(PathBuf::from("a.toml")));
            assert_eq!(invocation.settings, ["a.b=c"]);
            assert_eq!(invocation.log_level, LogLevel::Warn);
            assert_eq!(invocation.log_format, LogFormat::Json);
        }
    }

    #[test]
    fn logs_as_the_flag_says_or_else_the_variable() {
        for (flags, variable, level) in [
            (&["run"][..], "debug", LogLevel::Debug),
            (&["run"], "DEBUG", LogLevel::Debug),
            (&["run"], "", LogLevel::Info),
            (&["check"], "", LogLevel::Warn),
            (&["check"], "info", LogLevel::Info),
            (&["run", "--log-level", "error"], "debug", LogLevel::Error),
        ] {
            let invocation = with_variables(flags, &[("ADIT_LOG_LEVEL", variable)]).unwrap();
            assert_eq!(invocation.log_level, level, "{flags:?} {variable}");
        }
        let error = with_variables(&["run"], &[("ADIT_LOG_FORMAT", "xml")]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let words = error.to_string();
        assert!(
            words.contains("ADIT_LOG_FORMAT: \"xml\" is not one of text, json"),
            "{words}"
        );
    }

    #[test]
    fn connects_as_a_row_or_as_flags_say() {
        for (arguments, target) in [
            (&["530,gw-1,plc-7,22,k-1"][..], "plc-7:22"),
            (&["--target", "plc-7:22", "--key", "k-1"], "plc-7:22"),
            (&["--target=[fd00::7]:22", "--key=k-1"], "[fd00::7]:22"),
            (&["--target", "10.0.0.7:22", "--key", "k-1"], "10.0.0.7:22"),
        ] {
            let arguments = [&["connect"], arguments].concat();
            let expected = (target.to_owned(), "k-1".to_owned());
            assert_eq!(connected(&arguments), expected, "{arguments:?}");
        }
        let invocation = parsed(&["connect", "-"]).unwrap();
        assert!(matches!(
            invocation.command,
            Command::Work(Work::Connect(Connect::StandardInput))
        ));
    }

    #[test]
    fn checks_what_the_flags_say() {
        for (arguments, target, no_login, json) in [
            (&["check"][..], None, false, false),
            (
                &["check", "--target", "[fd00::7]:22", "--no-login"],
                Some("[fd00::7]:22"),
                true,
                false,
            ),
            (&["check", "--json"], None, false, true),
            (
                &["check", "--agent", "--target", "plc-7:22"],
                Some("plc-7:22"),
                false,
                false,
            ),
        ] {
            let check = match parsed(arguments).unwrap().command {
                Command::Work(Work::Check(check)) | Command::Ask(Question::Check(check)) => check,
                command => panic!("{command:?}"),
            };
            let shown = check.target.as_ref().map(ToString::to_string);
            assert_eq!(shown.as_deref(), target, "{arguments:?}");
            assert_eq!((check.no_login, check.json), (no_login, json));
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_command_line() {
        for (arguments, words) in [
            (
                &["check", "--target", "plc-7"][..],
                "'plc-7' is neither HOST:PORT nor [IPv6]:PORT",
            ),
            (&["check", "--target", "plc-7:0"], "port 0"),
            (&["fly"][..], "unrecognized subcommand 'fly'"),
            (&["run", "530,a,b,1,c"], "unexpected argument"),
            (
                &["run", "--log-level", "loud"],
                "[possible values: error, warn, info, debug, trace]",
            ),
            (&["connect"], "give a row, or --target and --key"),
            (&["connect", "530,gw-1,plc-7"], "Usage: adit connect "),
            (&["check", "--target", "x"], "Usage: adit check "),
            (&["connect", "--target", "plc-7:22"], "--key <KEY>"),
            (&["connect", "--key", "k"], "--target <HOST:PORT>"),
            (
                &["connect", "530,a,b,1,c", "--key", "k"],
                "cannot be used with",
            ),
            (
                &["connect", "530,a,b,1,c", "--target", "a:1"],
                "cannot be used with",
            ),
            (&["connect", ""], "there is no row"),
            (
                &["connect", "511,a,b,1,c"],
                "the row does not begin with 530",
            ),
            (
                &["connect", "530,a,b,1,c\n530,a,b,1,d"],
                "there is more than one row",
            ),
            (
                &["connect", "530,gw-1,plc-7,22"],
                "the connection key is missing",
            ),
            (
                &["connect", "530,gw-1,plc-7,0,k"],
                "port 0 is not from 1 to 65535",
            ),
            (
                &["connect", "--target", "plc-7", "--key", "k"],
                "'plc-7' is neither HOST:PORT nor [IPv6]:PORT",
            ),
            (
                &["connect", "--target", "fd00::7:22", "--key", "k"],
                "neither HOST:PORT nor [IPv6]:PORT",
            ),
            (
                &["connect", "--target", "plc-7:0", "--key", "k"],
                "port 0 is not from 1 to 65535",
            ),
            (
                &["connect", "--target", "plc-7:22", "--key", ""],
                "the connection key is empty",
            ),
        ] {
            let refusal = refusal(arguments);
            assert!(refusal.contains(words), "{arguments:?}: {refusal}");
        }
    }

    #[test]
    fn shows_help_without_a_command() {
        assert!(refusal(&[]).contains("Usage: adit"));
        let help = parsed(&["connect", "--help"]).unwrap_err();
        assert_eq!(help.exit_code(), 0);
        assert!(
            help.to_string()
                .contains("adit connect --target plc-7.lan:22 --key")
        );
        for command in [
            "run", "connect", "check", "diagnose", "status", "reload", "upgrade",
        ] {
            let help = parsed(&[command, "--help"]).unwrap_err().to_string();
            assert!(
                help.contains(
                    "[default: info; warn for check, diagnose, status, reload and upgrade]"
                ),
                "{help}"
            );
            assert!(help.contains("2 for a bad"), "{help}");
        }
        assert_eq!(parsed(&["--version"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn repeats_no_connection_key() {
        for arguments in [
            &["connect", "530,gw-1,plc-7,0,hunter2"][..],
            &["connect", "530,gw-1,plc-7,22,hunter2 !"],
            &["connect", "531,hunter2"],
            &["connect", "hunter2"],
            &["connect", "--key", "hunter2"],
            &["connect", "--key", "hunter2", "--key", "hunter2"],
            &["connect", "--keys=hunter2"],
            &["connect", "--target", "plc-7:22", "--key", "hunter2 !"],
            &["connect", "--target", "plc-7:0", "--key", "hunter2"],
            &["connect", "530,gw-1,plc-7,22,hunter2", "--key", "hunter2"],
        ] {
            let refusal = refusal(arguments);
            assert!(!refusal.contains("hunter2"), "{arguments:?}: {refusal}");
        }
        let invocation = parsed(&["connect", "530,gw-1,plc-7,22,hunter2"]).unwrap();
        assert!(!format!("{invocation:?}").contains("hunter2"));
    }
}
