//! The parts of adit, as a library for the command and the demo.
//!
//! A tunnel knows nothing of MQTT, the session knows nothing of tunnels; only the agent knows both.

#[cfg(all(feature = "simulation", not(debug_assertions)))]
compile_error!("a release must not contain the feature simulation: build it without the feature");

pub mod admin;
mod agent;
pub mod assembly;
pub mod auth;
pub mod check;
pub mod cli;
pub mod config;
pub mod confinement;
mod connect;
mod diagnose;
mod enrol;
pub mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inquiry;
pub mod limits;
pub mod logging;
pub mod mqtt;
pub mod net;
mod notify;
pub mod password;
mod platform;
mod reload;
pub mod secret;
pub mod state;
mod status;
pub mod succession;
mod threads;
pub mod tunnel;
mod upgrade;
pub mod words;
