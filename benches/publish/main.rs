//! How fast certmount publishes, and how little it takes: `cargo bench`.
//!
//! The release binary runs as a process of its own and is called as kubelet calls it: over its
//! socket, each call on a new connection. Client and plugin share the machine's cores, so what is
//! printed is what both take together. All mounts are in a namespace of the benchmark's own.
//!
//! The floor is the same work as straight calls in one thread, measured in the same run: the ratio
//! to it says what the plugin adds, whatever the machine.

#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

mod chained;
mod floor;
mod plugin;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use certmount::cli::namespace;
use certmount::csi::client::{InlineVolume, Kubelet};
use certmount::csi::proto::csi::NodePublishVolumeRequest;
use clap::{Parser, ValueEnum};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::plugin::{Plugin, Stage};
use crate::report::{Report, milliseconds, percentile};

/// How many volumes are published side by side where it says "at once".
const AT_ONCE: usize = 20;

/// How fast certmount publishes, and how little it takes
#[derive(Parser)]
struct Args {
    /// Small numbers: whether everything works, not how fast
    #[arg(long)]
    smoke: bool,
    /// Exit 1 when a target is missed
    #[arg(long)]
    check: bool,
    /// Only these measurements, after the floor
    #[arg(value_enum)]
    only: Vec<Part>,
    /// The program to measure, such as the one for the image [default: what cargo has built]
    #[arg(long, value_name = "FILE", default_value = plugin::BUILT, hide_default_value = true)]
    plugin: PathBuf,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured, in this order.
#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Publishes one after the other
    OneByOne,
    /// Publishes side by side
    AtOnce,
    /// Publishes side by side from an intermediate CA, with its upstream stopped
    Chained,
    /// Publishes while others make RSA keys
    BesideRsa,
    /// Memory, idle CPU and restart with volumes that just stand there
    Standing,
    /// Renewals that are due at the same moment
    Due,
}

/// How much of everything.
struct Sizes {
    /// Volumes published one after the other.
    one_by_one: usize,
    /// Volumes published 20 at once.
    at_once: usize,
    /// Volumes that stand while memory, idle CPU and restart are measured.
    standing: usize,
    /// How long idle CPU is measured: the renewer looks at the clock once a minute.
    idle: Duration,
    /// Volumes whose renewals are due together.
    due: usize,
}

const FULL: Sizes = Sizes {
    one_by_one: 500,
    at_once: 4_000,
    standing: 500,
    idle: Duration::from_secs(65),
    due: 1_000,
};

const SMOKE: Sizes =
    Sizes { one_by_one: 20, at_once: 60, standing: 20, idle: Duration::from_secs(2), due: 20 };

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    // Before the runtime starts its threads.
    namespace::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let sizes = if args.smoke { SMOKE } else { FULL };
    let parts = if args.only.is_empty() { Part::value_variants().to_vec() } else { args.only };
    let report = runtime.block_on(measure(args.plugin, &sizes, &parts))?;
    let missed = report.finish();
    Ok(if args.check && missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn measure(program: PathBuf, sizes: &Sizes, parts: &[Part]) -> Result<Report> {
    let mut report = Report::start();
    binary(&program, &mut report)?;
    let stage = Stage::build(program)?;
    let floor = floor::measure(sizes.one_by_one, stage.root())?;
    let floor = percentile(&floor, 50);
    report.row("floor: the same work as straight calls, p50", milliseconds(floor));
    for part in Part::value_variants().iter().filter(|part| parts.contains(part)) {
        // A fresh one each time: what it did before must not count.
        let plugin = Plugin::start(&stage).await?;
        let plugin = match part {
            Part::OneByOne => one_by_one(&stage, sizes, floor, plugin, &mut report).await?,
            Part::AtOnce => at_once(&stage, sizes, plugin, &mut report).await?,
            Part::Chained => chained::measure(&stage, sizes, plugin, &mut report).await?,
            Part::BesideRsa => beside_rsa(&stage, sizes, plugin, &mut report).await?,
            Part::Standing => standing(&stage, sizes, plugin, &mut report).await?,
            Part::Due => due_together(&stage, sizes, plugin, &mut report).await?,
        };
        plugin.stop().await?;
    }
    Ok(report)
}

fn binary(program: &Path, report: &mut Report) -> Result<()> {
    let size = fs::metadata(program)?.len();
    let mebibytes = size as f64 / f64::from(1 << 20);
    report.target("binary", format!("{mebibytes:.1} MiB"), "< 15 MiB", mebibytes < 15.0);
    Ok(())
}

async fn one_by_one(
    stage: &Stage,
    sizes: &Sizes,
    floor: Duration,
    plugin: Plugin,
    report: &mut Report,
) -> Result<Plugin> {
    let volumes = volumes("one", sizes.one_by_one, &[]);
    let (mut calls, mut sequences) = (Vec::new(), Vec::new());
    for volume in &volumes {
        let took = publish(&stage.kubelet, volume).await?;
        calls.push(took.call);
        sequences.push(took.sequence);
    }
    unpublish_all(stage, &volumes).await?;

    let p50 = percentile(&calls, 50);
    report.target(
        "publish, one at a time, p50",
        milliseconds(p50),
        "< 1 ms",
        p50 < Duration::from_millis(1),
    );
    report.row("  p99", milliseconds(percentile(&calls, 99)));
    let ratio = p50.as_secs_f64() / floor.as_secs_f64();
    report.target("  p50, ratio to the floor", format!("{ratio:.1} x"), "<= 6 x", ratio <= 6.0);
    report
        .row("  with kubelet's two calls before it, p50", milliseconds(percentile(&sequences, 50)));
    report.row("  p99", milliseconds(percentile(&sequences, 99)));
    Ok(plugin)
}

async fn at_once(
    stage: &Stage,
    sizes: &Sizes,
    plugin: Plugin,
    report: &mut Report,
) -> Result<Plugin> {
    let (rate, calls) = publish_in_rounds(stage, sizes, &[]).await?;
    report.target(
        &format!("publish, {AT_ONCE} at once"),
        format!("{rate:.0} /s"),
        ">= 2000 /s",
        rate >= 2_000.0,
    );
    report.row("  p50", milliseconds(percentile(&calls, 50)));
    report.row("  p99", milliseconds(percentile(&calls, 99)));

    let volumes = volumes("whole", sizes.standing, &[]);
    let began = Instant::now();
    publish_all(stage, &volumes).await?;
    let rate = volumes.len() as f64 / began.elapsed().as_secs_f64();
    report.row("  with kubelet's two calls before each", format!("{rate:.0} /s"));
    unpublish_all(stage, &volumes).await?;
    Ok(plugin)
}

/// How many publishes there are in a second, [`AT_ONCE`] at any time, and how long each took; the
/// volumes ask for what `more` says.
async fn publish_in_rounds(
    stage: &Stage,
    sizes: &Sizes,
    more: &[(&str, &str)],
) -> Result<(f64, Vec<Duration>)> {
    // In rounds, so that the number of mounts stays what a node has.
    let (mut published, mut busy, mut calls) = (0, Duration::ZERO, Vec::new());
    while published < sizes.at_once {
        let volumes = volumes("many", sizes.standing.min(sizes.at_once - published), more);
        let mut requests = Vec::new();
        for volume in &volumes {
            requests.push(prepare(&stage.kubelet, volume).await?);
        }
        let kubelet = stage.kubelet.clone();
        let each = move |request| {
            let kubelet = kubelet.clone();
            async move { call(&kubelet, request).await }
        };
        let began = Instant::now();
        calls.extend(side_by_side(requests, each).await?);
        busy += began.elapsed();
        published += volumes.len();
        unpublish_all(stage, &volumes).await?;
    }
    Ok((published as f64 / busy.as_secs_f64(), calls))
}

/// P-256 publishes while others make RSA keys, which take long.
async fn beside_rsa(
    stage: &Stage,
    sizes: &Sizes,
    plugin: Plugin,
    report: &mut Report,
) -> Result<Plugin> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut rsa = JoinSet::new();
    for worker in 0..4 {
        let (kubelet, stop) = (stage.kubelet.clone(), Arc::clone(&stop));
        rsa.spawn(async move {
            let mut took = Vec::new();
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let volume = volume(&format!("rsa-{worker}-{round}"), &RSA);
                took.push(publish(&kubelet, &volume).await?.call);
                kubelet.unpublish(&volume).await.map_err(refused)?;
            }
            anyhow::Ok(took)
        });
    }
    let volumes = volumes("ecdsa", sizes.one_by_one, &[]);
    let mut calls = Vec::new();
    for volume in &volumes {
        calls.push(publish(&stage.kubelet, volume).await?.call);
    }
    stop.store(true, Ordering::Relaxed);
    let mut keys = Vec::new();
    while let Some(took) = rsa.join_next().await {
        keys.extend(took??);
    }
    unpublish_all(stage, &volumes).await?;

    let (p50, rsa) = (percentile(&calls, 50), percentile(&keys, 50));
    // RSA keys keep one core busy all the time. A publish that waited for one would take as long.
    let target = rsa / 20;
    report.target(
        "publish of P-256 while RSA-2048 keys are made, p50",
        milliseconds(p50),
        &format!("< {}", milliseconds(target)),
        p50 < target,
    );
    report.row("  p99", milliseconds(percentile(&calls, 99)));
    report.row("  publish of RSA-2048 meanwhile, 4 at once, p50", milliseconds(rsa));
    Ok(plugin)
}

/// Memory, idle CPU and restart with volumes that just stand there.
async fn standing(
    stage: &Stage,
    sizes: &Sizes,
    mut plugin: Plugin,
    report: &mut Report,
) -> Result<Plugin> {
    let empty = plugin.resident()?;
    let volumes = volumes("standing", sizes.standing, &[]);
    publish_all(stage, &volumes).await?;
    let count = volumes.len();

    let full = plugin.resident()?;
    report.target(
        &format!("resident memory with {count} volumes"),
        full.to_string(),
        "< 16 MiB",
        full.total() < 16.0,
    );
    report.row("  without volumes", empty.to_string());
    let (before, after) = (empty.anonymous, full.anonymous);
    report
        .row("  of it not the program file, without and with", format!("{before:.1}, {after:.1}"));

    let (began, before) = (Instant::now(), plugin.cpu_time()?);
    sleep(sizes.idle).await;
    let spent = plugin.cpu_time()?.saturating_sub(before);
    let share = 100.0 * spent.as_secs_f64() / began.elapsed().as_secs_f64();
    report.target(
        &format!("idle CPU with {count} volumes, over {} s", sizes.idle.as_secs()),
        format!("{share:.4} %"),
        "< 0.1 %",
        share < 0.1,
    );

    let certificates = leaves(stage, &volumes)?;
    let began = Instant::now();
    plugin.kill().await?;
    let plugin = Plugin::start(stage).await?;
    let took = began.elapsed();
    report.target(
        &format!("SIGKILL until it serves again, {count} volumes"),
        milliseconds(took),
        "< 100 ms",
        took < Duration::from_millis(100),
    );
    publish_all(stage, &volumes).await.context("after the restart")?;
    ensure!(leaves(stage, &volumes)? == certificates, "the restart changed certificates");
    unpublish_all(stage, &volumes).await?;
    Ok(plugin)
}

/// Renewals that are all due at the same moment: the plugin stands still until they are.
async fn due_together(
    stage: &Stage,
    sizes: &Sizes,
    plugin: Plugin,
    report: &mut Report,
) -> Result<Plugin> {
    const LIFE: Duration = Duration::from_secs(30);
    let life = format!("{}s", LIFE.as_secs());
    let volumes = volumes("due", sizes.due, &[("certmount.dev/duration", &life)]);
    let began = Instant::now();
    publish_all(stage, &volumes).await?;
    let published = began.elapsed();
    ensure!(published < LIFE / 2, "publishing took {published:?}, too long for this measurement");
    let before = leaves(stage, &volumes)?;

    plugin.signal(Signal::SIGSTOP)?;
    // Two thirds of the last one's life, when each has come to its renewal.
    sleep((LIFE * 2 / 3 + published).saturating_sub(began.elapsed())).await;
    let began = Instant::now();
    plugin.signal(Signal::SIGCONT)?;
    let mut waiting: Vec<_> = volumes.iter().zip(&before).collect();
    while !waiting.is_empty() {
        ensure!(began.elapsed() < LIFE, "{} volumes were not renewed", waiting.len());
        sleep(Duration::from_millis(5)).await;
        waiting.retain(|(volume, before)| {
            leaf(stage, volume).is_ok_and(|certificate| certificate == **before)
        });
    }
    let took = began.elapsed();
    report.target(
        &format!("renewing {} volumes due together", volumes.len()),
        milliseconds(took),
        "< 2000 ms",
        took < Duration::from_secs(2),
    );
    unpublish_all(stage, &volumes).await?;
    Ok(plugin)
}

/// What volumes ask for.
const ECDSA: [(&str, &str); 4] = [
    ("certmount.dev/issuer-kind", "ClusterIssuer"),
    ("certmount.dev/issuer-name", plugin::ISSUER),
    ("certmount.dev/dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc"),
    ("certmount.dev/key-algorithm", "ECDSA"),
];

const RSA: [(&str, &str); 1] = [("certmount.dev/key-algorithm", "RSA")];

/// A pod's volume with a P-256 certificate, or with what `more` says instead.
fn volume(pod: &str, more: &[(&str, &str)]) -> InlineVolume {
    let attributes: BTreeMap<_, _> = ECDSA.iter().chain(more).copied().collect();
    let attributes: Vec<_> = attributes.into_iter().collect();
    InlineVolume::new("bench", pod, &attributes)
}

fn volumes(prefix: &str, count: usize, more: &[(&str, &str)]) -> Vec<InlineVolume> {
    (0..count).map(|number| volume(&format!("{prefix}-{number}"), more)).collect()
}

/// How long a publish took.
struct Took {
    /// The publish call, connecting included.
    call: Duration,
    /// The call and the two that kubelet makes before it.
    sequence: Duration,
}

async fn publish(kubelet: &Kubelet, volume: &InlineVolume) -> Result<Took> {
    let began = Instant::now();
    let request = prepare(kubelet, volume).await?;
    let prepared = began.elapsed();
    let call = call(kubelet, request).await?;
    Ok(Took { call, sequence: prepared + call })
}

/// Everything that kubelet does before the publish call.
async fn prepare(kubelet: &Kubelet, volume: &InlineVolume) -> Result<NodePublishVolumeRequest> {
    let request = kubelet.publish_request(volume).await.map_err(refused)?;
    let target = Path::new(&request.target_path);
    fs::create_dir_all(target.parent().context("a target has a parent")?)?;
    Ok(request)
}

/// Makes the publish call on a connection of its own, and answers how long both took.
async fn call(kubelet: &Kubelet, request: NodePublishVolumeRequest) -> Result<Duration> {
    let began = Instant::now();
    kubelet.node().await.map_err(refused)?.node_publish_volume(request).await.map_err(refused)?;
    Ok(began.elapsed())
}

async fn publish_all(stage: &Stage, volumes: &[InlineVolume]) -> Result<Vec<Took>> {
    let kubelet = stage.kubelet.clone();
    let each = move |volume| {
        let kubelet = kubelet.clone();
        async move { publish(&kubelet, &volume).await }
    };
    side_by_side(volumes.to_vec(), each).await
}

async fn unpublish_all(stage: &Stage, volumes: &[InlineVolume]) -> Result<()> {
    let kubelet = stage.kubelet.clone();
    let each = move |volume| {
        let kubelet = kubelet.clone();
        async move { kubelet.unpublish(&volume).await.map_err(refused) }
    };
    side_by_side(volumes.to_vec(), each).await.map(drop)
}

/// Does `work` to all items, [`AT_ONCE`] of them at any time.
async fn side_by_side<I, T, F>(
    items: Vec<I>,
    work: impl Fn(I) -> F + Clone + Send + 'static,
) -> Result<Vec<T>>
where
    I: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let items = Arc::new(Mutex::new(items.into_iter()));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (items, work) = (Arc::clone(&items), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let item = items.lock().expect("no worker panics with it").next();
                let Some(item) = item else { return anyhow::Ok(done) };
                done.push(work(item).await?);
            }
        });
    }
    let mut done = Vec::new();
    while let Some(some) = workers.join_next().await {
        done.extend(some??);
    }
    Ok(done)
}

/// The certificate of each volume, as the pod reads it.
fn leaves(stage: &Stage, volumes: &[InlineVolume]) -> Result<Vec<Vec<u8>>> {
    volumes.iter().map(|volume| leaf(stage, volume)).collect()
}

fn leaf(stage: &Stage, volume: &InlineVolume) -> Result<Vec<u8>> {
    Ok(fs::read(stage.kubelet.target(volume).join("tls.crt"))?)
}

fn refused(status: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the plugin answered: {status}")
}
