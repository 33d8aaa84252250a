//! What a volume asked for, as kept in its tmpfs.

use std::collections::BTreeMap;

use crate::spec::request::{NodeContext, PublishRequest, RawRequest, RequestError, Secrets};

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

impl Record {
    /// The request that this record stands for, as kubelet made it.
    pub fn request(&self, node: &NodeContext) -> Result<PublishRequest, RequestError> {
        let raw = RawRequest {
            volume_id: &self.volume_id,
            target_path: &self.target_path,
            attributes: &self.attributes,
            volume_mount_group: &self.volume_mount_group,
            pod_ip: None,
        };
        PublishRequest::parse(raw, &self.secrets, node)
    }

    /// Whether `other` asks for the same, passwords apart.
    pub fn same_request(&self, _other: &Self) -> bool {
        todo!()
    }

    /// Whether `other` brings the same passwords.
    pub fn same_secrets(&self, _other: &Self) -> bool {
        todo!()
    }
}
