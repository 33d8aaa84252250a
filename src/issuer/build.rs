//! Issuers from the objects that describe them.

use std::error::Error;
use std::sync::Arc;

use super::{Ca, CaError, CaLimits, CaMaterial, Entry, Issuer, SelfSigned};
use crate::clock::Clock;
use crate::spec::object::{CaSource, CaSpec, IssuerMethod, IssuerObject};
use crate::spec::policy::Cluster;
use crate::x509::AuthorityInformation;

/// What issuers are made with, whatever object describes them.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// When certificates are signed.
    pub clock: Clock,
    /// What the names in policies are made of.
    pub cluster: Cluster,
}

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

/// Makes the issuer that `object` describes; `find` answers what a CA signs with.
///
/// An issuer that is not ready is an entry as well, so that its volumes wait for it and say why.
pub fn build(
    object: &IssuerObject,
    surroundings: &Surroundings,
    find: impl FnOnce(&CaSource) -> Result<CaMaterial, BuildError>,
) -> Entry {
    let issuer = match &object.spec.method {
        IssuerMethod::Ca(spec) => ca(spec, surroundings, find),
        IssuerMethod::SelfSigned(spec) => {
            let information = AuthorityInformation {
                crl_distribution_points: spec.crl_distribution_points.clone(),
                ..AuthorityInformation::default()
            };
            Ok(Arc::new(SelfSigned::new(information, surroundings.clock.clone())) as _)
        }
        IssuerMethod::Unsupported(method) => Err(BuildError::Unsupported(method)),
    };
    Entry {
        policy: object.spec.policy.clone().in_cluster(surroundings.cluster.clone()),
        issuer: issuer.map_err(|error| with_causes(&error)),
    }
}

fn ca(
    spec: &CaSpec,
    surroundings: &Surroundings,
    find: impl FnOnce(&CaSource) -> Result<CaMaterial, BuildError>,
) -> Result<Arc<dyn Issuer>, BuildError> {
    let authority = find(&spec.source)?.load()?;
    let information = AuthorityInformation {
        crl_distribution_points: spec.crl_distribution_points.clone(),
        ocsp_servers: spec.ocsp_servers.clone(),
        issuing_certificate_urls: spec.issuing_certificate_urls.clone(),
    };
    let limits = CaLimits { max_duration: spec.max_duration, backdate: spec.backdate };
    Ok(Arc::new(Ca::new(authority, information, limits, surroundings.clock.clone())))
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
