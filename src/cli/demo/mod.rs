//! `certmount demo`: a certificate issued, mounted, used and renewed, live on this machine.
//!
//! Nothing is played but kubelet and the pod: the plugin is a process of its own behind its real
//! socket, the volume is really mounted, the server is the one in `examples/`, the clients verify
//! what they are shown, and every number printed was measured.

#[path = "../../../examples/https-server/http.rs"]
mod http;
mod plugin;
mod pod;
mod screen;
mod stage;
#[path = "../../../examples/https-server/tls.rs"]
mod tls;
mod traffic;
mod view;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};

use self::screen::{Look, Screen};
use self::stage::{HttpsServer, Leftovers, Stage};
use self::tls::{FollowedTls, Served};
use self::traffic::{Server, Tally, Traffic};
use self::view::Volume;
use super::namespace;
use crate::clock::{Clock, Timestamp};
use crate::config::{Root, RootOptions};
use crate::x509::{Certificate, KeyAlgorithm};

/// The issuer that the demo makes, and the node that it plays.
const ISSUER: &str = "demo-ca";
const NODE: &str = "demo-node";

/// How many renewals `--once` shows.
const ONCE: u32 = 2;

/// The exit code of a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// How often the status is redrawn.
const TICK: Duration = Duration::from_millis(100);

/// How long after a certificate's end its renewal is given up.
const GRACE: Duration = Duration::from_secs(2);

/// How long clients may take to meet a new certificate.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// See a certificate issued, mounted, used and renewed on this machine, without a cluster
///
/// Starts the plugin with a CA of its own in a temporary directory, asks it for a volume as kubelet
/// does, serves HTTPS with what is mounted, and keeps clients busy while the certificate is renewed
/// under them every few seconds. Takes everything away again at the end, also after Ctrl-C.
///
/// Needs no root: without it, it works in a user namespace of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 every renewal was seen and no request failed; 1 otherwise; 130 interrupted.

In a script:
  certmount demo --once")]
pub(super) struct Args {
    /// Show two renewals: for scripts and CI, done in about 15 seconds
    #[arg(long, conflicts_with = "renewals")]
    once: bool,
    /// How many renewals to show; they are about 7 seconds apart
    #[arg(long, value_name = "N", default_value_t = 3, alias = "rotations",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    renewals: u32,
    /// Do without colours, which are for terminals only anyway
    #[arg(long, env = "NO_COLOR", hide_env_values = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    no_color: bool,
    /// The kind of terminal: a dumb one gets lines, and nothing redrawn in place
    #[arg(long, env = "TERM", hide = true, default_value = "dumb")]
    term: String,
}

/// Runs the demo from start to end.
///
/// Must be called before the process has a second thread, because it enters namespaces.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    namespace::enter().context("the demo mounts a volume, and may not")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(demo(&args))
}

/// What the show has brought so far.
#[derive(Default)]
struct Story {
    publish: Option<Duration>,
    renewals: u32,
    tally: Tally,
}

async fn demo(args: &Args) -> Result<ExitCode> {
    let wanted = if args.once { ONCE } else { args.renewals };
    let mut screen = Screen::stdout(!args.no_color, args.term != "dumb");
    let interrupted = interrupted()?;
    let mut stage = Stage::build()?;
    let mut story = Story::default();

    let ended = tokio::select! {
        played = play(&mut stage, &mut screen, &mut story, wanted) => Some(played),
        () = interrupted => None,
    };
    screen.erase_status()?;
    // The plugin's log goes with the stage, and what it said last mostly is the reason.
    let ended = ended.map(|played| played.map_err(|error| stage.explain(error)));
    let leftovers = stage.strike().await;
    summary(&mut screen, &story, wanted, &leftovers)?;

    let code = match ended {
        Some(played) => played.map(|()| ExitCode::SUCCESS)?,
        None => ExitCode::from(INTERRUPTED),
    };
    let seen = story.tally.seen();
    if let Some(why) = seen.first_failure {
        bail!("{} requests failed; the first: {why}", seen.failed);
    }
    if let Some(problem) = leftovers.problems.iter().chain(&leftovers.found).next() {
        bail!("the demo did not end cleanly: {problem}");
    }
    Ok(code)
}

/// Returns at Ctrl-C or SIGTERM, and keeps both from ending the process before it has cleaned up.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn play(
    stage: &mut Stage,
    screen: &mut Screen,
    story: &mut Story,
    wanted: u32,
) -> Result<()> {
    let clock = Clock::system();
    screen.line(screen.paint(Look::Bold, "certmount demo"))?;
    screen.line("The real plugin with a CA of its own, a mounted volume, an HTTPS server, and")?;
    screen.line("clients that stay connected while the certificate is renewed under them.")?;

    make_ca(&stage.layout.config, clock.now()).context("cannot make a CA")?;
    let starting = Instant::now();
    let id = stage.start_plugin().await?;
    let took = screen::span(starting.elapsed());
    screen.heading("Plugin", format_args!("certmount node, process {id}, serves after {took}"))?;
    screen.line("  While it runs, look inside from another terminal:")?;
    let admin_socket = stage.layout.admin_socket.display();
    screen.line(format_args!("    certmount inspect --watch --socket {admin_socket}"))?;

    screen.heading("Pod", "what its manifest would ask for")?;
    for line in pod::manifest(&stage.volume).lines() {
        screen.line(format_args!("    {line}"))?;
    }

    let publishing = Instant::now();
    let target = stage.publish().await?;
    let took = publishing.elapsed();
    story.publish = Some(took);
    let took = screen::span(took);
    screen.heading("Volume", format_args!("published in {took}; for the pod it is /tls"))?;
    let mut volume = Volume::read(&target, clock.now())?;
    view::files(screen, &volume)?;
    view::certificate(screen, &volume)?;

    let (sender, mut renewals) = mpsc::unbounded_channel();
    let tls = FollowedTls::open(&target, move |renewed| {
        let renewed = renewed.map(|_| Instant::now());
        // The receiver is gone when the show is over.
        let _ = sender.send(renewed);
    })?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    stage.server = Some(HttpsServer::start(listener, tls));
    screen.heading("Server", format_args!("https://{address} follows /tls"))?;
    let server = Server::new(address, pod::SERVER_NAME, &volume.trust_anchors)?;
    stage.traffic = Some(Traffic::start(&server, &story.tally));
    let connecting = traffic::CONNECTING_CLIENTS;
    let clients = format!("1 stays connected, {connecting} connect anew all the time");
    screen.heading("Clients", clients)?;

    let mut issued = Instant::now();
    while story.renewals < wanted {
        let given_up = clock.sleep_until(volume.leaf.validity().not_after + GRACE);
        tokio::pin!(given_up);
        let mut tick = interval(TICK);
        let reloaded = loop {
            tokio::select! {
                renewal = renewals.recv() => break renewal.context("the server stopped following")?,
                _ = tick.tick() => view::status(screen, &volume, clock.now(), &story.tally.seen())?,
                () = &mut given_up => bail!("the certificate ran out and no renewal came"),
            }
        };
        let reloaded = reloaded.context("the server could not use the renewed files")?;
        let old = std::mem::replace(&mut volume, Volume::read(&target, clock.now())?);
        let seen = first_handshake(&story.tally, &volume.leaf.serial_number()).await?;
        story.renewals += 1;
        screen.heading(
            &format!("Renewal {}", story.renewals),
            format_args!("{} after the last", screen::span(reloaded - issued)),
        )?;
        view::renewal(screen, &old, &volume, reloaded, &seen)?;
        issued = reloaded;
    }
    Ok(())
}

/// Does what `certmount ca init` does, for an hour.
fn make_ca(config: &Path, now: Timestamp) -> Result<()> {
    let options = RootOptions {
        name: ISSUER.to_owned(),
        common_name: "certmount demo".to_owned(),
        algorithm: KeyAlgorithm::EcdsaP256,
        duration: Duration::from_secs(3600),
        path_len: Some(0),
    };
    Root::make(&options, now)?.write(config, false)?;
    Ok(())
}

/// What the clients have seen when one of them has met the certificate `serial`.
async fn first_handshake(tally: &Tally, serial: &str) -> Result<traffic::Seen> {
    let deadline = Instant::now() + HANDOVER_TIMEOUT;
    loop {
        let seen = tally.seen();
        if seen.handshakes.contains_key(serial) {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("no client was shown the renewed certificate {serial}");
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The server's answer: which certificate the connection was made with.
fn answer(served: &Served, _request: Request<Incoming>) -> Response<String> {
    Response::new(match Certificate::from_der(served.certificate.to_vec()) {
        Ok(certificate) => answer_for(&certificate.serial_number()),
        Err(error) => error.to_string(),
    })
}

fn answer_for(serial: &str) -> String {
    format!("serial {serial}\n")
}

fn summary(
    screen: &mut Screen,
    story: &Story,
    wanted: u32,
    leftovers: &Leftovers,
) -> io::Result<()> {
    screen.heading("Summary", format_args!("{} of {wanted} renewals seen", story.renewals))?;
    view::summary(screen, story, leftovers)?;
    screen.heading("What next", "in README.md")?;
    screen.field("by hand", "\"Without a cluster\": the same, step by step")?;
    screen.field("in a pod", "\"In a pod\": what goes into a manifest")?;
    screen.field("your server", "examples/https-server: code to copy")
}
