//! Events on pods: what their owners should know of their certificates.
//!
//! Events are written by a task of their own, one after the other; whoever reports does not wait.
//! Where many volumes are published at once they come after the certificates, which pods wait for:
//! an Event costs the API server as much as a request for a certificate does. While the API server
//! is gone, or the reports stay ahead, events are lost: they tell nothing that the log and the
//! metrics do not.
//!
//! A failure that repeats is one Event with a count, written at most every five minutes.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::issuer::IssueErrorKind;
use crate::renew::{Outcome, Report};
use crate::spec::volume::{PodRef, VolumeId};

/// Takes reports and writes them as Events.
#[derive(Debug)]
pub struct Events {
    reports: mpsc::Sender<(Timestamp, Report)>,
    clock: Clock,
    /// Ends the waits between Events.
    hurry: CancellationToken,
    writer: JoinHandle<()>,
}

impl Events {
    /// Events that come from the driver `driver` on the node `node`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(client: Client, driver: &str, node: &str, clock: Clock) -> Self {
        let (sender, reports) = mpsc::channel(MOST_WAITING);
        let source =
            EventSource { component: Some(driver.to_owned()), host: Some(node.to_owned()) };
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hurry = CancellationToken::new();
        let writer = Writer { client, source, pace, hurry: hurry.clone(), told: HashMap::new() };
        let writer = tokio::spawn(writer.write_all(reports));
        Self { reports: sender, clock, hurry, writer }
    }

    /// Has an Event written about `report` some time, unless nobody needs to know.
    pub fn observe(&self, report: &Report) {
        // Full, or the runtime shuts down.
        let _ = self.reports.try_send((self.clock.now(), report.clone()));
    }

    /// Writes what is not written yet, as fast as the API server takes it.
    pub async fn close(self) {
        drop(self.reports);
        self.hurry.cancel();
        // A panic of the task was reported when it happened.
        let _ = self.writer.await;
    }
}

/// One report for each of the pods that a node can have, and some more.
const MOST_WAITING: usize = 512;

/// The time between two Events. What a node writes in a burst of publishes then takes no more than
/// a few percent of what the API server does for their certificates.
const PACE: Duration = Duration::from_millis(50);

/// How long a failure that repeats is not told again.
const SPACING: Duration = Duration::from_secs(300);

/// The API server answers within this, or the event is lost.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

struct Writer {
    client: Client,
    source: EventSource,
    pace: Interval,
    hurry: CancellationToken,
    /// What the owners of volumes know that are in trouble.
    told: HashMap<VolumeId, Told>,
}

/// The last Event about a volume's trouble.
struct Told {
    name: String,
    reason: &'static str,
    /// What is wrong, without times.
    cause: String,
    count: i32,
    at: Timestamp,
    /// What was left of the certificate when its renewal first failed.
    left_at_first: Option<Duration>,
}

/// What an Event says.
struct Words {
    severity: &'static str,
    reason: &'static str,
    message: String,
}

const NORMAL: &str = "Normal";
const WARNING: &str = "Warning";

impl Writer {
    async fn write_all(mut self, mut reports: mpsc::Receiver<(Timestamp, Report)>) {
        while let Some((at, report)) = reports.recv().await {
            self.write(at, &report).await;
        }
    }

    /// Tells what happened at `now`.
    async fn write(&mut self, now: Timestamp, report: &Report) {
        let issuer = &report.issuer;
        let words = match &report.outcome {
            // Its pod is gone.
            Outcome::Adopted | Outcome::NotRemoved { .. } => return,
            Outcome::Unpublished => {
                self.told.remove(&report.volume);
                return;
            }
            Outcome::Issued { renewal, serial, not_after, renew_at, .. } => {
                self.told.remove(&report.volume);
                let (reason, what) = match renewal {
                    false => ("CertificateIssued", "issued a certificate"),
                    true => ("CertificateRenewed", "renewed the certificate"),
                };
                let message = format!(
                    "{issuer} {what}: serial number {serial}, holds until {}, renewal at {}",
                    seconds(*not_after),
                    seconds(*renew_at),
                );
                Words { severity: NORMAL, reason, message }
            }
            Outcome::Warned { message } => Words {
                severity: WARNING,
                reason: "IssuerWarning",
                message: with_issuer(message, &issuer.to_string()),
            },
            Outcome::TrustChanged => Words {
                severity: NORMAL,
                reason: "TrustAnchorsReplaced",
                message: "whom to trust has changed; the new trust anchors are in the volume"
                    .to_owned(),
            },
            Outcome::TrustKept { message } => Words {
                severity: WARNING,
                reason: "TrustAnchorsKept",
                message: format!("{message}; the trust anchors in the volume stay"),
            },
            Outcome::Failed { .. } => return self.write_failure(now, report).await,
        };
        self.create(now, &report.pod, words).await;
    }

    async fn write_failure(&mut self, now: Timestamp, report: &Report) {
        let Outcome::Failed { kind, message: cause, retry_at, not_after, .. } = &report.outcome
        else {
            return;
        };
        let told = self.told.get(&report.volume);
        let left = not_after.map(|end| Duration::try_from(end.duration_since(now)).ok());
        let left_at_first = match told {
            Some(Told { left_at_first: Some(first), .. }) => Some(*first),
            _ => left.flatten(),
        };
        let (severity, reason) = match left {
            None => of_first(*kind),
            Some(left) => (WARNING, of_renewal(*kind, left, left_at_first)),
        };
        let ends = match (not_after, reason) {
            (None, _) => String::new(),
            (Some(end), EXPIRED) => format!("; the certificate expired at {}", seconds(*end)),
            (Some(end), _) => format!("; the certificate holds until {}", seconds(*end)),
        };
        let message = format!(
            "{}{ends}; next try at {}",
            with_issuer(cause, &report.issuer.to_string()),
            seconds(*retry_at)
        );
        let words = Words { severity, reason, message };

        let same = told.filter(|told| told.reason == reason && told.cause == *cause);
        let same = same.map(|told| (told.name.clone(), told.count.saturating_add(1), told.at));
        let (name, count, at) = match same {
            None => (self.create(now, &report.pod, words).await, 1, now),
            Some((name, count, at)) => {
                if now.duration_since(at).unsigned_abs() >= SPACING {
                    self.repeat(now, &report.pod, &name, count, words).await;
                    (name, count, now)
                } else {
                    (name, count, at)
                }
            }
        };
        let cause = cause.clone();
        let told = Told { name, reason, cause, count, at, left_at_first };
        self.told.insert(report.volume.clone(), told);
    }

    /// Answers the Event's name.
    async fn create(&mut self, now: Timestamp, pod: &PodRef, words: Words) -> String {
        // As other components name them.
        let name = format!("{}.{:x}", pod.name, now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            },
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            type_: Some(words.severity.to_owned()),
            reason: Some(words.reason.to_owned()),
            message: Some(fit(words.message)),
            first_timestamp: Some(time(now)),
            last_timestamp: Some(time(now)),
            count: Some(1),
            ..Event::default()
        };
        self.turn().await;
        let events = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        let params = PostParams::default();
        let created = events.create(&params, &event);
        note_loss(pod, timeout(WRITE_TIMEOUT, created).await);
        name
    }

    async fn repeat(&mut self, now: Timestamp, pod: &PodRef, name: &str, count: i32, words: Words) {
        let change = Patch::Merge(json!({
            "count": count,
            "lastTimestamp": time(now),
            "message": fit(words.message),
        }));
        self.turn().await;
        let events = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        let params = PatchParams::default();
        let patched = events.patch(name, &params, &change);
        note_loss(pod, timeout(WRITE_TIMEOUT, patched).await);
    }

    /// Returns when the next Event may be written.
    async fn turn(&mut self) {
        tokio::select! {
            () = self.hurry.cancelled() => {}
            _ = self.pace.tick() => {}
        }
    }
}

const EXPIRED: &str = "CertificateExpired";

/// The volume has no certificate yet.
fn of_first(kind: IssueErrorKind) -> (&'static str, &'static str) {
    match kind {
        IssueErrorKind::Pending => (NORMAL, "CertificatePending"),
        IssueErrorKind::Denied => (WARNING, "CertificateDenied"),
        _ => (WARNING, "CertificateNotIssued"),
    }
}

/// The volume has a certificate with so much left.
fn of_renewal(
    kind: IssueErrorKind,
    left: Option<Duration>,
    at_first: Option<Duration>,
) -> &'static str {
    let Some(left) = left else { return EXPIRED };
    // Renewal begins when a third of the life is left, so this is the last twelfth.
    if at_first.is_some_and(|at_first| left < at_first / 4) {
        return "CertificateExpiring";
    }
    match kind {
        IssueErrorKind::Denied => "RenewalDenied",
        IssueErrorKind::Pending => "RenewalPending",
        _ => "RenewalFailing",
    }
}

/// Errors name the issuer where it has a part in them; an Event always does.
fn with_issuer(cause: &str, issuer: &str) -> String {
    if cause.contains(issuer) { cause.to_owned() } else { format!("{issuer}: {cause}") }
}

/// Of no use to people: fractions.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn time(at: Timestamp) -> Time {
    let at = jiff::Timestamp::from_second(at.as_second());
    Time(at.expect("both count the same seconds"))
}

/// No longer than the API server takes.
fn fit(mut message: String) -> String {
    const LONGEST: usize = 1000;
    if message.len() > LONGEST {
        let mut end = LONGEST;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

fn note_loss<T>(
    pod: &PodRef,
    written: Result<Result<T, kube::Error>, tokio::time::error::Elapsed>,
) {
    let reason = match written {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => crate::kubernetes::reason(&error),
        Err(_) => "the API server does not answer".to_owned(),
    };
    tracing::debug!(namespace = pod.namespace, pod = pod.name, reason, "an event was lost");
}

#[cfg(test)]
mod tests;
