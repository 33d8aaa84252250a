//! What a volume asked for, as kept in its tmpfs.

use std::collections::BTreeMap;

use crate::spec::request::Secrets;

/// What is needed to carry on after a restart: the request as it came, less tokens. Passwords are
/// kept apart from the rest, and neither is ever printed.
#[derive(Debug)]
pub struct Record {
    pub volume_id: String,
    pub target_path: String,
    pub volume_mount_group: String,
    pub read_only: bool,
    pub attributes: BTreeMap<String, String>,
    pub secrets: Secrets,
}
