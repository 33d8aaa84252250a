//! What is asked: the volume's attributes, parsed once into types that cannot be wrong.
//!
//! Nothing here does I/O. [`request::PublishRequest::parse`] is the only way in for what a pod
//! declares, [`object`] for what an operator declares.

pub mod attributes;
#[cfg(test)]
pub(crate) mod fixture;
pub mod layout;
pub mod object;
pub mod policy;
pub mod request;
pub mod tokens;
pub mod values;
pub mod variables;
pub mod volume;
pub mod yaml;
