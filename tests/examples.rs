//! The apps in `examples/`, run as a pod runs them on a volume that is renewed again and again:
//! no request is lost, new connections soon get the new certificate, and files that cannot be used
//! change nothing.
//!
//! `cargo test` builds the Rust example first; with `--test examples` alone, run
//! `cargo build --examples` before.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write files before anyone reads them, and fail by panicking"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use certmount::volume::{Volume, Volumes};
use common::https::{Authority, Client};
use common::namespaced_async;
use common::volume::{Node, OWNER, payload};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the project promises.
const SOON: Duration = Duration::from_secs(2);

const ROTATIONS: usize = 4;

#[test]
fn rust() {
    namespaced_async(|| async {
        let world = World::new();
        let program = example_binary("https-server");
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--tls-dir"]).arg(&world.path);
        App::that_says_where(command, Kept::AsTheyAre).hold_to_it(world).await;
    });
}

#[test]
#[ignore = "needs go, python3, node, java, nginx and haproxy; .ci/run installs them"]
fn go() {
    namespaced_async(|| async {
        let world = World::new();
        let program = world.folder().join("server");
        let mut build = Command::new("go");
        build.arg("build").arg("-o").arg(&program).arg("main.go").current_dir(example("go"));
        assert!(build.status().unwrap().success());
        App::that_says_where(world.command(&program, None), Kept::AsTheyAre)
            .hold_to_it(world)
            .await;
    });
}

#[test]
#[ignore = "needs go, python3, node, java, nginx and haproxy; .ci/run installs them"]
fn python() {
    namespaced_async(|| async {
        let world = World::new();
        let command = world.command("python3".as_ref(), Some("python/server.py"));
        App::that_says_where(command, Kept::AsTheyAre).hold_to_it(world).await;
    });
}

#[test]
#[ignore = "needs go, python3, node, java, nginx and haproxy; .ci/run installs them"]
fn nodejs() {
    namespaced_async(|| async {
        let world = World::new();
        let command = world.command("node".as_ref(), Some("nodejs/server.mjs"));
        App::that_says_where(command, Kept::AsTheyAre).hold_to_it(world).await;
    });
}

#[test]
#[ignore = "needs go, python3, node, java, nginx and haproxy; .ci/run installs them"]
fn java() {
    namespaced_async(|| async {
        let world = World::new();
        let command = world.command("java".as_ref(), Some("java/Server.java"));
        App::that_says_where(command, Kept::AsTheyAre).hold_to_it(world).await;
    });
}

#[test]
#[ignore = "needs go, python3, node, java, nginx and haproxy; .ci/run installs them"]
fn nginx() {
    namespaced_async(|| async {
        let world = World::new();
        let (configuration, address) = world.configuration("nginx/nginx.conf");
        let mut command = world.exec("HUP");
        // Inside the namespace of a user without rights there is no other user than root.
        command.args(["nginx", "-e", "stderr", "-g", "user root;", "-c"]).arg(configuration);
        App::at(address, command, "[emerg]", Kept::UntilNextReload).hold_to_it(world).await;
    });
}

#[test]
#[ignore = "needs go, python3, node, java, nginx and haproxy; .ci/run installs them"]
fn haproxy() {
    namespaced_async(|| async {
        let world = World::new();
        let (configuration, address) = world.configuration("haproxy/haproxy.cfg");
        let mut command = world.exec("USR2");
        command.args(["haproxy", "-W", "-db", "-f"]).arg(configuration);
        App::at(address, command, "Error(s) found in configuration", Kept::ForOneMore)
            .hold_to_it(world)
            .await;
    });
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// `target/<profile>/examples/<name>`, seen from `target/<profile>/deps/examples-…`.
fn example_binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(name);
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    program
}

/// A volume as the driver makes them, and the CA of what is in it.
struct World {
    path: PathBuf,
    authority: Authority,
    volume: Volume,
    _volumes: Volumes,
    node: Node,
    first: String,
}

impl World {
    fn new() -> Self {
        let node = Node::new();
        let volumes = node.open();
        let volume = node.published(&volumes, "tls");
        let path = node.target("tls").as_path().to_owned();
        let authority = Authority::new();
        let mut world =
            Self { path, authority, volume, _volumes: volumes, node, first: String::new() };
        world.first = world.renew();
        world
    }

    /// A place for files of the test.
    fn folder(&self) -> &Path {
        self.node.directory()
    }

    /// Puts a new key and certificate in place and returns the serial number.
    fn renew(&self) -> String {
        let pair = self.authority.pair();
        self.write(&pair.certificate, &pair.key);
        pair.serial
    }

    fn write(&self, certificate: &str, key: &str) {
        let both = [certificate, key].concat();
        let files = [("tls.crt", certificate), ("tls.key", key), ("server.pem", &both)];
        self.volume.write(&payload(&files), b"state", &OWNER).unwrap();
    }

    /// An app that takes the directory and the address as arguments.
    fn command(&self, program: &Path, script: Option<&str>) -> Command {
        let mut command = Command::new(program);
        command.args(script.map(example)).arg(&self.path).arg("127.0.0.1:0");
        command
    }

    /// The start of a command that is told of renewals.
    fn exec(&self, signal: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certmount"));
        command.args(["exec", "--signal", signal, "--watch"]).arg(&self.path).arg("--");
        command
    }

    /// A configuration as it stands in `examples/`, but for the directory and the address.
    fn configuration(&self, name: &str) -> (PathBuf, SocketAddr) {
        let text = fs::read_to_string(example(name)).unwrap();
        // Free until somebody takes it, which will be the app.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let changed = text
            // In this order, as the folder of the test is most often below /tmp itself.
            .replace("/tmp/", &format!("{}/", self.folder().display()))
            .replace("/tls/", &format!("{}/", self.path.display()))
            .replace("listen 8443", &format!("listen {address}"))
            .replace("bind :8443", &format!("bind {address}"));
        let path = self.folder().join("configuration");
        fs::write(&path, changed).unwrap();
        (path, address)
    }
}

/// What becomes of connections that are open when a certificate is renewed.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// Nothing.
    AsTheyAre,
    /// They answer one request more, and say that it is the last.
    ForOneMore,
    /// They are closed between two requests; a client asks again on another (RFC 9112, 9.3.1).
    UntilNextReload,
}

/// A running app.
struct App {
    address: SocketAddr,
    /// What it says once each time it finds files that it cannot use.
    complaint: &'static str,
    kept: Kept,
    child: Child,
    output: Output,
}

impl App {
    /// An app that prints `listening on ADDRESS, serial …`.
    fn that_says_where(command: Command, kept: Kept) -> Self {
        let (child, output) = start(command);
        let began = Instant::now();
        let address = loop {
            let line = output.lines().into_iter().find(|line| line.starts_with("listening on "));
            if let Some(line) = line {
                break line["listening on ".len()..].split(',').next().unwrap().parse().unwrap();
            }
            assert!(began.elapsed() < PATIENCE, "it does not listen: {output:#?}");
            thread::sleep(Duration::from_millis(5));
        };
        Self { address, complaint: "keeping the old certificate", kept, child, output }
    }

    fn at(address: SocketAddr, command: Command, complaint: &'static str, kept: Kept) -> Self {
        let (child, output) = start(command);
        Self { address, complaint, kept, child, output }
    }

    async fn hold_to_it(mut self, world: World) {
        let client = world.authority.client(self.address);
        let up = async || client.connect().await.ok();
        let connection = self.eventually("it answers", PATIENCE, up).await;
        assert_eq!(connection.serial, world.first);

        let crowd = Crowd::new(&client, self.kept);
        crowd.asks_again().await;
        for _ in 0..ROTATIONS {
            let renewed = world.renew();
            self.serves(&client, &renewed).await;
            crowd.asks_again().await;
        }

        let current = world.renew();
        self.serves(&client, &current).await;
        let good = || world.authority.pair();
        for (certificate, key) in [
            (good().certificate, good().key),
            (good().certificate, "nonsense".to_owned()),
            (String::new(), good().key),
        ] {
            let complaints = self.complaints();
            world.write(&certificate, &key);
            let complained = async || (self.complaints() > complaints).then_some(());
            self.eventually("it complains", PATIENCE, complained).await;
            assert_eq!(client.connect().await.unwrap().serial, current);
            crowd.asks_again().await;
        }

        let renewed = world.renew();
        self.serves(&client, &renewed).await;
        crowd.asks_again().await;
        crowd.goes_home().await;
        self.ends_when_asked_to();
    }

    /// Returns once new connections get the certificate with this serial number.
    async fn serves(&self, client: &Client, serial: &str) {
        let served = async || {
            let mut connection = client.connect().await.unwrap();
            let answer = connection.get().await.unwrap();
            // Where the app says what it serves, it says it right.
            let said = answer.body.strip_prefix("serial ").map(|said| number(said.trim()));
            let right = said.is_none_or(|said| said == number(serial));
            (right && connection.serial == serial).then_some(())
        };
        self.eventually("it serves the new certificate", SOON, served).await;
    }

    fn complaints(&self) -> usize {
        self.output.lines().iter().filter(|line| line.contains(self.complaint)).count()
    }

    fn ends_when_asked_to(&mut self) {
        let began = Instant::now();
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "it goes on: {:#?}", self.output);
            thread::sleep(Duration::from_millis(5));
        }
    }

    async fn eventually<T>(
        &self,
        what: &str,
        patience: Duration,
        mut fact: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            if let Some(fact) = fact().await {
                return fact;
            }
            assert!(began.elapsed() < patience, "{what}: not in {patience:?}: {:#?}", self.output);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A serial number in hexadecimal, however it is written.
fn number(serial: &str) -> String {
    serial.trim_start_matches('0').to_lowercase()
}

fn start(mut command: Command) -> (Child, Output) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let output = Output::default();
    output.follow(child.stdout.take().unwrap());
    output.follow(child.stderr.take().unwrap());
    (child, output)
}

/// The lines that a program has printed until now.
#[derive(Clone, Debug, Default)]
struct Output(Arc<Mutex<Vec<String>>>);

impl Output {
    fn follow(&self, from: impl Read + Send + 'static) {
        let lines = Arc::clone(&self.0);
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Clients that ask all the time, some on connections that they keep and some on new ones. One
/// request without an answer fails the test.
struct Crowd(Vec<(Arc<AtomicU64>, JoinHandle<()>)>);

impl Crowd {
    fn new(client: &Client, kept: Kept) -> Self {
        let ask = |number| {
            let (client, asked) = (client.clone(), Arc::new(AtomicU64::new(0)));
            let count = Arc::clone(&asked);
            let task = if number % 3 == 0 {
                tokio::spawn(ask_on_new_connections(client, count))
            } else {
                tokio::spawn(ask_on_one_connection(client, kept, count))
            };
            (asked, task)
        };
        Self((0..6).map(ask).collect())
    }

    /// Returns once each has asked once more and got its answer.
    async fn asks_again(&self) {
        let asked: Vec<_> = self.0.iter().map(|(asked, _)| asked.load(Ordering::Relaxed)).collect();
        for ((now, task), before) in self.0.iter().zip(asked) {
            // One that was on its way may have begun before.
            while now.load(Ordering::Relaxed) < before + 2 {
                assert!(!task.is_finished(), "a request was lost");
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn goes_home(self) {
        for (_, task) in self.0 {
            task.abort();
            let ended = task.await.unwrap_err();
            assert!(ended.is_cancelled(), "a request was lost: {ended}");
        }
    }
}

/// Between the requests of one client.
const PAUSE: Duration = Duration::from_millis(5);

async fn ask_on_new_connections(client: Client, asked: Arc<AtomicU64>) {
    loop {
        client.connect().await.unwrap().get().await.unwrap();
        asked.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}

async fn ask_on_one_connection(client: Client, kept: Kept, asked: Arc<AtomicU64>) {
    let mut connection = client.connect().await.unwrap();
    loop {
        match connection.get().await {
            Ok(answer) if !answer.last => {}
            Ok(_) if kept != Kept::AsTheyAre => connection = client.connect().await.unwrap(),
            Err(_) if kept == Kept::UntilNextReload => {
                connection = client.connect().await.unwrap();
                connection.get().await.unwrap();
            }
            Ok(_) => panic!("the server ends a connection"),
            Err(error) => panic!("no answer on a kept connection: {error:#}"),
        }
        asked.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}
