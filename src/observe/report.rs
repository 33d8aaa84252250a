//! Where word of the volumes goes: one log line, the metrics and perhaps an Event for each report.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::issuers::IssuerHealth;
use super::metrics::Metrics;
use crate::renew::{Outcome, Report};

/// Logs and counts each report, notes what it says of its issuer, and tells the pod's owner of it
/// where `events` are written, until the renewer is gone or, after `stop`, none is left and all is
/// written.
pub async fn consume(
    mut reports: mpsc::UnboundedReceiver<Report>,
    metrics: Metrics,
    issuers: IssuerHealth,
    events: Option<Events>,
    stop: CancellationToken,
) {
    loop {
        let report = tokio::select! {
            biased;
            report = reports.recv() => report,
            () = stop.cancelled(), if !reports.is_closed() => {
                reports.close();
                continue;
            }
        };
        let Some(report) = report else { break };
        log(&report);
        metrics.observe(&report);
        issuers.observe(&report);
        if let Some(events) = &events {
            events.observe(&report);
        }
    }
    if let Some(events) = events {
        events.close().await;
    }
}

fn log(report: &Report) {
    /// One line with the fields that every report has. Texts are written quoted, so that none of
    /// what a CA or a pod says can pass for a line of its own.
    macro_rules! tell {
        ($level:ident, $($rest:tt)*) => {
            tracing::$level!(
                volume = report.volume.as_str(),
                pod = report.pod.name,
                namespace = report.pod.namespace,
                issuer_kind = report.issuer.kind,
                issuer = report.issuer.name,
                $($rest)*
            )
        };
    }
    match &report.outcome {
        Outcome::Issued { renewal, took, serial, not_after, renew_at } => tell!(
            info,
            serial,
            %not_after,
            %renew_at,
            took_ms = took.as_secs_f64() * 1e3,
            "{}",
            if *renewal { "certificate renewed" } else { "certificate issued" },
        ),
        Outcome::Failed { renewal, kind, message, retry_at, not_after, .. } => tell!(
            warn,
            reason = kind.reason(),
            error = message,
            %retry_at,
            not_after = not_after.map(tracing::field::display),
            "{}",
            if *renewal { "certificate not renewed" } else { "no certificate yet" },
        ),
        Outcome::NotRemoved { message } => {
            tell!(warn, error = message, "a volume that kubelet forgot is left behind")
        }
        Outcome::Warned { message } => tell!(warn, warning = message, "the issuer warns"),
        Outcome::TrustChanged => tell!(info, "trust anchors replaced"),
        Outcome::TrustKept { message } => {
            tell!(warn, problem = message, "trust anchors stay as they are")
        }
        Outcome::Adopted => tell!(info, "volume taken over from an earlier process"),
        Outcome::Unpublished => tell!(info, "volume removed"),
    }
}
