//! adit from end to end: the real command between a real Mosquitto and the simulated platform.
//!
//! One binary for all, because each more would have to be linked. A test waits for events, each with
//! a deadline, and owns what it starts; whatever it started is gone when it ends.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that fails says so by panicking, and shows the logs"
)]

mod admin;
mod announcement;
mod broker;
mod bytes;
mod check;
mod check_by_agent;
mod children;
mod configuration;
mod connect;
mod diagnose;
mod drains;
mod ends;
mod enrolment;
mod exhaustion;
mod failures;
#[path = "../judge/mod.rs"]
mod judge;
mod logs;
mod mqtt_service;
mod names;
mod notifications;
mod operation_ids;
mod operations;
mod outages;
mod passwords;
mod proxies;
mod registration;
mod reload;
mod renewal;
mod sandbox;
mod secrecy;
mod shutdown;
mod status;
mod succession;
mod support;
mod tokens;
mod trust;
mod tunnels;
mod upgrade;
mod ways;
mod weather;
