//! The configuration as types.
