//! Key, leaf, intermediates and trust anchors that were checked to belong together.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Certificate, PrivateKey, Template, Validity};
use crate::clock::Timestamp;

/// What an issuer returned, unchecked.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates in any order; a root among them is moved to the anchors.
    pub chain: Vec<Certificate>,
    /// May be empty where the CA does not say.
    pub trust_anchors: Vec<Certificate>,
}

/// The only thing that is written into a volume.
#[derive(Debug)]
pub struct Bundle {
    key: Arc<PrivateKey>,
    leaf: Certificate,
    intermediates: Vec<Certificate>,
    trust_anchors: Vec<Certificate>,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{0}")]
    Todo(String),
}

impl Bundle {
    /// Checks that `issued` is an answer to what was asked, and orders its chain by signature.
    pub fn new(
        _key: Arc<PrivateKey>,
        _issued: Issued,
        _template: &Template,
        _now: Timestamp,
    ) -> Result<Self, BundleError> {
        todo!()
    }
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }
    pub fn trust_anchors(&self) -> &[Certificate] {
        &self.trust_anchors
    }
    pub fn validity(&self) -> Validity {
        self.leaf.validity()
    }
    /// The same bundle with other trust anchors, for when a CA changes.
    #[must_use]
    pub fn with_trust_anchors(self, trust_anchors: Vec<Certificate>) -> Self {
        Self { trust_anchors, ..self }
    }
    /// All of it as PEM, for the volume's private state: key, chain, then a marker, then anchors.
    pub fn to_state(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }
    /// Reads what [`Bundle::to_state`] wrote, checking that key and leaf match.
    pub fn from_state(_state: &[u8]) -> Result<Self, BundleError> {
        todo!()
    }
}
