use std::time::Duration;

use prometheus_client::encoding::text::encode;

use super::*;
use crate::issuer::IssueErrorKind;
use crate::spec::fixture;
use crate::spec::volume::VolumeId;

/// A ready volume of pod `name` in namespace `shop`.
pub(crate) fn volume(name: &str) -> VolumeStatus {
    let report = report(name, Outcome::Adopted);
    VolumeStatus {
        volume_id: report.volume,
        target_path: std::path::PathBuf::from("/pods/x/mount").try_into().unwrap(),
        pod: report.pod,
        issuer: report.issuer,
        phase: Phase::Ready,
        names: vec![format!("dns:{name}.shop.svc")],
        serial_number: Some("4f2a".to_owned()),
        not_before: Some(Timestamp::from_second(1_700_000_000).unwrap()),
        not_after: Some(Timestamp::from_second(1_700_003_600).unwrap()),
        renew_at: Some(Timestamp::from_second(1_700_002_400).unwrap()),
        renewals: 0,
        last_error: None,
    }
}

fn report(pod: &str, outcome: Outcome) -> Report {
    Report {
        volume: VolumeId::try_from(format!("csi-{pod}")).unwrap(),
        pod: fixture::pod("shop", pod, "default"),
        issuer: fixture::cluster_issuer("local-ca"),
        outcome,
    }
}

fn issued(renewal: bool) -> Outcome {
    Outcome::Issued {
        renewal,
        took: Duration::from_millis(3),
        serial: "4f2a".to_owned(),
        not_after: Timestamp::from_second(1_700_003_600).unwrap(),
        renew_at: Timestamp::from_second(1_700_002_400).unwrap(),
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        renewal: true,
        kind: IssueErrorKind::Denied,
        by_issuer: true,
        message: "not yours".to_owned(),
        retry_at: Timestamp::from_second(1_700_000_060).unwrap(),
        not_after: None,
    }
}

fn scrape(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text
}

#[test]
fn counts_what_happened_by_issuer_and_reason() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    metrics.observe(&report("web-0", issued(false)));
    metrics.observe(&report("web-0", issued(true)));
    metrics.observe(&report("web-1", issued(true)));
    metrics.observe(&report("web-1", failed()));
    metrics.set_config_problems(2);
    let text = scrape(&registry);
    let issuer = r#"issuer_group="certmount.dev",issuer_kind="ClusterIssuer",issuer_name="local-ca",issuer_namespace="""#;
    for line in [
        format!("certmount_certificates_issued_total{{{issuer},renewal=\"false\"}} 1\n"),
        format!("certmount_certificates_issued_total{{{issuer},renewal=\"true\"}} 2\n"),
        format!(
            "certmount_issue_failures_total{{{issuer},renewal=\"true\",reason=\"Denied\"}} 1\n"
        ),
        format!("certmount_issue_duration_seconds_count{{{issuer}}} 3\n"),
        format!("certmount_issue_duration_seconds_bucket{{le=\"0.005\",{issuer}}} 3\n"),
        "certmount_config_problems 2\n".to_owned(),
        format!("certmount_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[test]
fn namespaced_issuers_are_told_apart() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let mut report = report("web-0", issued(false));
    report.issuer.kind = "Issuer".to_owned();
    metrics.observe(&report);
    report.pod.namespace = "bank".to_owned();
    metrics.observe(&report);
    let text = scrape(&registry);
    for namespace in ["shop", "bank"] {
        let labels = format!("issuer_namespace=\"{namespace}\",renewal=\"false\"}} 1\n");
        assert!(text.contains(&labels), "{labels} is not in\n{text}");
    }
}

#[test]
fn made_up_issuers_cannot_grow_the_metrics_without_end() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    for number in 0..MOST_ISSUERS * 3 {
        let mut report = report("web-0", failed());
        report.issuer.name = format!("made-up-{number}");
        metrics.observe(&report);
    }
    let text = scrape(&registry);
    let lines = text.lines().filter(|line| line.starts_with("certmount_issue_failures_total"));
    assert_eq!(lines.count(), MOST_ISSUERS + 1);
    let other = text.lines().find(|line| line.contains("issuer_name=\"other\"")).unwrap();
    assert!(other.ends_with(&format!(" {}", MOST_ISSUERS * 2)), "{other}");
}

#[test]
fn hostile_names_stay_inside_their_label() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let mut report = report("web-0", failed());
    report.issuer.name = "a\"} 1\nfake_metric 7".to_owned();
    metrics.observe(&report);
    let text = scrape(&registry);
    assert!(!text.lines().any(|line| line.starts_with("fake_metric")), "{text}");
}

#[test]
fn volumes_are_shown_as_they_are_at_the_scrape() {
    let volumes = Arc::new(Mutex::new(vec![volume("web-0"), volume("web-1")]));
    let mut registry = Registry::default();
    let seen = Arc::clone(&volumes);
    let ask: VolumesFn = Arc::new(move || seen.lock().unwrap().clone());
    registry.register_collector(Box::new(VolumeCollector(ask)));

    let text = scrape(&registry);
    let labels = r#"namespace="shop",pod="web-0",volume_id="csi-web-0",issuer_kind="ClusterIssuer",issuer_name="local-ca""#;
    for line in [
        "certmount_volumes{phase=\"ready\"} 2\n".to_owned(),
        "certmount_volumes{phase=\"expired\"} 0\n".to_owned(),
        format!("certmount_volume_certificate_expiry_timestamp_seconds{{{labels}}} 1700003600\n"),
        format!("certmount_volume_renewal_timestamp_seconds{{{labels}}} 1700002400\n"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }

    volumes.lock().unwrap().retain(|volume| volume.pod.name != "web-0");
    let text = scrape(&registry);
    assert!(!text.contains("web-0"), "{text}");
    assert!(text.contains("certmount_volumes{phase=\"ready\"} 1\n"), "{text}");
}

#[test]
fn the_process_reads_its_own_use() {
    let mut registry = Registry::default();
    let started = Timestamp::from_second(1_700_000_000).unwrap();
    registry.register_collector(Box::new(Process { started }));
    let text = scrape(&registry);
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes ") > 1e6, "{text}");
    assert!(value("process_open_fds ") >= 3.0, "{text}");
    assert!(value("process_max_fds ") >= value("process_open_fds "), "{text}");
    assert!(value("process_threads ") >= 2.0, "{text}");
    assert!(value("process_cpu_seconds_total ") > 0.0, "{text}");
    assert_eq!(value("process_start_time_seconds "), 1.7e9);
}
