//! The metrics, in OpenMetrics text for Prometheus.
//!
//! What happened is counted as [`Report`]s come in. What *is* (volumes by phase, the expiry of each
//! certificate, the health of each issuer, the process's own use of the machine) is read at each
//! scrape, so that nothing of a volume stays behind when it is gone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::issuers::{IssuerStatus, IssuersFn};
use crate::clock::Timestamp;
use crate::renew::{Outcome, Phase, Report, VolumeStatus};
use crate::spec::volume::{IssuerRef, PodRef};
use crate::sync::lock;

/// A registry with all metrics, to be printed, and the counters in it, to be counted up.
pub fn registry(
    volumes: VolumesFn,
    issuers: IssuersFn,
    started: Timestamp,
) -> (Arc<Registry>, Metrics) {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    registry.register_collector(Box::new(VolumeCollector(volumes)));
    registry.register_collector(Box::new(IssuerCollector(issuers)));
    registry.register_collector(Box::new(Process { started }));
    (Arc::new(registry), metrics)
}

/// The counters of what happened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    issued: Family<IssuedLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    duration: Family<IssuerLabels, Histogram>,
    config_problems: Gauge,
    issuers: Arc<Mutex<BTreeSet<IssuerLabels>>>,
}

impl Metrics {
    /// Registers all counters, and the build's version.
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            issued: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            config_problems: Gauge::default(),
            issuers: Arc::default(),
        };
        registry.register(
            "certmount_certificates_issued",
            "Certificates written into volumes, first ones and renewals",
            metrics.issued.clone(),
        );
        registry.register(
            "certmount_issue_failures",
            "Attempts to obtain a certificate that failed, by reason; each is tried again",
            metrics.failures.clone(),
        );
        registry.register_with_unit(
            "certmount_issue_duration",
            "Time from the start of a successful attempt to files in the volume",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "certmount_config_problems",
            "Problems in the issuer files now; certmount check tells which",
            metrics.config_problems.clone(),
        );
        registry.register(
            "certmount_build",
            "The running version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        metrics
    }

    /// Counts what `report` says.
    pub fn observe(&self, report: &Report) {
        match &report.outcome {
            Outcome::Issued { renewal, took, .. } => {
                let issuer = self.labels(&report.issuer, &report.pod);
                self.duration.get_or_create(&issuer).observe(took.as_secs_f64());
                self.issued.get_or_create(&IssuedLabels { issuer, renewal: *renewal }).inc();
            }
            Outcome::Failed { renewal, kind, .. } => {
                let issuer = self.labels(&report.issuer, &report.pod);
                let labels = FailureLabels { issuer, renewal: *renewal, reason: kind.reason() };
                self.failures.get_or_create(&labels).inc();
            }
            Outcome::TrustChanged
            | Outcome::TrustKept { .. }
            | Outcome::Adopted
            | Outcome::NotRemoved { .. }
            | Outcome::Unpublished
            | Outcome::Warned { .. } => {}
        }
    }

    /// How many problems the issuer files have now.
    pub fn set_config_problems(&self, problems: usize) {
        self.config_problems.set(problems.try_into().unwrap_or(i64::MAX));
    }

    /// Pods may name issuers that do not exist, so the number of different labels is bounded:
    /// issuers beyond [`MOST_ISSUERS`] are counted together.
    fn labels(&self, issuer: &IssuerRef, pod: &PodRef) -> IssuerLabels {
        let labels = IssuerLabels::new(issuer, pod);
        let mut known = lock(&self.issuers);
        if known.contains(&labels) {
            labels
        } else if known.len() < MOST_ISSUERS {
            known.insert(labels.clone());
            labels
        } else {
            IssuerLabels { issuer_name: "other".to_owned(), ..IssuerLabels::default() }
        }
    }
}

/// From a local CA (a millisecond) to an ACME order (minutes), in seconds.
const DURATION_BUCKETS: [f64; 12] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0];
const MOST_ISSUERS: usize = 200;

#[derive(Clone, Debug, Default, EncodeLabelSet, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct IssuerLabels {
    issuer_group: String,
    issuer_kind: String,
    issuer_name: String,
    /// Empty for cluster-wide issuers.
    issuer_namespace: String,
}

impl IssuerLabels {
    fn new(issuer: &IssuerRef, pod: &PodRef) -> Self {
        let cluster_wide = issuer.kind == "ClusterIssuer";
        Self {
            issuer_group: issuer.group.clone(),
            issuer_kind: issuer.kind.clone(),
            issuer_name: issuer.name.clone(),
            issuer_namespace: if cluster_wide { String::new() } else { pod.namespace.clone() },
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IssuedLabels {
    #[prometheus(flatten)]
    issuer: IssuerLabels,
    renewal: bool,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FailureLabels {
    #[prometheus(flatten)]
    issuer: IssuerLabels,
    renewal: bool,
    reason: &'static str,
}

/// Where the volumes are asked for.
pub type VolumesFn = Arc<dyn Fn() -> Vec<VolumeStatus> + Send + Sync>;

/// The volumes as they are at the moment of the scrape.
struct VolumeCollector(VolumesFn);

impl fmt::Debug for VolumeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeCollector")
    }
}

impl Collector for VolumeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let volumes = (self.0)();
        let mut family = encoder.encode_descriptor(
            "certmount_volumes",
            "Volumes on this node by phase.",
            None,
            MetricType::Gauge,
        )?;
        for phase in Phase::ALL {
            let count = volumes.iter().filter(|volume| volume.phase == phase).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            encode_gauge(&mut family, &[("phase", phase.as_str())], count)?;
        }
        encode_timestamps(
            &mut encoder,
            &volumes,
            "certmount_volume_certificate_expiry_timestamp",
            "When the volume's certificate runs out, in seconds since 1970.",
            |volume| volume.not_after,
        )?;
        encode_timestamps(
            &mut encoder,
            &volumes,
            "certmount_volume_renewal_timestamp",
            "When the volume's certificate is to be renewed, in seconds since 1970.",
            |volume| volume.renew_at,
        )
    }
}

/// The issuers as they are at the moment of the scrape.
struct IssuerCollector(IssuersFn);

impl fmt::Debug for IssuerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerCollector")
    }
}

impl Collector for IssuerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "certmount_issuer_ready",
            "Whether this node can have certificates from the issuer; certmount inspect --issuers tells why not.",
            None,
            MetricType::Gauge,
        )?;
        for IssuerStatus { group, kind, namespace, name, ready, .. } in (self.0)() {
            let labels = IssuerLabels {
                issuer_group: group,
                issuer_kind: kind,
                issuer_name: name,
                issuer_namespace: namespace.unwrap_or_default(),
            };
            encode_gauge(&mut family, &labels, ready.into())?;
        }
        Ok(())
    }
}

fn encode_timestamps(
    encoder: &mut DescriptorEncoder<'_>,
    volumes: &[VolumeStatus],
    name: &str,
    help: &str,
    at: impl Fn(&VolumeStatus) -> Option<Timestamp>,
) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for volume in volumes {
        let Some(at) = at(volume) else { continue };
        let labels = [
            ("namespace", volume.pod.namespace.as_str()),
            ("pod", &volume.pod.name),
            ("volume_id", volume.volume_id.as_str()),
            ("issuer_kind", &volume.issuer.kind),
            ("issuer_name", &volume.issuer.name),
        ];
        encode_gauge(&mut family, &labels, at.as_second())?;
    }
    Ok(())
}

fn encode_gauge(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: i64,
) -> fmt::Result {
    ConstGauge::new(value).encode(family.encode_family(labels)?)
}

/// What the process itself uses, under the names that Prometheus clients share.
#[derive(Debug)]
struct Process {
    started: Timestamp,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<i64>| {
            let Some(value) = value else { return Ok(()) };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status_field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024);
        gauge("process_resident_memory", "Resident memory.", Some(&Unit::Bytes), resident)?;
        gauge("process_threads", "Threads.", None, status_field(&status, "Threads:"))?;
        gauge("process_open_fds", "Open file descriptors.", None, open_files())?;
        let most = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
        let most = most.map(|soft| i64::try_from(soft).unwrap_or(i64::MAX));
        gauge("process_max_fds", "Open file descriptors allowed.", None, most)?;
        gauge(
            "process_start_time",
            "When the process started, in seconds since 1970.",
            Some(&Unit::Seconds),
            Some(self.started.as_second()),
        )?;
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Ok(()) };
        let seconds = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
        let cpu = ConstCounter::new(seconds.iter().sum::<f64>());
        let family = encoder.encode_descriptor(
            "process_cpu",
            "Processor time used, by user and system.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        cpu.encode(family)
    }
}

fn status_field(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<i64> {
    // Listing the folder opens one more.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count() - 1;
    i64::try_from(count).ok()
}

#[cfg(test)]
pub(super) mod tests;
