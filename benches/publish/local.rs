//! What needs nothing but the plugin: a CA whose key is on the node signs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Sizes;
use crate::load::{
    AT_ONCE, RSA, leaf, leaves, publish, publish_all, publish_in_rounds, refused, unpublish_all,
    volume, volumes,
};
use crate::plugin::{Plugin, Resident, Stage};
use crate::report::{Report, milliseconds, percentile, times};

/// When a plugin that serves again has nothing more to take over.
const SETTLED_IN: Duration = Duration::from_secs(1);

pub(crate) async fn one_by_one(
    stage: &Stage,
    sizes: &Sizes,
    floor: Duration,
    report: &mut Report,
) -> Result<()> {
    let plugin = Plugin::start(stage).await?;
    let volumes = volumes("one", sizes.one_by_one, &[]);
    // In a task, as all others: the main thread has no part in what a connection does, and would
    // only be woken from another one for each answer.
    let (kubelet, each) = (stage.kubelet.clone(), volumes.clone());
    let published = tokio::spawn(async move {
        let (mut calls, mut sequences) = (Vec::new(), Vec::new());
        for volume in &each {
            let took = publish(&kubelet, volume).await?;
            calls.push(took.call);
            sequences.push(took.sequence);
        }
        anyhow::Ok((calls, sequences))
    });
    let (calls, sequences) = published.await??;
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
    report.target("  p50, ratio to the floor", times(ratio), "<= 6 x", ratio <= 6.0);
    report
        .row("  with kubelet's two calls before it, p50", milliseconds(percentile(&sequences, 50)));
    report.row("  p99", milliseconds(percentile(&sequences, 99)));
    plugin.stop().await
}

pub(crate) async fn at_once(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let plugin = Plugin::start(stage).await?;
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
    plugin.stop().await
}

/// P-256 publishes while others make RSA keys, which take long.
pub(crate) async fn beside_rsa(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let plugin = Plugin::start(stage).await?;
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
    plugin.stop().await
}

/// Memory, idle CPU and restart with volumes that just stand there.
pub(crate) async fn standing(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let mut plugin = Plugin::start(stage).await?;
    let empty = plugin.resident()?;
    let volumes = volumes("standing", sizes.standing, &[]);
    publish_all(stage, &volumes).await?;
    let count = volumes.len();

    at_rest(&plugin, &empty, count, 16, sizes, report).await?;

    let certificates = leaves(stage, &volumes)?;
    let mut restarts = Vec::with_capacity(sizes.restarts);
    for _ in 0..sizes.restarts {
        let began = Instant::now();
        plugin.kill().await?;
        plugin = Plugin::start(stage).await?;
        restarts.push(began.elapsed());
        sleep(SETTLED_IN).await;
    }
    let p50 = percentile(&restarts, 50);
    report.target(
        &format!("SIGKILL until it serves again, {count} volumes, p50"),
        milliseconds(p50),
        "< 100 ms",
        p50 < Duration::from_millis(100),
    );
    report.row(
        &format!("  the slowest of {}", restarts.len()),
        milliseconds(percentile(&restarts, 100)),
    );
    publish_all(stage, &volumes).await.context("after the restart")?;
    ensure!(leaves(stage, &volumes)? == certificates, "the restart changed certificates");
    unpublish_all(stage, &volumes).await?;
    plugin.stop().await
}

/// What the plugin takes while `count` volumes stand there, which shall be less than `most` MiB.
pub(crate) async fn at_rest(
    plugin: &Plugin,
    empty: &Resident,
    count: usize,
    most: u8,
    sizes: &Sizes,
    report: &mut Report,
) -> Result<()> {
    let full = plugin.resident()?;
    report.target(
        &format!("resident memory with {count} volumes"),
        full.to_string(),
        &format!("< {most} MiB"),
        full.total() < f64::from(most),
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
    Ok(())
}

/// Renewals that are all due at the same moment: the plugin stands still until they are.
pub(crate) async fn due_together(stage: &Stage, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let plugin = Plugin::start(stage).await?;
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
    plugin.stop().await
}
