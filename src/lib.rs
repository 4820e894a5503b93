//! The parts of adit, as a library for the command and the demo.
//!
//! A tunnel knows nothing of MQTT, the session knows nothing of tunnels; only the agent knows both.

pub mod agent;
pub mod announcement;
pub mod cli;
pub mod cloud;
pub mod collection;
pub mod config;
pub mod connect;
pub mod credentials_file;
pub mod dial;
pub mod enrolment;
pub mod fragment;
pub mod logging;
pub mod operations;
pub mod reason;
pub mod secret;
pub mod tunnel;
