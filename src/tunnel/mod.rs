//! Everything between two sockets: the machine on the LAN and the cloud's WebSocket.

pub mod policy;
