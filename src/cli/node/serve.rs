//! The graph of parts: how they are put together, in which order they start, and how they end.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::kubernetes::Scope;
use crate::config::{self, Problem, Running, Severity};
use crate::csi::{Endpoint, Listener, Plugin, Registration, RegistrationState};
use crate::error::with_causes;
use crate::issuer::{AcmeAnswers, Issuers, KubernetesIssuers, StateStore, Surroundings};
use crate::kubernetes::{self, Access};
use crate::observe::{
    self, Endpoints, Events, Exporter, IssuerHealth, IssuersFn, Metrics, Readiness, VolumesFn,
    bind_private,
};
use crate::renew::{Renewer, Settings};
use crate::spec::policy::Cluster;
use crate::spec::request::NodeContext;
use crate::volume::{NodeState, Volumes};

/// What to serve and where.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) endpoint: Endpoint,
    pub(super) node: NodeContext,
    pub(super) cluster: Cluster,
    pub(super) data_root: PathBuf,
    pub(super) source: Source,
    pub(super) acme_http01_address: Option<SocketAddr>,
    pub(super) acme_tls_alpn_address: Option<SocketAddr>,
    pub(super) state_dir: PathBuf,
    pub(super) node_addresses: Vec<IpAddr>,
    pub(super) registration: Option<Registration>,
    /// The key of the taint that the node has until kubelet knows the driver.
    pub(super) startup_taint: Option<String>,
    pub(super) metrics_addr: Option<SocketAddr>,
    /// What sends traces, where somebody collects them.
    pub(super) exporter: Option<Exporter>,
    pub(super) admin_socket: PathBuf,
}

/// Where issuers are read from.
#[derive(Debug)]
pub(super) enum Source {
    Folder(PathBuf),
    Kubernetes {
        /// The driver's own, if it is not that of its service account.
        namespace: Option<String>,
        scope: Scope,
        /// Whether pods ask cert-manager themselves.
        as_pods: bool,
    },
}

/// Serves until `shutdown` or until a part fails, and then ends in good order: in less than two
/// seconds, with the volumes left mounted.
///
/// The CSI socket opens when the volumes of an earlier process are taken over, so that no call
/// races with that, and kubelet is told last.
pub(super) async fn serve(plan: Plan, shutdown: CancellationToken) -> Result<()> {
    let began = Instant::now();
    let clock = Clock::system();
    let readiness = Readiness::default();
    let adopting = readiness.gate("volumes of an earlier process are being taken over");
    let opening = readiness.gate("the CSI socket is not open yet");
    info!(
        version = env!("CARGO_PKG_VERSION"),
        driver = plan.node.driver_name,
        node = plan.node.node_name,
        data_root = %plan.data_root.display(),
        "certmount starts"
    );
    if let Some(registration) = &plan.registration {
        registration.clear()?;
    }

    let as_pods = match plan.source {
        Source::Kubernetes { as_pods: true, .. } => Some(Access::for_bearers().await?),
        _ => None,
    };
    let acme = AcmeAnswers::default();
    let surroundings = Surroundings {
        state_dir: Some(plan.state_dir),
        acme: acme.clone(),
        node_addresses: plan.node_addresses,
        ..Surroundings::new(clock.clone(), &plan.cluster.node_name)
    };
    let (config, access) = start_config(plan.source, plan.cluster, surroundings).await?;
    let mut issuers = config.issuers;
    let mut events = None;
    let mut untaint = None;
    if let Some(access) = access.clone() {
        let NodeContext { driver_name, node_name } = &plan.node;
        untaint = plan.startup_taint.map(|key| Untaint {
            access: access.clone(),
            node: node_name.clone(),
            key,
        });
        let Access { client, namespace } = access;
        let mut foreign = KubernetesIssuers::new(&client, node_name, &namespace);
        if let Some(as_pods) = as_pods {
            foreign = foreign.as_pods(as_pods);
        }
        issuers = issuers.with_foreign(foreign);
        events = Some(Events::start(client, driver_name, node_name, clock.clone()));
    }
    let volumes = Volumes::open(&plan.data_root)?;
    issuers = issuers.with_state(Arc::new(Kept(volumes.node_state())));
    let (reports, reported) = mpsc::unbounded_channel();
    let renewer = Renewer::new(Settings {
        volumes,
        issuers: issuers.clone(),
        anchors: config.anchors,
        clock: clock.clone(),
        node: plan.node.clone(),
        reports,
    });

    let asked = renewer.clone();
    let volumes: VolumesFn = Arc::new(move || asked.volumes());
    let health = IssuerHealth::new(issuers.clone(), clock.clone());
    let asked = health.clone();
    let statuses: IssuersFn = Arc::new(move || asked.statuses());
    let (registry, metrics) =
        observe::registry(Arc::clone(&volumes), Arc::clone(&statuses), clock.now());
    let endpoints = Endpoints {
        registry,
        readiness: readiness.clone(),
        csi_socket: plan.endpoint.path().to_owned(),
        volumes,
        issuers: statuses,
    };
    let traced_all = CancellationToken::new();
    let tracing = plan.exporter.map(|exporter| tokio::spawn(exporter.run(traced_all.clone())));
    let reported_all = CancellationToken::new();
    let reporting =
        observe::consume(reported, metrics.clone(), health, events, reported_all.clone());
    let reporting = tokio::spawn(reporting);
    let mut observers = JoinSet::new();
    observers.spawn(follow_problems(config.problems, metrics));
    observers.spawn(tidy(issuers.clone()));
    serve_observers(&mut observers, endpoints, plan.metrics_addr, &plan.admin_socket).await?;
    if let Some(address) = plan.acme_http01_address {
        let listener = listen(address, "HTTP-01 challenges").await?;
        observers.spawn(logged(acme.clone().serve_http01(listener)));
    }
    if let Some(address) = plan.acme_tls_alpn_address {
        let listener = listen(address, "TLS-ALPN-01 challenges").await?;
        observers.spawn(logged(acme.serve_tls_alpn(listener)));
    }

    adopt(&renewer).await?;
    drop(adopting);
    // A publish that comes first would be told that its issuer is not known yet.
    let _ = tokio::time::timeout(FIRST_READ, issuers.read()).await;

    let listener = Listener::bind(plan.endpoint.path())?;
    let (ready, is_ready) = watch::channel(true);
    let mut parts = JoinSet::new();
    let plugin = Plugin { renewer: renewer.clone(), node: plan.node, access, ready: is_ready };
    let token = shutdown.clone();
    parts.spawn(async { plugin.serve(listener, token).await.map_err(Error::from) });
    drop(opening);
    info!(endpoint = %plan.endpoint, took_ms = began.elapsed().as_millis(), "serving kubelet");
    if let Some(registration) = plan.registration {
        observers.spawn(follow_registration(registration.state(), readiness.clone()));
        if let Some(untaint) = untaint {
            observers.spawn(untaint.once_registered(registration.state()));
        }
        let token = shutdown.clone();
        parts.spawn(async { registration.serve(token).await.map_err(Error::from) });
    }

    let ended = tokio::select! {
        // The parts end by the same token: who ends because of it has not failed.
        biased;
        () = shutdown.cancelled() => Ok(()),
        Some(part) = parts.join_next() => early_end(part),
    };
    let _ending = readiness.gate("certmount is shutting down");
    ready.send_replace(false);
    info!("shutting down; the volumes stay mounted");
    shutdown.cancel();
    let in_order = async {
        renewer.drain().await;
        while parts.join_next().await.is_some() {}
        // Beside the rest, whose servers may be slow.
        traced_all.cancel();
        issuers.close().await;
        reported_all.cancel();
        let _ = reporting.await;
        if let Some(tracing) = tracing {
            let _ = tracing.await;
        }
    };
    // The observers answer to the end, so that probes see what happens.
    if tokio::time::timeout(DRAIN, in_order).await.is_err() {
        warn!("work was still under way after {DRAIN:?}; the next start carries on with it");
    }
    let _ = std::fs::remove_file(&plan.admin_socket);
    ended
}

/// What issuers keep, beside the volumes.
#[derive(Debug)]
struct Kept(NodeState);

impl StateStore for Kept {
    fn load(&self, name: &str) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
        self.0.load(name).map_err(std::io::Error::other)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.0.store(name, bytes).map_err(std::io::Error::other)
    }

    fn names(&self) -> std::io::Result<Vec<String>> {
        self.0.names().map_err(std::io::Error::other)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.remove(name).map_err(std::io::Error::other)
    }
}

/// An API server that works answers within this; one that does not must not hold up unpublishes.
const FIRST_READ: Duration = Duration::from_secs(2);

/// Less than the two seconds that are promised.
const DRAIN: Duration = Duration::from_millis(1800);

/// No part ends by itself: what ended did so because it failed.
fn early_end(part: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    part.context("a part of certmount broke down")??;
    bail!("a server ended by itself")
}

async fn start_config(
    source: Source,
    cluster: Cluster,
    surroundings: Surroundings,
) -> Result<(Running, Option<Access>)> {
    Ok(match source {
        Source::Folder(dir) => (config::start(&dir, cluster, surroundings)?, None),
        Source::Kubernetes { namespace, scope, .. } => {
            let access = Access::find(namespace).await?;
            (config::kubernetes::start(&access, scope, cluster, surroundings), Some(access))
        }
    })
}

async fn serve_observers(
    observers: &mut JoinSet<()>,
    endpoints: Endpoints,
    metrics_addr: Option<SocketAddr>,
    admin_socket: &Path,
) -> Result<()> {
    if let Some(address) = metrics_addr {
        let listener = listen(address, "metrics and health").await?;
        observers.spawn(logged(endpoints.clone().serve_public(listener)));
    }
    let listener = bind_private(admin_socket)
        .with_context(|| format!("cannot make the admin socket {}", admin_socket.display()))?;
    observers.spawn(logged(endpoints.serve_admin(listener)));
    Ok(())
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve {what} on {address}"))?;
    info!(address = %listener.local_addr()?, "serving {what}");
    Ok(listener)
}

async fn adopt(renewer: &Renewer) -> Result<()> {
    let began = Instant::now();
    let (volumes, problems) = renewer.adopt().await?;
    for problem in problems {
        warn!(problem, "a volume of an earlier process cannot be carried on");
    }
    if volumes > 0 {
        info!(volumes, took_ms = began.elapsed().as_millis(), "volumes taken over");
    }
    Ok(())
}

/// Removes the keys of issuers that are gone.
async fn tidy(mut issuers: Issuers) {
    loop {
        if let Err(error) = issuers.tidy() {
            let error = with_causes(&error);
            warn!(error, "keys of issuers that are gone cannot be removed from the node's tmpfs");
        }
        issuers.changed().await;
    }
}

/// Keeps the number of configuration problems in the metrics, and logs each that is new.
async fn follow_problems(mut problems: watch::Receiver<Vec<Problem>>, metrics: Metrics) {
    let mut known = Vec::new();
    loop {
        let now = problems.borrow_and_update().clone();
        metrics.set_config_problems(now.len());
        for problem in now.iter().filter(|problem| !known.contains(*problem)) {
            match problem.severity {
                Severity::Error => error!(%problem, "configuration"),
                Severity::Warning => warn!(%problem, "configuration"),
            }
        }
        known = now;
        if problems.changed().await.is_err() {
            return;
        }
    }
}

/// Holds readiness back while kubelet does not know the driver.
async fn follow_registration(mut state: watch::Receiver<RegistrationState>, readiness: Readiness) {
    let mut gate = None;
    loop {
        let reason = match &*state.borrow_and_update() {
            RegistrationState::Registered => None,
            RegistrationState::Waiting => Some("kubelet has not registered the driver yet".into()),
            RegistrationState::Refused(why) => Some(format!("kubelet refuses the driver: {why}")),
        };
        // The old gate goes after the new one is there.
        let new = reason.map(|reason| readiness.gate(reason));
        drop(std::mem::replace(&mut gate, new));
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Lets pods onto a node that kept them off while it had no driver.
struct Untaint {
    access: Access,
    node: String,
    key: String,
}

impl Untaint {
    async fn once_registered(self, mut state: watch::Receiver<RegistrationState>) {
        let registered = state.wait_for(|state| *state == RegistrationState::Registered);
        if registered.await.is_err() {
            return;
        }
        let Self { access, node, key } = self;
        loop {
            match kubernetes::remove_taint(&access.client, &node, &key).await {
                Ok(true) => return info!(taint = key, "the node may have pods now"),
                Ok(false) => return,
                Err(error) => {
                    let reason = kubernetes::reason(&error);
                    warn!(taint = key, reason, "the startup taint cannot be removed yet");
                }
            }
            tokio::time::sleep(UNTAINT_AGAIN).await;
        }
    }
}

const UNTAINT_AGAIN: Duration = Duration::from_secs(5);

async fn logged(serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        warn!(%error, "an HTTP endpoint failed");
    }
}
