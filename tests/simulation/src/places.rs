//! Who stands where in the simulated network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The broker.
pub(crate) const BROKER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1883);
/// The cloud's WebSockets.
pub(crate) const CLOUD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 80);
/// The names of the two, where they have any.
pub(crate) const BROKER_NAME: &str = "broker.test";
pub(crate) const CLOUD_NAME: &str = "cloud.test";
/// The port of every machine.
pub(crate) const PORT: u16 = 22;

/// The machine of an operation, which has an address of its own.
pub(crate) fn machine(number: usize) -> SocketAddr {
    SocketAddr::new(address([10, 1], number), PORT)
}

/// The name of such a machine, where it has one.
pub(crate) fn machine_name(number: usize) -> String {
    format!("machine-{number}.test")
}

/// An address that the policy does not allow.
pub(crate) fn forbidden(number: usize) -> SocketAddr {
    SocketAddr::new(address([198, 51], number), PORT)
}

fn address([first, second]: [u8; 2], number: usize) -> IpAddr {
    const HOSTS: usize = 250;
    let part = |number: usize| u8::try_from(number % HOSTS + 1).unwrap_or(1);
    Ipv4Addr::new(first, second, part(number / HOSTS), part(number)).into()
}
