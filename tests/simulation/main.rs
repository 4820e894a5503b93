//! adit in a world of dice: the whole agent against a simulated platform, broker, network and LAN,
//! in one thread, in virtual time, from one seed.
#![expect(dead_code, reason = "the parties that use all of it come next")]

mod broker;
mod cloud;
mod faults;
#[path = "../judge/mod.rs"]
mod judge;
mod lan;
mod network;
mod places;
mod schedule;
mod side;
mod trace;
mod verdict;
mod world;
