//! cli

pub mod namespace;
