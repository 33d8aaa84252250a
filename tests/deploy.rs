//! Holds the alerts and the dashboard in `deploy/` to the metrics that the driver has.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certmount::clock::Timestamp;
use certmount::issuer::IssueErrorKind;
use certmount::observe::IssuerStatus;
use certmount::renew::{Outcome, Phase, Report, VolumeStatus};
use certmount::spec::volume::{IssuerRef, PodRef, VolumeId};

const ALERTS: &str = include_str!("../deploy/chart/files/alerts.yaml");
const DASHBOARD: &str = include_str!("../deploy/chart/files/dashboard.json");
const POD_MONITOR: &str = include_str!("../deploy/chart/templates/monitoring.yaml");

/// What Prometheus itself adds to each series.
const TARGET_LABELS: [&str; 4] = ["container", "namespace", "node", "pod"];

#[test]
fn alerts_speak_of_metrics_that_exist() {
    let expressions: Vec<_> =
        ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 6, "{expressions:?}");
    for expression in expressions {
        holds_against(&metrics(), expression);
    }
}

#[test]
fn dashboard_speaks_of_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            holds_against(&metrics(), target["expr"].as_str().unwrap());
            expressions += 1;
        }
    }
    assert!(expressions >= 13, "{expressions}");
}

#[test]
fn each_alert_tells_what_it_is_about_and_how_bad() {
    let rules = ALERTS.matches("- alert: Certmount").count();
    for part in ["expr: ", "for: ", "labels: {severity: ", "summary: ", "description: "] {
        assert_eq!(ALERTS.matches(part).count(), rules, "{part}");
    }
}

/// `node` is what alerts and dashboard tell the drivers apart by, and is there by a relabeling only.
#[test]
fn the_pod_monitor_adds_the_label_node() {
    assert!(POD_MONITOR.contains("targetLabel: node"));
}

/// The labels of each metric that the driver can have, with the values of `phase` in full.
type Known = BTreeMap<String, BTreeSet<String>>;

fn metrics() -> Known {
    let started = Timestamp::from_second(0).unwrap();
    let volumes = Arc::new(|| vec![volume()]);
    let (registry, metrics) =
        certmount::observe::registry(volumes, Arc::new(|| vec![issuer()]), started);
    metrics.observe(&report(Outcome::Issued {
        renewal: true,
        took: Duration::from_millis(3),
        serial: "4f2a".to_owned(),
        not_after: Timestamp::from_second(1_700_003_600).unwrap(),
        renew_at: Timestamp::from_second(1_700_002_400).unwrap(),
    }));
    metrics.observe(&report(Outcome::Failed {
        renewal: true,
        kind: IssueErrorKind::Denied,
        by_issuer: true,
        message: "not yours".to_owned(),
        retry_at: Timestamp::from_second(1_700_000_060).unwrap(),
        not_after: None,
    }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

    let mut known = Known::new();
    // Prometheus's own, for each target.
    known.insert("up".to_owned(), BTreeSet::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once(['{', ' ']).unwrap();
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0));
        known.entry(name.to_owned()).or_default().extend(labels.map(str::to_owned));
    }
    known
}

fn report(outcome: Outcome) -> Report {
    let VolumeStatus { volume_id, pod, issuer, .. } = volume();
    Report { volume: volume_id, pod, issuer, outcome }
}

fn issuer() -> IssuerStatus {
    let IssuerRef { group, kind, name } = volume().issuer;
    IssuerStatus { group, kind, namespace: None, name, ready: true, reason: None, message: None }
}

fn volume() -> VolumeStatus {
    VolumeStatus {
        volume_id: VolumeId::try_from("csi-web-0".to_owned()).unwrap(),
        target_path: PathBuf::from("/pods/x/mount").try_into().unwrap(),
        pod: PodRef {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: "u".to_owned(),
            service_account: "default".to_owned(),
        },
        issuer: IssuerRef {
            group: "certmount.dev".to_owned(),
            kind: "ClusterIssuer".to_owned(),
            name: "cluster-ca".to_owned(),
        },
        phase: Phase::Ready,
        names: Vec::new(),
        serial_number: None,
        not_before: None,
        not_after: Some(Timestamp::from_second(1_700_003_600).unwrap()),
        renew_at: Some(Timestamp::from_second(1_700_002_400).unwrap()),
        renewals: 0,
        last_error: None,
    }
}

/// Each metric of the PromQL `expression` exists, and has the labels by which it is chosen and
/// summed.
fn holds_against(known: &Known, expression: &str) {
    let mut labels: BTreeSet<_> = TARGET_LABELS.map(str::to_owned).into();
    let mut metrics = 0;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let name = rest[start..].split(|c| !is_name(c)).next().unwrap();
        rest = &rest[start + name.len()..];
        if !(name.starts_with("certmount_") || name.starts_with("process_") || name == "up") {
            continue;
        }
        metrics += 1;
        let own = known.get(name).unwrap_or_else(|| panic!("no {name}, in {expression}"));
        labels.extend(own.iter().cloned());
        let Some(matchers) = rest.strip_prefix('{') else { continue };
        let (matchers, after) = matchers.split_once('}').unwrap();
        rest = after;
        for matcher in matchers.split("\",") {
            let (label, value) = matcher.split_once(['=', '!']).unwrap();
            assert!(
                own.contains(label) || TARGET_LABELS.contains(&label),
                "{name} has no label {label}, in {expression}"
            );
            if label == "phase" {
                for phase in value.trim_matches(['=', '~', '"']).split('|') {
                    assert!(Phase::ALL.iter().any(|known| known.as_str() == phase), "{phase}");
                }
            }
        }
    }
    assert!(metrics > 0, "{expression}");
    for (at, by) in expression.match_indices("by (") {
        let list = expression[at + by.len()..].split(')').next().unwrap();
        for label in list.split(", ") {
            assert!(labels.contains(label), "nothing has the label {label}, in {expression}");
        }
    }
}
