//! `adit connect` as another program starts it.

use std::fs::File;
use std::io::pipe;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::LIMIT;
use super::adit::{EXIT_LIMIT, command};
use super::process::Process;
use super::temporary::Directory;

/// `adit connect` with everything in its log.
pub(crate) struct Connect {
    process: Process,
    printed: BufReader<Receiver>,
    _directory: Directory,
}

/// How `adit connect` ended.
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    /// What it has printed that was not read before.
    pub(crate) printed: String,
    pub(crate) log: String,
}

impl Connect {
    /// Starts it with a configuration file, arguments, and a text on standard input.
    pub(crate) fn start(config: &str, arguments: &[&str], input: &str) -> Self {
        let directory = Directory::new();
        let file = directory.write("adit.toml", config);
        let input = directory.write("input", input);
        let (reader, writer) = pipe().unwrap();
        let mut command = command("connect", &file);
        command
            .args(["--log-level", "trace"])
            .args(arguments)
            .stdin(File::open(input).unwrap())
            .stdout(Stdio::from(writer));
        let process = Process::start_with_pipes("adit connect", &mut command);
        // The pipe ends with the process, and not with the command.
        drop(command);
        Self {
            process,
            printed: BufReader::new(Receiver::from_owned_fd(reader.into()).unwrap()),
            _directory: directory,
        }
    }

    /// Waits for the next line that it prints.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(LIMIT, self.printed.read_line(&mut line)).await;
        read.expect("a line in time").unwrap();
        line
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&mut self) {
        self.process.signal("TERM");
    }

    /// Waits until it has ended.
    pub(crate) async fn exit(mut self) -> Exit {
        let status = self.process.wait_for_exit(EXIT_LIMIT).await;
        let mut printed = String::new();
        self.printed.read_to_string(&mut printed).await.unwrap();
        Exit {
            code: status.code(),
            printed,
            log: self.process.lines().join("\n"),
        }
    }
}
