//! What the CA says about when to renew the certificate in the volume (RFC 9773).

use std::time::Duration;

use super::life::Life;
use crate::renew::schedule;

/// When a CA that could not be asked is asked again.
const AFTER_FAILURE: Duration = Duration::from_secs(6 * 3600);

impl Life {
    /// Asks the CA when it wants the certificate renewed, and plans for that. Where it says nothing
    /// the plan stays as it is.
    pub(super) async fn follow_advice(&mut self) {
        self.advice_due = None;
        let request = self.request();
        let Some(installed) = self.progress.borrow().installed.clone() else {
            return;
        };
        let Ok(issuer) = self.issuer(&request) else {
            return;
        };
        let asked = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return,
            asked = issuer.renewal(&installed.leaf) => asked,
        };
        let now = self.shared.settings.clock.now();
        let advice = match asked {
            Ok(Some(advice)) => advice,
            Ok(None) => return,
            // It is no more than advice: without it the certificate is renewed in time as well.
            Err(_) => {
                self.advice_due = Some(now + AFTER_FAILURE);
                return;
            }
        };
        self.advice_due = Some(now + advice.ask_again);
        let (validity, spec) = (installed.leaf.validity(), &request.certificate);
        let own = schedule::renew_at(validity, spec, self.seed);
        let advised = match advice.window {
            Some(window) => schedule::advised(window, validity, spec, self.seed),
            None => own,
        };
        let due = if advised > now {
            self.hurries = 0;
            advised
        } else {
            // A CA that wants each new certificate renewed at once must not make a loop of it.
            let pause = schedule::pause_of_hurry(self.hurries);
            self.hurries += 1;
            now + pause
        };
        let retrying = self.progress.borrow().failure.is_some();
        self.plan.due = if retrying { self.plan.due.min(due) } else { due };
        self.progress.send_modify(|progress| {
            if let Some(installed) = &mut progress.installed {
                installed.renew_at = due;
            }
        });
    }
}
