//! A real HTTP proxy that wants a user name and a password.

use std::net::Ipv4Addr;

use super::ports::Port;
use super::process::{Process, command};
use super::temporary::Directory;

const USER: &str = "proxy-user";

/// A tinyproxy of the test's own.
pub(crate) struct Proxy {
    address: Ipv4Addr,
    port: Port,
    directory: Directory,
    process: Process,
}

impl Proxy {
    /// Starts a proxy that listens at an address of this machine.
    pub(crate) async fn start(address: Ipv4Addr, password: &str) -> Self {
        let (directory, port) = (Directory::new(), Port::reserve());
        let process = spawn(&directory, address, port.number, password).await;
        Self {
            address,
            port,
            directory,
            process,
        }
    }

    /// Host and port.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.address, self.port.number)
    }

    /// The value of `cloud.proxy`, or of a variable.
    pub(crate) fn url(&self, password: &str) -> String {
        format!("http://{USER}:{password}@{}", self.place())
    }

    /// Starts it again at the same place with another password.
    pub(crate) async fn restart(&mut self, password: &str) {
        self.process.kill();
        self.process = spawn(&self.directory, self.address, self.port.number, password).await;
    }

    /// How many connections to `place` its log says it was asked for. The log comes by a pipe, and so
    /// after what it tells of.
    pub(crate) fn asked_for(&self, place: &str) -> usize {
        let lines = self.process.lines();
        let request = request(place);
        lines.iter().filter(|line| line.contains(&request)).count()
    }

    /// Waits until its log says that it was asked for `count` connections to `place`.
    pub(crate) async fn wait_until_asked(&self, count: usize, place: &str) {
        let line = self.process.find_line(count, &request(place)).await;
        assert!(line.is_some(), "the proxy has ended");
    }
}

/// What a line of the log says of a connection that it was asked for.
fn request(place: &str) -> String {
    format!(": CONNECT {place} HTTP/1.1")
}

async fn spawn(directory: &Directory, address: Ipv4Addr, port: u16, password: &str) -> Process {
    let config = format!(
        "Port {port}\nListen {address}\nBasicAuth {USER} {password}\nLogLevel Info\nTimeout 600\n\
         MaxClients 100\n"
    );
    let file = directory.write("tinyproxy.conf", &config);
    // It logs to its standard output.
    let mut command = command("sh");
    command
        .args(["-c", "exec tinyproxy -d -c \"$0\" >&2"])
        .arg(file);
    let process = Process::start("tinyproxy", &mut command);
    let running = process.find_line(1, "Accepting connections").await;
    assert!(running.is_some(), "{}", process.lines().join("\n"));
    process
}
