//! What the unit tests of several issuers share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{HandleInMemory, IssuerSet, Issuers, Order, Requester, Warnings};
use crate::spec::fixture::pod;
use crate::spec::request::CertificateSpec;
use crate::spec::tokens::PodTokens;
use crate::spec::volume::{PodRef, VolumeId};
use crate::x509::{CertificationRequest, PrivateKey};

/// All that an order refers to, for the volume `tls` of the pod `shop/web-0`. A test that means
/// something else takes the rest from here: `Order { tokens, ..asking.order() }`.
pub(super) struct Asking {
    pub(super) spec: CertificateSpec,
    pub(super) key: Arc<PrivateKey>,
    pub(super) warnings: Warnings,
    id: VolumeId,
    pod: PodRef,
    request: CertificationRequest,
    annotations: BTreeMap<String, String>,
    tokens: PodTokens,
    handle: HandleInMemory,
    issuers: Issuers,
}

impl Asking {
    /// Asks for `spec`, with `key` to be certified.
    pub(super) fn new(spec: &CertificateSpec, key: Arc<PrivateKey>) -> Self {
        Self {
            request: CertificationRequest::new(&spec.template, &key).unwrap(),
            spec: spec.clone(),
            key,
            warnings: Warnings::default(),
            id: VolumeId::of_inline_volume("uid-1", "tls"),
            pod: pod("shop", "web-0", "web"),
            annotations: BTreeMap::new(),
            tokens: PodTokens::default(),
            handle: HandleInMemory::default(),
            issuers: no_issuers(),
        }
    }

    /// With a new key.
    pub(super) fn for_new_key(spec: &CertificateSpec) -> Self {
        Self::new(spec, Arc::new(PrivateKey::generate(spec.key_algorithm).unwrap()))
    }

    pub(super) fn order(&self) -> Order<'_> {
        Order {
            requester: Requester::Volume { id: &self.id, pod: &self.pod },
            spec: &self.spec,
            request: &self.request,
            annotations: &self.annotations,
            key: &self.key,
            tokens: &self.tokens,
            warnings: &self.warnings,
            previous: None,
            handle: &self.handle,
            issuers: &self.issuers,
        }
    }
}

/// A registry of no issuers.
pub(super) fn no_issuers() -> Issuers {
    Issuers::channel(IssuerSet::default()).1
}
