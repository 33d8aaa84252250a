//! Publishes through a `CertificateRequest`: a real API server with etcd and cert-manager's real
//! controller with its CA issuer, on this machine. Kubelet is played.
//!
//! The floor is cert-manager alone: a bare client makes a request and hears from a watch that it is
//! issued. It and the plugin take turns, so that both find the same machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use certmount::csi::client::InlineVolume;
use kube::runtime::watcher::Event;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::Sizes;
use crate::api::Api;
use crate::bare::{self, Bare};
use crate::load::{
    AT_ONCE, NAMESPACE, publish, publish_round, side_by_side, unpublish_all, volumes,
};
use crate::local::at_rest;
use crate::plugin::{ISSUER, NODE, Plugin, Resident, Stage};
use crate::report::{Report, milliseconds, percentile, times};

/// What has to be on the machine.
pub(crate) const PROGRAMS: [&str; 6] =
    ["etcd", "go", "kube-apiserver", "kubectl", "helm", "controller"];

/// cert-manager asks the API server 20 times a second by default, and 50 times at first.
const RAISED: [&str; 2] = ["--kube-api-qps=1000", "--kube-api-burst=1000"];
const BURST_COMES_BACK_IN: Duration = Duration::from_secs(4);

/// What volumes ask for.
const THROUGH: [(&str, &str); 3] = [
    ("certmount.dev/issuer-group", "cert-manager.io"),
    ("certmount.dev/issuer-kind", "Issuer"),
    ("certmount.dev/issuer-name", ISSUER),
];

/// Cores differ by more than what a driver adds, so the aims are ratios. They are those of 20 ms
/// and of 150 a second where cert-manager alone takes 10 ms and does 200 a second.
const SLOWER: f64 = 2.0;
const SHARE: f64 = 0.75;

pub(crate) async fn measure(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let mut api = block_in_place(|| cluster(stage));
    api.start_cert_manager_with(&RAISED);
    let bare = Bare::start(&api.path("admin"), NAMESPACE).await?;
    // cert-manager is there.
    bare.issue().await?;
    let plugin = Plugin::start_in_cluster(stage, &api.driver()).await?;
    let empty = plugin.resident()?;
    let mut bench = Bench { stage, sizes, bare: &bare, plugin: &plugin, failed: Vec::new() };

    bench.one_by_one(report).await?;
    bench.calls(&api, report).await?;
    bench.at_once(report).await?;
    bench.standing(&api, &empty, report).await?;
    api.stop("cert-manager");
    api.start_cert_manager();
    bench.throttled(report).await?;

    let failed = bench.failed;
    report.target("publishes that failed", failed.len().to_string(), "0", failed.is_empty());
    if let Some(error) = failed.first() {
        report.row("  the first", error.to_string());
    }
    plugin.stop().await
}

/// An API server with the namespace of the volumes, and in it an Issuer with the CA of `stage`.
fn cluster(stage: &Stage) -> Api {
    let api = Api::start();
    api.kubectl(&["create", "namespace", NAMESPACE]);
    let secret = stage.config().join(format!("{ISSUER}-secret.yaml"));
    let secret = secret.display().to_string();
    api.kubectl(&["apply", "--server-side", "-n", NAMESPACE, "-f", &secret]);
    api.apply(&format!(
        "{{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {{name: {ISSUER}, namespace: \
         {NAMESPACE}}}, spec: {{ca: {{secretName: {ISSUER}}}}}}}"
    ));
    api
}

struct Bench<'a> {
    stage: &'a Stage,
    sizes: &'a Sizes,
    bare: &'a Bare,
    plugin: &'a Plugin,
    failed: Vec<Error>,
}

impl Bench<'_> {
    async fn one_by_one(&mut self, report: &mut Report) -> Result<()> {
        let (mut alone, mut calls) = (Vec::new(), Vec::new());
        let volumes = volumes("single", self.sizes.elsewhere, &THROUGH);
        for volume in &volumes {
            alone.push(self.bare.issue().await?);
            let published = publish(&self.stage.kubelet, volume).await;
            calls.extend(self.good([published.map(|took| took.call)]));
        }
        self.clear(&volumes).await?;
        let (floor, p50) = (percentile(&alone, 50), percentile(&calls, 50));
        report.row("floor: cert-manager alone, one at a time, p50", milliseconds(floor));
        report.row("  p99", milliseconds(percentile(&alone, 99)));
        report.row("publish through cert-manager, one at a time, p50", milliseconds(p50));
        report.row("  p99", milliseconds(percentile(&calls, 99)));
        let ratio = p50.as_secs_f64() / floor.as_secs_f64();
        report.target("  p50, ratio to the floor", times(ratio), "< 2 x", ratio < SLOWER);
        Ok(())
    }

    /// What a volume costs the API server.
    async fn calls(&mut self, api: &Api, report: &mut Report) -> Result<()> {
        let heard = Arc::new(AtomicUsize::new(0));
        let label = format!("certmount.dev/node={NODE}");
        let _watch = bare::follow(bare::requests(&api.path("admin"), NAMESPACE).await?, &label, {
            let heard = Arc::clone(&heard);
            move |event| {
                if let Event::Apply(_) | Event::Delete(_) = event {
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let before = settled(api).await;
        let volumes = volumes("counted", self.sizes.round, &THROUGH);
        let count = volumes.len();
        for round in volumes.chunks(AT_ONCE) {
            let (_, published) = publish_round(self.stage, round).await?;
            self.good(published);
        }
        let after = settled(api).await;
        let made = |what: &str| {
            let of = |calls: &Calls| calls.get(what).copied().unwrap_or_default();
            of(&after) - of(&before)
        };
        let each = |number: usize| format!("{:.2}", number as f64 / count as f64);
        let others = after.keys().filter(|call| *call != EVENTS).map(|call| made(call));
        let others = others.sum::<usize>();
        let name = "API calls for each volume, without Events";
        report.target(name, each(others), "1", others == count);
        for call in after.keys().filter(|call| made(call) > 0) {
            report.row(&format!("  {call}"), each(made(call)));
        }
        report.row("  changes that its watch shows it", each(heard.load(Ordering::Relaxed)));
        self.clear(&volumes).await
    }

    async fn at_once(&mut self, report: &mut Report) -> Result<()> {
        let (mut alone, mut through) = (Rounds::default(), Rounds::default());
        let began = self.plugin.cpu_time()?;
        for _ in 0..self.sizes.rounds {
            self.bare_round(&mut alone, self.sizes.round).await?;
            self.round(&mut through, self.sizes.round).await?;
        }
        let spent = self.plugin.cpu_time()?.saturating_sub(began);
        report.row(
            &format!("floor: cert-manager alone, {AT_ONCE} at once"),
            format!("{:.0} /s", alone.rate()),
        );
        report.row("  p50", milliseconds(percentile(&alone.calls, 50)));
        report.row(
            &format!("publish through cert-manager, {AT_ONCE} at once"),
            format!("{:.0} /s", through.rate()),
        );
        report.row("  p50", milliseconds(percentile(&through.calls, 50)));
        report.row("  p99", milliseconds(percentile(&through.calls, 99)));
        let ratio = through.rate() / alone.rate();
        report.target("  ratio to the floor", times(ratio), ">= 0.75 x", ratio >= SHARE);
        let count = u32::try_from(through.calls.len().max(1))?;
        report.row("  processor time of the plugin for each", milliseconds(spent / count));
        Ok(())
    }

    async fn standing(&mut self, api: &Api, empty: &Resident, report: &mut Report) -> Result<()> {
        let volumes = volumes("standing", self.sizes.standing, &THROUGH);
        let (_, published) = publish_round(self.stage, &volumes).await?;
        self.good(published);
        settled(api).await;
        at_rest(self.plugin, empty, volumes.len(), 20, self.sizes, report).await?;
        self.clear(&volumes).await
    }

    /// The same rounds with cert-manager as it comes.
    async fn throttled(&mut self, report: &Report) -> Result<()> {
        // It is there again.
        self.bare.issue().await?;
        let (mut alone, mut through) = (Rounds::default(), Rounds::default());
        sleep(BURST_COMES_BACK_IN).await;
        self.bare_round(&mut alone, self.sizes.round / 2).await?;
        sleep(BURST_COMES_BACK_IN).await;
        self.round(&mut through, self.sizes.round / 2).await?;
        let rate = |rounds: &Rounds| format!("{:.1} /s", rounds.rate());
        report.row("floor: cert-manager alone, its own QPS, 20 at once", rate(&alone));
        report.row("publish through cert-manager, its own QPS, 20 at once", rate(&through));
        report.row("  p50", milliseconds(percentile(&through.calls, 50)));
        report.row("  ratio to the floor", times(through.rate() / alone.rate()));
        Ok(())
    }

    async fn bare_round(&self, rounds: &mut Rounds, count: usize) -> Result<()> {
        let began = Instant::now();
        let issued = {
            let bare = self.bare.clone();
            side_by_side((0..count).collect(), move |_| {
                let bare = bare.clone();
                async move { bare.issue().await }
            })
        };
        rounds.calls.extend(issued.await?);
        rounds.busy += began.elapsed();
        self.bare.clear().await
    }

    async fn round(&mut self, rounds: &mut Rounds, count: usize) -> Result<()> {
        let volumes = volumes("round", count, &THROUGH);
        let (busy, published) = publish_round(self.stage, &volumes).await?;
        rounds.busy += busy;
        rounds.calls.extend(self.good(published));
        self.clear(&volumes).await
    }

    /// Those that came to something; the others are kept for the end.
    fn good(&mut self, published: impl IntoIterator<Item = Result<Duration>>) -> Vec<Duration> {
        let published = published.into_iter();
        published.filter_map(|took| took.map_err(|error| self.failed.push(error)).ok()).collect()
    }

    async fn clear(&self, volumes: &[InlineVolume]) -> Result<()> {
        unpublish_all(self.stage, volumes).await?;
        self.bare.clear().await
    }
}

type Calls = BTreeMap<String, usize>;

/// What the plugin has asked of the API server, when it asks no more: Events are written behind.
async fn settled(api: &Api) -> Calls {
    let mut calls = api.driver_calls();
    for _ in 0..60 {
        sleep(Duration::from_millis(500)).await;
        let now = api.driver_calls();
        if now == calls {
            break;
        }
        calls = now;
    }
    calls
}

/// The call that writes an Event.
const EVENTS: &str = "create events";

/// What was done side by side.
#[derive(Default)]
struct Rounds {
    busy: Duration,
    calls: Vec<Duration>,
}

impl Rounds {
    /// How many a second.
    fn rate(&self) -> f64 {
        self.calls.len() as f64 / self.busy.as_secs_f64()
    }
}
