//! Which names an issuer may sign for which pod: deny by default.

use super::request::CertificateSpec;
use super::volume::PodRef;

/// The name policy of one issuer.
#[derive(Clone, Debug, Default)]
pub struct NamePolicy {
    _todo: (),
}

/// What was refused, and the rule that would allow it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyDenied(pub String);

impl NamePolicy {
    /// Whether `pod` may have what `spec` asks for.
    pub fn check(&self, _pod: &PodRef, _spec: &CertificateSpec) -> Result<(), PolicyDenied> {
        todo!()
    }
}
