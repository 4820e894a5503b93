//! A network of its own, from which one address of this machine is reached and nothing else.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tokio::net::UdpSocket;

use super::ports::{PORTS, Port};
use super::process::command;

/// Meant for tests of networks (RFC 2544), so that nothing else has addresses there.
const TEST_NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Addresses that one network uses.
const SHARE: u32 = 8;

/// A network namespace, joined to this machine by a cable. Dropping it removes both.
pub(crate) struct Network {
    /// Its number tells this network from those of all other tests on this machine.
    port: Port,
}

impl Network {
    /// Makes the network.
    pub(crate) fn new() -> Self {
        let network = Self {
            port: Port::reserve(),
        };
        // What a test left that was killed.
        network.remove();
        let (name, [near, far]) = (network.name(), network.cable());
        let [gate, within, outside] = [1, 2, 5].map(|number| network.address(number));
        for arguments in [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add {gate}/30 dev {near}"),
            format!("addr add {outside}/32 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} addr add {within}/30 dev {far}"),
            format!("-n {name} link set {far} up"),
            format!("-n {name} link set lo up"),
        ] {
            let output = ip(&arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "tests of proxies need root and network namespaces; ip {arguments}: {said}"
            );
        }
        network
    }

    /// The one address of this machine that is reached from within.
    pub(crate) fn gate(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// An address of this machine to which no way leads from within.
    pub(crate) fn outside(&self) -> Ipv4Addr {
        self.address(5)
    }

    /// Names the server that is asked for names from within, and the hosts that are known without.
    pub(crate) fn set_names(&self, server: Ipv4Addr, hosts: &str) {
        let directory = self.configuration();
        fs::create_dir_all(&directory).unwrap();
        let server = format!("nameserver {server}\n");
        fs::write(directory.join("resolv.conf"), server).unwrap();
        fs::write(directory.join("hosts"), hosts).unwrap();
        fs::write(directory.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    }

    /// Makes the gate a name server that never answers, and names hosts that are known without it. It
    /// is one for as long as what is returned lives, where its questions arrive.
    pub(crate) async fn silence_names(&self, hosts: &str) -> UdpSocket {
        const DNS: u16 = 53;
        let gate = self.gate();
        let silent = UdpSocket::bind((gate, DNS)).await.unwrap();
        self.set_names(gate, hosts);
        silent
    }

    /// What `ip netns exec` puts over the files of the same names in `/etc`.
    fn configuration(&self) -> PathBuf {
        Path::new("/etc/netns").join(self.name())
    }

    /// Returns a command that runs the program `env` within.
    pub(crate) fn env(&self) -> Command {
        let mut command = command("ip");
        command.args(["netns", "exec", &self.name(), "env"]);
        command
    }

    fn name(&self) -> String {
        format!("adit-{}", self.port.number)
    }

    /// The ends of the cable; 15 characters at most.
    fn cable(&self) -> [String; 2] {
        ["n", "f"].map(|end| format!("adit-{}{end}", self.port.number))
    }

    fn address(&self, number: u32) -> Ipv4Addr {
        let share = u32::from(self.port.number - PORTS.start) * SHARE;
        (u32::from(TEST_NETWORK) + share + number).into()
    }

    fn remove(&self) {
        // The cable goes at once, the namespace when its last process is gone.
        let [near, _] = self.cable();
        drop(ip(&format!("link del {near}")));
        drop(ip(&format!("netns del {}", self.name())));
        drop(fs::remove_dir_all(self.configuration()));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(arguments: &str) -> Output {
    command("ip").args(arguments.split(' ')).output().unwrap()
}
