//! The trust anchors in a volume, while an issuer changes under it.

use std::time::Duration;

use super::Installed;
use super::attempt::{node_error, write_files};
use super::life::Life;
use crate::clock::Timestamp;
use crate::issuer::{IssueError, IssueErrorKind};
use crate::renew::{Outcome, blocking, schedule, trust};
use crate::spec::request::CertificateSpec;
use crate::x509::{Bundle, Validity};

impl Life {
    /// The issuers changed: answers when to attempt next, where `next` was the plan.
    ///
    /// A volume that waits for its issuer tries at once. One whose CA was replaced trusts the new
    /// one at once and renews at its own place within the spread window.
    pub(super) async fn follow_issuer(&mut self, next: Timestamp) -> Timestamp {
        let request = self.request();
        let now = self.shared.settings.clock.now();
        let issuer = self.issuer(&request);
        let progress = self.progress.borrow().clone();
        let Some(installed) = progress.installed else {
            // Denied or not, the pod's owner shall see the answer of the issuer as it is now.
            return if progress.failure.is_some() { now } else { next };
        };
        let Ok(issuer) = issuer else {
            return next;
        };
        self.update_trust().await;
        let replaced = issuer.trust_anchors().is_some_and(|current| {
            !installed.own_anchors.iter().any(|own| trust::contains(current, own))
        });
        if !replaced {
            return if progress.failure.is_some() { now } else { next };
        }
        let window =
            schedule::spread_window(installed.leaf.validity(), request.certificate.duration);
        let renew_at = next.min(now + self.seed.part_of(window, 1));
        self.progress.send_modify(|progress| {
            if let Some(installed) = &mut progress.installed {
                installed.renew_at = renew_at;
            }
        });
        renew_at
    }

    /// Brings the anchors in the volume to what the issuer and the leaves in use need now.
    pub(super) async fn update_trust(&mut self) {
        let request = self.request();
        let Some(installed) = self.progress.borrow().installed.clone() else {
            return;
        };
        let Some(volume) = self.volume.clone() else {
            return;
        };
        let now = self.shared.settings.clock.now();
        let settling = settling(installed.leaf.validity(), &request.certificate);
        let issuer = self.issuer(&request).ok();
        let current = issuer.as_ref().and_then(|issuer| issuer.trust_anchors());
        let anchors = trust::anchors(
            current.unwrap_or(&installed.own_anchors),
            &[&installed.own_anchors, &installed.anchors],
            &self.shared.ledger,
            now,
            settling,
        );
        if trust::same(&anchors, &installed.anchors) {
            self.plan_trust_check(&installed);
            return;
        }
        let written = blocking({
            let anchors = anchors.clone();
            move || {
                let state = volume.state().map_err(node_error)?.unwrap_or_default();
                let bundle = Bundle::from_state(&state).map_err(|error| {
                    IssueError::new(IssueErrorKind::Node, "the volume's state is damaged")
                        .caused_by(error)
                })?;
                write_files(&volume, &request, &bundle.with_trust_anchors(anchors))
            }
        })
        .await;
        match written {
            Ok(()) => {
                let installed = Installed { anchors, ..installed };
                self.plan_trust_check(&installed);
                self.progress.send_modify(|progress| progress.installed = Some(installed));
                self.shared.report(self.subject(), Outcome::TrustChanged);
            }
            Err(error) => {
                self.trust_check_at = Some(self.note_failure(&error));
            }
        }
    }

    /// Looks again later while the volume holds an anchor that may go one day.
    pub(super) fn plan_trust_check(&mut self, installed: &Installed) {
        let request = self.request();
        let issuer = self.issuer(&request).ok();
        let current = issuer.as_ref().and_then(|issuer| issuer.trust_anchors());
        let wanted = current.unwrap_or(&installed.own_anchors);
        let surplus = installed.anchors.iter().any(|anchor| !trust::contains(wanted, anchor));
        let pause = settling(installed.leaf.validity(), &request.certificate) / 2;
        let now = self.shared.settings.clock.now();
        self.trust_check_at = surplus.then(|| now + pause.max(Duration::from_secs(1)));
    }
}

/// How long an anchor that no leaf of this node needs is still carried, for those of other nodes.
pub(super) fn settling(validity: Validity, spec: &CertificateSpec) -> Duration {
    schedule::spread_window(validity, spec.duration) * 2
}
