//! The volume attributes: one table of all of them, and their parser.

use std::collections::BTreeMap;

/// Whether the value of the volume attribute `key` is a password or token: never to be printed,
/// and kept apart from the rest of a record.
pub fn is_secret(_key: &str) -> bool {
    todo!()
}

/// The keys of `nodePublishSecretRef` that `attributes` refer to; nothing else of it is needed.
pub fn referenced_secret_keys(_attributes: &BTreeMap<String, String>) -> Vec<&str> {
    todo!()
}
