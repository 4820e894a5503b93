//! What is said to the platform, and what its words mean.

pub mod announcement;
pub mod bridge;
pub mod fragment;
pub mod ids;
pub mod operations;
pub mod settings;
