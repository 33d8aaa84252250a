//! Volumes, and kubelet's calls for them: one after the other and side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use certmount::csi::client::{InlineVolume, Kubelet};
use certmount::csi::proto::csi::NodePublishVolumeRequest;
use tokio::task::JoinSet;

use crate::Sizes;
use crate::plugin::{ISSUER, Stage};

/// How many volumes are published side by side where it says "at once".
pub(crate) const AT_ONCE: usize = 20;

/// How many publishes there are in a second, [`AT_ONCE`] at any time, and how long each took; the
/// volumes ask for what `more` says.
pub(crate) async fn publish_in_rounds(
    stage: &Stage,
    sizes: &Sizes,
    more: &[(&str, &str)],
) -> Result<(f64, Vec<Duration>)> {
    // In rounds, so that the number of mounts stays what a node has.
    let (mut published, mut busy, mut calls) = (0, Duration::ZERO, Vec::new());
    while published < sizes.at_once {
        let volumes = volumes("many", sizes.standing.min(sizes.at_once - published), more);
        let (took, answers) = publish_round(stage, &volumes).await?;
        for answer in answers {
            calls.push(answer?);
        }
        busy += took;
        published += volumes.len();
        unpublish_all(stage, &volumes).await?;
    }
    Ok((published as f64 / busy.as_secs_f64(), calls))
}

/// Publishes `volumes`, [`AT_ONCE`] of them at any time; how long all took, and each. What kubelet
/// does before is done before.
pub(crate) async fn publish_round(
    stage: &Stage,
    volumes: &[InlineVolume],
) -> Result<(Duration, Vec<Result<Duration>>)> {
    let mut requests = Vec::new();
    for volume in volumes {
        requests.push(prepare(&stage.kubelet, volume).await?);
    }
    let kubelet = stage.kubelet.clone();
    let each = move |request| {
        let kubelet = kubelet.clone();
        async move { Ok(call(&kubelet, request).await) }
    };
    let began = Instant::now();
    let answers = side_by_side(requests, each).await?;
    Ok((began.elapsed(), answers))
}

/// The namespace of all pods.
pub(crate) const NAMESPACE: &str = "bench";

/// What volumes ask for.
const ECDSA: [(&str, &str); 4] = [
    ("certmount.dev/issuer-kind", "ClusterIssuer"),
    ("certmount.dev/issuer-name", ISSUER),
    ("certmount.dev/dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc"),
    ("certmount.dev/key-algorithm", "ECDSA"),
];

pub(crate) const RSA: [(&str, &str); 1] = [("certmount.dev/key-algorithm", "RSA")];

/// A pod's volume with a P-256 certificate, or with what `more` says instead.
pub(crate) fn volume(pod: &str, more: &[(&str, &str)]) -> InlineVolume {
    let attributes: BTreeMap<_, _> = ECDSA.iter().chain(more).copied().collect();
    let attributes: Vec<_> = attributes.into_iter().collect();
    InlineVolume::new(NAMESPACE, pod, &attributes)
}

pub(crate) fn volumes(prefix: &str, count: usize, more: &[(&str, &str)]) -> Vec<InlineVolume> {
    (0..count).map(|number| volume(&format!("{prefix}-{number}"), more)).collect()
}

/// How long a publish took.
pub(crate) struct Took {
    /// The publish call, connecting included.
    pub(crate) call: Duration,
    /// The call and the two that kubelet makes before it.
    pub(crate) sequence: Duration,
}

pub(crate) async fn publish(kubelet: &Kubelet, volume: &InlineVolume) -> Result<Took> {
    let began = Instant::now();
    let request = prepare(kubelet, volume).await?;
    let prepared = began.elapsed();
    let call = call(kubelet, request).await?;
    Ok(Took { call, sequence: prepared + call })
}

/// Everything that kubelet does before the publish call.
pub(crate) async fn prepare(
    kubelet: &Kubelet,
    volume: &InlineVolume,
) -> Result<NodePublishVolumeRequest> {
    let request = kubelet.publish_request(volume).await.map_err(refused)?;
    let target = Path::new(&request.target_path);
    fs::create_dir_all(target.parent().context("a target has a parent")?)?;
    Ok(request)
}

/// Makes the publish call on a connection of its own, and answers how long both took.
pub(crate) async fn call(kubelet: &Kubelet, request: NodePublishVolumeRequest) -> Result<Duration> {
    let began = Instant::now();
    kubelet.node().await.map_err(refused)?.node_publish_volume(request).await.map_err(refused)?;
    Ok(began.elapsed())
}

pub(crate) async fn publish_all(stage: &Stage, volumes: &[InlineVolume]) -> Result<Vec<Took>> {
    let kubelet = stage.kubelet.clone();
    let each = move |volume| {
        let kubelet = kubelet.clone();
        async move { publish(&kubelet, &volume).await }
    };
    side_by_side(volumes.to_vec(), each).await
}

pub(crate) async fn unpublish_all(stage: &Stage, volumes: &[InlineVolume]) -> Result<()> {
    let kubelet = stage.kubelet.clone();
    let each = move |volume| {
        let kubelet = kubelet.clone();
        async move { kubelet.unpublish(&volume).await.map_err(refused) }
    };
    side_by_side(volumes.to_vec(), each).await.map(drop)
}

/// Does `work` to all items, [`AT_ONCE`] of them at any time.
pub(crate) async fn side_by_side<I, T, F>(
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
pub(crate) fn leaves(stage: &Stage, volumes: &[InlineVolume]) -> Result<Vec<Vec<u8>>> {
    volumes.iter().map(|volume| leaf(stage, volume)).collect()
}

pub(crate) fn leaf(stage: &Stage, volume: &InlineVolume) -> Result<Vec<u8>> {
    Ok(fs::read(stage.kubelet.target(volume).join("tls.crt"))?)
}

pub(crate) fn refused(status: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the plugin answered: {status}")
}
