//! Issuers from the objects that describe them.

use std::sync::Arc;

use super::{Ca, CaError, CaLimits, CaMaterial, Issuer, SelfSigned};
use crate::clock::Clock;
use crate::spec::object::IssuerMethod;
use crate::x509::AuthorityInformation;

/// Why an issuer is not ready. `Display` says its own part; the cause is its `source`.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What it signs with makes no CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What it signs with is not there.
    #[error("{0}")]
    Missing(String),
    /// This build does not have the method.
    #[error("{0} is not supported by this build: use ca or selfSigned")]
    Unsupported(&'static str),
}

/// Makes an issuer that signs as `method` says, a CA with `material`, at the times of `clock`.
///
/// # Errors
///
/// When the material is missing or does not fit, or when this build does not have the method.
pub fn build(
    method: &IssuerMethod,
    material: Option<&CaMaterial>,
    clock: &Clock,
) -> Result<Arc<dyn Issuer>, BuildError> {
    match method {
        IssuerMethod::Ca(spec) => {
            let missing = || BuildError::Missing("the CA's certificate and key are missing".into());
            let authority = material.ok_or_else(missing)?.load()?;
            let information = AuthorityInformation {
                crl_distribution_points: spec.crl_distribution_points.clone(),
                ocsp_servers: spec.ocsp_servers.clone(),
                issuing_certificate_urls: spec.issuing_certificate_urls.clone(),
            };
            let limits = CaLimits { max_duration: spec.max_duration, backdate: spec.backdate };
            Ok(Arc::new(Ca::new(authority, information, limits, clock.clone())))
        }
        IssuerMethod::SelfSigned(spec) => {
            let information = AuthorityInformation {
                crl_distribution_points: spec.crl_distribution_points.clone(),
                ..AuthorityInformation::default()
            };
            Ok(Arc::new(SelfSigned::new(information, clock.clone())))
        }
        IssuerMethod::Unsupported(method) => Err(BuildError::Unsupported(method)),
    }
}
