//! A real SSH server of the test's own, which lets in the present user with a fresh key.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::LIMIT;
use super::process::{Process, command};
use super::temporary::Directory;

pub(crate) struct Sshd {
    _process: Process,
    directory: Directory,
    pub(crate) port: u16,
}

/// A shell on the machine of the server.
pub(crate) struct Shell {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    seen: String,
}

impl Sshd {
    pub(crate) async fn start() -> Self {
        let directory = Directory::new();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(directory.path(key))
                .status();
            assert!(made.expect("openssh-client is missing").success());
        }
        // Where root starts it, it insists on a place to lock itself into.
        let _ = fs::create_dir("/run/sshd");
        let path = ["/usr/sbin/sshd", "/usr/bin/sshd"];
        let path = path.into_iter().find(|path| fs::exists(path).unwrap());
        let path = path.expect("openssh-server is missing");
        // Somebody else may take the port before the server does.
        for _ in 0..5 {
            if let Some((process, port)) = serve(path, &directory).await {
                return Self {
                    _process: process,
                    directory,
                    port,
                };
            }
        }
        panic!("sshd finds no port");
    }

    /// Logs in through a port of this machine.
    pub(crate) fn shell(&self, port: u16) -> Shell {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let mut client = tokio::process::Command::new("ssh");
        client.args(["-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
        client.args(["-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes"]);
        client.args(["-o", "UserKnownHostsFile=/dev/null", "-i"]);
        client.arg(self.directory.path("user"));
        client.args(["-p", &port.to_string(), "-l"]);
        client.arg(String::from_utf8(user).unwrap().trim());
        client.args(["127.0.0.1", "sh"]);
        let mut child = client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("openssh-client is missing");
        Shell {
            input: child.stdin.take().unwrap(),
            output: child.stdout.take().unwrap(),
            _child: child,
            seen: String::new(),
        }
    }
}

/// Starts a server at some port. `None`: it ended before it listened.
async fn serve(path: &str, directory: &Directory) -> Option<(Process, u16)> {
    let port = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let home = directory.path(".").display().to_string();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    );
    let file = directory.write("sshd_config", &config);
    let process = Process::start("sshd", command(path).args(["-D", "-e", "-f"]).arg(&file));
    let listens = process.find_line(1, "Server listening").await;
    if listens.is_none() {
        eprintln!("{:?}", process.lines());
    }
    listens.map(|_| (process, port))
}

impl Shell {
    /// Runs a command, and returns all that it prints and its exit code.
    pub(crate) async fn run(&mut self, command: &str) -> (String, i32) {
        const END: &str = "-- ended with ";
        let line = format!("{command}\necho '{END}'$?\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
        let reading = async {
            loop {
                if let Some((said, rest)) = self.seen.split_once(END)
                    && let Some((code, _)) = rest.split_once('\n')
                {
                    return (said.to_owned(), code.parse().unwrap());
                }
                let mut bytes = [0; 4096];
                let count = self.output.read(&mut bytes).await.unwrap();
                assert_ne!(count, 0, "the session has ended: {}", self.seen);
                let text = String::from_utf8_lossy(&bytes[..count]);
                self.seen.push_str(&text);
            }
        };
        let ran = timeout(LIMIT, reading).await.expect("it ends");
        self.seen.clear();
        ran
    }
}
