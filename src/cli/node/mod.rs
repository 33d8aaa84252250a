//! `certmount node`: the driver itself, from its flags to its end.

mod serve;
mod traces;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{Pid, getppid};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::serve::{Plan, Source};
use self::traces::TraceArgs;
use super::cluster::ClusterArgs;
use super::logging::LogArgs;
use super::{namespace, startup};
use crate::clock::Clock;
use crate::config::kubernetes::Scope;
use crate::csi::{self, Endpoint, Registration};
use crate::observe::{self, Exporter, TraceLayer};
use crate::spec::request::NodeContext;

/// Run the driver on this node: serve kubelet, issue certificates and renew them
///
/// Needs to mount: root, or `certmount in-namespace --` in front to try it without. One process
/// for each data root; a second one refuses to start.
///
/// SIGTERM or Ctrl-C ends it in less than two seconds and leaves the volumes mounted; the next
/// start takes them over and carries on. A second signal ends it at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    override_usage = "certmount node --endpoint <unix:///PATH> --node-id <NAME> {--config-dir <DIR> | --kubernetes} [OPTIONS]"
)]
pub(super) struct Args {
    /// The CSI socket to serve kubelet on: an absolute path of at most 107 bytes
    ///
    /// CSI_ENDPOINT is read too.
    #[arg(
        long,
        env = "CERTMOUNT_ENDPOINT",
        value_name = "unix:///PATH",
        required_unless_present = "csi_endpoint"
    )]
    endpoint: Option<Endpoint>,

    /// CSI_ENDPOINT, the name that CSI sidecars share, where --endpoint is not given
    #[arg(long, env = "CSI_ENDPOINT", value_name = "unix:///PATH", hide = true)]
    csi_endpoint: Option<Endpoint>,

    /// The node's name, as kubelet knows it; also in the variable ${NODE_NAME}
    ///
    /// NODE_ID is read too.
    #[arg(
        long,
        env = "CERTMOUNT_NODE_ID",
        value_name = "NAME",
        required_unless_present = "csi_node_id"
    )]
    node_id: Option<String>,

    /// NODE_ID, where --node-id is not given
    #[arg(long, env = "NODE_ID", value_name = "NAME", hide = true)]
    csi_node_id: Option<String>,

    /// The node's addresses, separated by commas: issuers of tenants do not reach them
    ///
    /// Needed where the driver is in a network of its own, as in a pod: the addresses of the
    /// interfaces that it sees are known without it.
    #[arg(long, env = "CERTMOUNT_NODE_IP", value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,

    /// The folder below which each volume has a tmpfs of its own
    ///
    /// In a container it must be mounted from the host with Bidirectional propagation.
    #[arg(
        long,
        env = "CERTMOUNT_DATA_ROOT",
        value_name = "DIR",
        default_value = DEFAULT_DATA_ROOT,
        value_parser = startup::absolute_path
    )]
    data_root: PathBuf,

    /// The driver's name: what pods write as csi.driver
    #[arg(
        long,
        env = "CERTMOUNT_DRIVER_NAME",
        value_name = "NAME",
        default_value = DEFAULT_DRIVER_NAME,
        value_parser = csi::driver_name
    )]
    driver_name: String,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// The process that starts this one, to end with it
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<i32>,

    #[command(flatten)]
    issuers: IssuerArgs,

    #[command(flatten)]
    acme: AcmeArgs,

    #[command(flatten)]
    kubelet: KubeletArgs,

    #[command(flatten)]
    observe: ObserveArgs,

    #[command(flatten)]
    traces: TraceArgs,

    #[command(flatten)]
    logs: LogArgs,
}

/// Where issuers are: in a folder or in the cluster, never both.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Issuers")]
struct IssuerArgs {
    /// The folder with issuers and their Secrets as YAML files; changes are taken up live
    #[arg(
        long,
        env = "CERTMOUNT_CONFIG_DIR",
        value_name = "DIR",
        conflicts_with = "kubernetes",
        required_unless_present_any = ["kubernetes", "kubernetes_service_host"]
    )]
    config_dir: Option<PathBuf>,

    /// Follow the ClusterIssuers in the Kubernetes API, as is done in a pod without --config-dir
    ///
    /// cert-manager's issuers and the signers of Kubernetes can then be named too, and pods get
    /// Events. Outside of a pod KUBECONFIG says where the API is.
    #[arg(long, env = "CERTMOUNT_KUBERNETES")]
    kubernetes: bool,

    /// Serve the Issuers of these namespaces as well, or with * those of all
    ///
    /// Whoever may write an Issuer in a namespace then says where its certificates come from, and
    /// certmount needs the right to read Secrets there.
    #[arg(
        long,
        env = "CERTMOUNT_ISSUER_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        conflicts_with = "config_dir"
    )]
    issuer_namespaces: Vec<String>,

    /// The namespace with the Secrets of ClusterIssuers [default: that of the driver's pod]
    #[arg(
        long,
        env = "CERTMOUNT_NAMESPACE",
        value_name = "NAMESPACE",
        conflicts_with = "config_dir"
    )]
    namespace: Option<String>,

    /// Ask cert-manager in the name of each pod, with the token of its service account
    ///
    /// The CSIDriver object then needs tokenRequests with the audience "",
    /// serviceAccountTokenInSecrets: true and requiresRepublish: true, and the pods' service
    /// accounts the right to create certificaterequests.
    #[arg(long, env = "CERTMOUNT_USE_TOKEN_REQUEST", conflicts_with = "config_dir")]
    use_token_request: bool,

    /// What Kubernetes sets in every pod
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", value_name = "HOST", hide = true)]
    kubernetes_service_host: Option<String>,
}

/// What ACME issuers need on the node.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "ACME")]
struct AcmeArgs {
    /// Answer HTTP-01 challenges of ACME issuers on this address; off without it
    ///
    /// Port 80 of the names has to lead here for /.well-known/acme-challenge/: through an Ingress,
    /// a load balancer, or port 80 itself. Any node can answer for any other that has the account.
    #[arg(long, env = "CERTMOUNT_ACME_HTTP01_ADDRESS", value_name = "IP:PORT")]
    acme_http01_address: Option<SocketAddr>,

    /// Answer TLS-ALPN-01 challenges of ACME issuers on this address; off without it
    ///
    /// Port 443 of the names has to lead here, to the node that has the volume.
    #[arg(long, env = "CERTMOUNT_ACME_TLS_ALPN_ADDRESS", value_name = "IP:PORT")]
    acme_tls_alpn_address: Option<SocketAddr>,

    /// The folder for the keys of ACME accounts, where there is no Kubernetes to keep them in
    ///
    /// They have to outlive reboots: CAs limit how many accounts are made.
    #[arg(
        long,
        env = "CERTMOUNT_STATE_DIR",
        value_name = "DIR",
        default_value = DEFAULT_STATE_DIR,
        value_parser = startup::absolute_path
    )]
    state_dir: PathBuf,
}

/// How kubelet learns of the driver.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Registration with kubelet")]
struct KubeletArgs {
    /// Register with kubelet through a socket in this folder, mostly
    /// /var/lib/kubelet/plugins_registry; off without it
    #[arg(long, env = "CERTMOUNT_PLUGIN_REGISTRATION_DIR", value_name = "DIR")]
    plugin_registration_dir: Option<PathBuf>,

    /// The CSI socket's path as kubelet sees it [default: that of --endpoint]
    ///
    /// In a container the two differ: kubelet is outside.
    #[arg(
        long,
        env = "CERTMOUNT_KUBELET_REGISTRATION_PATH",
        value_name = "PATH",
        requires = "plugin_registration_dir"
    )]
    kubelet_registration_path: Option<PathBuf>,

    /// Take the taint with this key from the node once kubelet knows the driver
    ///
    /// Give new nodes the taint, and pods that need certificates wait for the driver instead of
    /// failing to mount. Needs the Kubernetes API, and the right to get and patch nodes.
    #[arg(
        long,
        env = "CERTMOUNT_STARTUP_TAINT",
        value_name = "KEY",
        requires = "plugin_registration_dir",
        conflicts_with = "config_dir"
    )]
    startup_taint: Option<String>,
}

/// Where the driver can be watched.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Metrics, health and inspection")]
struct ObserveArgs {
    /// Serve /metrics, /healthz and /readyz on this address; off without it
    ///
    /// Nothing listens on the network unless asked to. Port 0 takes a free one and logs it.
    #[arg(long, env = "CERTMOUNT_METRICS_ADDR", value_name = "IP:PORT")]
    metrics_addr: Option<SocketAddr>,

    /// The private socket for `certmount inspect`, for root only
    /// [default: .admin.sock in the data root]
    #[arg(long, env = "CERTMOUNT_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

/// Where the driver keeps its volumes unless told otherwise: nothing in it outlives a boot.
pub(super) const DEFAULT_DATA_ROOT: &str = "/run/certmount";
/// [`ADMIN_SOCKET`] in [`DEFAULT_DATA_ROOT`].
pub(super) const DEFAULT_ADMIN_SOCKET: &str = "/run/certmount/.admin.sock";
/// No volume id begins with a dot, so no volume can take this name.
pub(super) const ADMIN_SOCKET: &str = ".admin.sock";
/// What outlives a boot, where anything does.
const DEFAULT_STATE_DIR: &str = "/var/lib/certmount";
/// What pods write as `csi.driver`.
pub(super) const DEFAULT_DRIVER_NAME: &str = "csi.certmount.dev";

const AFTER_HELP: &str = "\
Examples:
  certmount node --endpoint unix:///var/lib/kubelet/plugins/csi.certmount.dev/csi.sock \\
      --node-id \"$(hostname)\" --config-dir /etc/certmount \\
      --plugin-registration-dir /var/lib/kubelet/plugins_registry
  certmount node … --metrics-addr 127.0.0.1:9402      then: curl localhost:9402/readyz
  certmount node … --log-format json --log-level info,certmount::csi=debug

Exit codes: 0 stopped by a signal; 1 it could not start or something failed; 2 called wrongly.";

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        let logs = self.logs.clone();
        let (layer, exporter) = match self.tracing() {
            Ok(ends) => ends.map_or((None, Ok(None)), |(layer, end)| (Some(layer), Ok(Some(end)))),
            Err(error) => (None, Err(error)),
        };
        logs.start_with(layer);
        logs.end(exporter.and_then(|exporter| self.serve(exporter)))
    }

    /// What takes traces down and what sends them, if anything is to.
    fn tracing(&self) -> Result<Option<(TraceLayer, Exporter)>> {
        let node = self.node_id.as_deref().or(self.csi_node_id.as_deref()).unwrap_or_default();
        let options = self.traces.clone().options(node)?;
        Ok(options.map(|options| observe::pipeline(options, Clock::system())))
    }

    fn serve(self, exporter: Option<Exporter>) -> Result<ExitCode> {
        let parent = self.end_with.map(Pid::from_raw);
        let plan = Plan { exporter, ..self.plan()? };
        if let Some(parent) = parent {
            namespace::die_with_parent()?;
            ensure!(getppid() == parent, "process {parent}, which to end with, has ended");
        }
        startup::harden()?;
        startup::check_may_mount()?;
        startup::drop_rights()?;
        let runtime = runtime()?;
        let ended = runtime.block_on(until_signalled(plan));
        // What still runs was cut short by a second signal, and ends with the process.
        runtime.shutdown_background();
        ended.map(|()| ExitCode::SUCCESS)
    }

    fn plan(self) -> Result<Plan> {
        let Self {
            endpoint,
            csi_endpoint,
            node_id,
            csi_node_id,
            node_ip,
            data_root,
            driver_name,
            cluster,
            end_with: _,
            issuers,
            acme: AcmeArgs { acme_http01_address, acme_tls_alpn_address, state_dir },
            kubelet:
                KubeletArgs { plugin_registration_dir, kubelet_registration_path, startup_taint },
            observe: ObserveArgs { metrics_addr, admin_socket },
            traces: _,
            logs: _,
        } = self;
        let endpoint = endpoint.or(csi_endpoint).context("give --endpoint")?;
        let node_name = node_id.or(csi_node_id).context("give --node-id")?;
        let admin_socket = admin_socket.unwrap_or_else(|| data_root.join(ADMIN_SOCKET));
        startup::check_socket_path(&admin_socket)?;
        let registration = plugin_registration_dir.map(|folder| {
            let csi_socket =
                kubelet_registration_path.unwrap_or_else(|| endpoint.path().to_owned());
            Registration::new(&folder, &driver_name, &csi_socket)
        });
        if let Some(registration) = &registration {
            startup::check_socket_path(registration.socket())?;
        }
        Ok(Plan {
            cluster: cluster.on_node(&node_name),
            node: NodeContext { driver_name, node_name },
            endpoint,
            data_root,
            source: issuers.source(),
            acme_http01_address,
            acme_tls_alpn_address,
            state_dir,
            node_addresses: node_ip,
            registration,
            startup_taint,
            metrics_addr,
            exporter: None,
            admin_socket,
        })
    }
}

impl IssuerArgs {
    fn source(self) -> Source {
        match self.config_dir {
            Some(dir) => Source::Folder(dir),
            None => Source::Kubernetes {
                namespace: self.namespace,
                as_pods: self.use_token_request,
                scope: scope(self.issuer_namespaces),
            },
        }
    }
}

fn scope(namespaces: Vec<String>) -> Scope {
    match &namespaces[..] {
        [] => Scope::ClusterIssuers,
        named if named.iter().any(|name| name == "*") => Scope::AllIssuers,
        _ => Scope::Namespaces(namespaces.into_iter().collect()),
    }
}

/// Serves until the first SIGTERM or SIGINT and ends in good order, or at once on a second one.
async fn until_signalled(plan: Plan) -> Result<()> {
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let signalled = async {
        signals.next().await;
        shutdown.cancel();
        signals.next().await;
    };
    tokio::select! {
        ended = serve::serve(plan, shutdown.clone()) => ended,
        () = signalled => bail!("stopped at once by a second signal"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let terminate = listen(SignalKind::terminate())?;
        let interrupt = listen(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Few threads, whatever the machine: each that allocates keeps a heap of its own (an arena of
/// glibc's), and the work is short. The blocking ones make keys and mount.
fn runtime() -> Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 4))
        .max_blocking_threads(4)
        .thread_name("certmount")
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
