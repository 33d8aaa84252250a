//! The trust anchors in a volume, while its issuer and the other sources change under it.

use std::time::Duration;

use tokio::time::timeout;

use super::Installed;
use super::attempt::{node_error, write_files};
use super::life::{Home, Life, Plan, Stopped};
use crate::anchors::Problem;
use crate::issuer::{IssueError, IssueErrorKind};
use crate::renew::{Outcome, blocking, schedule, trust};
use crate::spec::request::PublishRequest;
use crate::x509::{Bundle, Certificate};

impl Life {
    /// The issuers changed. What is no change for this volume moves nothing, so that an edit of one
    /// issuer does not make the volumes of all others ask theirs before it is time.
    ///
    /// A volume that waits for its issuer tries at once. One whose CA was replaced trusts the new
    /// one at once and renews at its own place within the spread window.
    pub(super) async fn follow_issuer(&mut self) {
        let request = self.request();
        let now = self.shared.settings.clock.now();
        let issuer = self.issuer(&request);
        if !self.is_news(&issuer) {
            return;
        }
        let progress = self.progress.borrow().clone();
        if let (Some(installed), Ok(issuer)) = (&progress.installed, &issuer) {
            self.update_trust().await;
            let replaced = issuer.trust_anchors().is_some_and(|current| {
                !installed.own_anchors.iter().any(|own| trust::contains(current, own))
            });
            if replaced {
                let window = schedule::spread_window(
                    installed.leaf.validity(),
                    request.certificate.duration,
                );
                self.plan.due = self.plan.due.min(now + self.seed.part_of(window, 1));
                let renew_at = self.plan.due;
                self.progress.send_modify(|progress| {
                    if let Some(installed) = &mut progress.installed {
                        installed.renew_at = renew_at;
                    }
                });
                return;
            }
        }
        // Denied or not, the pod's owner shall see the answer of the issuer as it is now; a
        // certificate that holds can wait for an issuer that is ready.
        if progress.failure.is_some() && (progress.installed.is_none() || issuer.is_ok()) {
            self.plan = Plan::at_once(now);
        }
    }

    /// The sources beside the issuer changed: the volume trusts whom they say now, and its owner is
    /// told of what they cannot mean.
    pub(super) async fn follow_elsewhere(&mut self) {
        if self.progress.borrow().installed.is_none() {
            // The sources and the issuer may have named too many.
            let wrong = matches!(
                &self.progress.borrow().failure,
                Some(failure) if failure.kind == IssueErrorKind::Config
            );
            if (self.awaits_trust || wrong) && self.elsewhere.known().is_some() {
                self.plan = Plan::at_once(self.shared.settings.clock.now());
            }
            return;
        }
        self.update_trust().await;
    }

    /// Tells the volume's owner, once, whom it should trust and does not.
    fn tell_trust_problem(&mut self, installed: &Installed) {
        let issuer = self.issuer(&self.request()).ok();
        let issuers = issuer.as_ref().and_then(|issuer| issuer.trust_anchors());
        let issuers = issuers.unwrap_or(&installed.own_anchors);
        let too_many = || trust::too_many(issuers, &self.elsewhere.known()?).map(Problem::Wrong);
        match self.elsewhere.problem().or_else(too_many) {
            Some(Problem::Wrong(message)) if self.trust_told.as_ref() != Some(&message) => {
                self.trust_told = Some(message.clone());
                self.shared.report(self.subject(), Outcome::TrustKept { message });
            }
            Some(_) => {}
            None => self.trust_told = None,
        }
    }

    /// Returns when it is known whom the volume is to trust beside its issuer: a pod that starts
    /// with less would not notice. What has a certificate keeps what it trusts meanwhile.
    pub(super) async fn await_trust(&mut self) -> Result<(), Stopped> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let is_installed = self.progress.borrow().installed.is_some();
        self.awaits_trust = !is_installed && self.elsewhere.known().is_none();
        if !self.awaits_trust {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
            _ = timeout(PATIENCE, self.elsewhere.settled()) => {}
        }
        if self.elsewhere.known().is_some() {
            self.awaits_trust = false;
            return Ok(());
        }
        let unread = "the trust anchors that the volume names could not be read yet: the API \
                      server does not answer";
        let error = match self.elsewhere.problem() {
            Some(Problem::Wrong(message)) => IssueError::new(IssueErrorKind::Config, message),
            Some(Problem::Unread(message)) => IssueError::new(IssueErrorKind::Unavailable, message),
            None => IssueError::new(IssueErrorKind::Unavailable, unread),
        };
        Err(error.into())
    }

    /// Brings the anchors in the volume to what its issuer, the other sources and the leaves in use
    /// need now.
    pub(super) async fn update_trust(&mut self) {
        let request = self.request();
        let Some(installed) = self.progress.borrow().installed.clone() else {
            return;
        };
        let Home::Made(volume) = self.home.clone() else {
            return;
        };
        self.tell_trust_problem(&installed);
        let now = self.shared.settings.clock.now();
        let settling = schedule::settling(installed.leaf.validity(), request.certificate.duration);
        let anchors = trust::anchors(
            &self.wanted(&request, &installed),
            &[&installed.own_anchors, &installed.anchors],
            &self.shared.ledger,
            now,
            settling,
        );
        if trust::same(&anchors, &installed.anchors) {
            self.plan_trust_check(&installed);
            self.forget_trust_failure();
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
                self.forget_trust_failure();
                self.shared.report(self.subject(), Outcome::TrustChanged);
            }
            Err(error) => {
                self.trust_check_at = Some(self.note_failure(&error, false));
                self.trust_failed = true;
            }
        }
    }

    /// The anchors are as they should be; if the last failure was that they were not, it is over.
    fn forget_trust_failure(&mut self) {
        if std::mem::take(&mut self.trust_failed) {
            self.failures = 0;
            self.progress.send_modify(|progress| progress.failure = None);
        }
    }

    /// Looks again later while the volume holds an anchor that may go one day.
    pub(super) fn plan_trust_check(&mut self, installed: &Installed) {
        let request = self.request();
        let wanted = self.wanted(&request, installed);
        let surplus = installed.anchors.iter().any(|anchor| !trust::contains(&wanted, anchor));
        let pause = schedule::settling(installed.leaf.validity(), request.certificate.duration) / 2;
        let now = self.shared.settings.clock.now();
        self.trust_check_at = surplus.then(|| now + pause.max(Duration::from_secs(1)));
    }

    /// The anchors that the volume is to have, whatever the leaves in use need.
    fn wanted(&self, request: &PublishRequest, installed: &Installed) -> Vec<Certificate> {
        // Without an issuer, who is to be trusted next is known when it is back.
        let issuer = self.issuer(request).ok();
        let current =
            issuer.as_ref().map(|issuer| issuer.trust_anchors().unwrap_or(&installed.own_anchors));
        // What does not fit is told, and changes nothing.
        let fits = |elsewhere: &Vec<_>| {
            trust::too_many(current.unwrap_or(&installed.own_anchors), elsewhere).is_none()
        };
        let elsewhere = self.elsewhere.known().filter(fits);
        trust::wanted(current, elsewhere.as_deref(), &installed.anchors)
    }
}
