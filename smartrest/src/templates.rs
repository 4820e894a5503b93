//! The templates that adit sends and receives, as types.

pub mod connect;
