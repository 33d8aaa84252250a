//! One key and certificate for several pods of the node, where their issuer says so: twenty replicas
//! are then one order.
//!
//! Only pods with the same namespace, service account and request share, so each gets no more than
//! it would by itself. Whoever is first orders; the others wait, and take key and certificate out of
//! that volume, at each renewal again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::OwnedMutexGuard;

use super::life::{Life, Stopped};
use crate::renew::{blocking, schedule};
use crate::spec::request::PublishRequest;
use crate::sync::lock;
use crate::volume::Volume;
use crate::x509::{Bundle, Certificate, Issued, PrivateKey};

/// Whose turn it is to order, among those who ask for the same.
#[derive(Debug, Default)]
pub(in crate::renew) struct Sharing(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Sharing {
    async fn turn(&self, request: &PublishRequest) -> OwnedMutexGuard<()> {
        let pod = &request.pod;
        let same = format!("{} {} {:?}", pod.namespace, pod.service_account, request.certificate);
        let turn = {
            let mut turns = lock(&self.0);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(same).or_default())
        };
        turn.lock_owned().await
    }
}

/// What another volume has, and may be had with it.
#[derive(Debug)]
pub(in crate::renew) struct Offer {
    /// Where its key is.
    pub(super) volume: Volume,
    pub(super) leaf: Certificate,
    /// What the leaf chains to.
    pub(super) anchors: Vec<Certificate>,
}

/// Whether pods with these requests are given the same.
pub(super) fn is_same(a: &PublishRequest, b: &PublishRequest) -> bool {
    a.volume != b.volume
        && a.pod.namespace == b.pod.namespace
        && a.pod.service_account == b.pod.service_account
        && a.certificate == b.certificate
}

impl Life {
    /// Waits until no other volume orders the same.
    pub(super) async fn turn(
        &self,
        request: &PublishRequest,
    ) -> Result<OwnedMutexGuard<()>, Stopped> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Stopped::Cancelled),
            turn = self.shared.sharing.turn(request) => Ok(turn),
        }
    }

    /// Key and certificate of another volume, if they are newer than this one's and not due for
    /// renewal.
    pub(super) async fn offered(
        &self,
        request: &PublishRequest,
    ) -> Option<(Arc<PrivateKey>, Issued)> {
        // After a restart, the one to share with may be next in line to be taken over.
        self.shared.adoptions.wait().await;
        let offers = self.shared.offers(request);
        let now = self.shared.settings.clock.now();
        let since = |leaf: &Certificate| leaf.validity().not_before;
        let own = self.progress.borrow().installed.as_ref().map(|held| held.leaf.clone());
        let is_newer = |leaf: &Certificate| {
            own.as_ref().is_none_or(|own| leaf != own && since(leaf) >= since(own))
        };
        let (spec, seed) = (&request.certificate, self.seed);
        let newest = offers
            .into_iter()
            .filter(|offer| is_newer(&offer.leaf))
            .filter(|offer| schedule::renew_at(offer.leaf.validity(), spec, seed) > now)
            .max_by_key(|offer| since(&offer.leaf));
        let Offer { volume, leaf, anchors } = newest?;
        let found = blocking(move || {
            // The volume may be on its way out: then there is nothing to share.
            let state = volume.state().ok().flatten()?;
            let bundle = Bundle::from_state(&state).ok().filter(|it| *it.leaf() == leaf)?;
            let chain = [bundle.leaf()].into_iter().chain(bundle.intermediates());
            let issued = Issued { chain: chain.cloned().collect(), trust_anchors: anchors };
            Some((Arc::clone(bundle.key()), issued))
        });
        found.await
    }
}
