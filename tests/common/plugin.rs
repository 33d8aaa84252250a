//! The real driver as a child process, with a kubelet that is played.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use certmount::csi::client::{InlineVolume, Kubelet};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A `certmount node` in a folder of its own. Mounts, so its tests run in `namespaced`.
///
/// Killed when it is dropped; what it mounted goes with the namespace.
pub struct Plugin {
    folder: TempDir,
    driver: Option<Child>,
    arguments: Vec<String>,
    /// The kubeconfig of a driver that has no configuration folder.
    kubeconfig: Option<PathBuf>,
}

/// Longer than a start takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The file with the issuer of [`Plugin::start`]: every leaf signs itself.
pub const SELF_SIGNED: (&str, &str) = (
    "self-signed.yaml",
    "apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: {name: self-signed}
spec: {selfSigned: {}}
",
);

/// The volume of a pod in the namespace `shop`, with a certificate from that ClusterIssuer.
pub fn inline_volume(pod: &str, issuer: &str) -> InlineVolume {
    let attributes = [
        ("certmount.dev/issuer-kind", "ClusterIssuer"),
        ("certmount.dev/issuer-name", issuer),
        ("certmount.dev/dns-names", "web.shop.svc"),
    ];
    InlineVolume::new("shop", pod, &attributes)
}

impl Plugin {
    /// A driver with the ClusterIssuer `self-signed`.
    pub fn start() -> Self {
        Self::with_config(&[SELF_SIGNED])
    }

    /// A driver with these files in its configuration folder.
    pub fn with_config(files: &[(&str, &str)]) -> Self {
        Self::with_arguments(files, &[])
    }

    /// The same with more arguments for `certmount node`.
    pub fn with_arguments(files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        for name in ["config", "kubelet", "data"] {
            fs::create_dir(folder.path().join(name)).expect("the folder is empty");
        }
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut plugin = Self { folder, driver: None, arguments, kubeconfig: None };
        for (name, text) in files {
            plugin.configure(name, text);
        }
        plugin.restart();
        plugin
    }

    /// A driver that asks the Kubernetes API which `kubeconfig` names.
    pub fn with_kubernetes(kubeconfig: &Path, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let arguments = ["--kubernetes"].iter().chain(arguments);
        let arguments = arguments.map(|&argument| argument.to_owned()).collect();
        let kubeconfig = Some(kubeconfig.to_owned());
        let mut plugin = Self { folder, driver: None, arguments, kubeconfig };
        plugin.restart();
        plugin
    }

    /// Puts a file into the configuration folder, at once or not at all.
    pub fn configure(&self, name: &str, text: &str) {
        let config = self.path("config");
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path()).expect("a new file");
        file.write_all(text.as_bytes()).expect("there is room");
        file.persist(config.join(name)).expect("a rename inside the folder");
    }

    /// Starts the driver, after killing the one that runs.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.path("log"));
        let log = log.expect("the log can be written");
        let errors = log.try_clone().expect("a file descriptor is left");
        let mut driver = Command::new(env!("CARGO_BIN_EXE_certmount"));
        driver
            .args(["node", "--node-id", "node-1", "--endpoint"])
            .arg(format!("unix://{}", self.socket().display()))
            .args([Path::new("--data-root"), &self.data_root()]);
        match &self.kubeconfig {
            Some(kubeconfig) => driver.env("KUBECONFIG", kubeconfig),
            None => driver.args([Path::new("--config-dir"), &self.path("config")]),
        };
        let driver =
            driver.args(&self.arguments).stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.driver = Some(driver.expect("the certmount binary runs"));
        self.wait("the driver listens", || UnixStream::connect(self.socket()).is_ok());
    }

    /// Kills the driver as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        if let Some(mut driver) = self.driver.take() {
            // It may have ended by itself.
            let _ = driver.kill();
            let _ = driver.wait();
        }
    }

    /// Asks the driver to end, as Kubernetes does, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Sends the driver a signal.
    pub fn signal(&self, signal: Signal) {
        let driver = self.driver.as_ref().expect("the driver runs");
        let pid = Pid::from_raw(driver.id().try_into().expect("a process id"));
        kill(pid, signal).expect("it is our child");
    }

    /// Returns when the driver has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let mut driver = self.driver.take().expect("the driver runs");
        driver.wait().expect("it is our child")
    }

    /// A kubelet that talks to this driver.
    pub fn kubelet(&self) -> Kubelet {
        Kubelet::new(self.path("kubelet"), self.socket())
    }

    /// The CSI socket.
    pub fn socket(&self) -> PathBuf {
        self.path("csi.sock")
    }

    /// What the driver answers to a GET of `path` on its admin socket: the status code and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.admin_socket()).expect("the driver listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: certmount\r\nConnection: close\r\n\r\n")
            .expect("the driver reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the driver answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer has a body");
        let code = head.split(' ').nth(1).expect("an HTTP answer has a code");
        (code.parse().expect("a code is a number"), body.to_owned())
    }

    /// The socket of `certmount inspect`.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_root().join(".admin.sock")
    }

    /// The driver's own folder of volumes.
    pub fn data_root(&self) -> PathBuf {
        self.path("data")
    }

    /// A path in the folder that is this plugin's alone.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All that the driver has printed since its first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The mount points below the plugin's folder as they were mounted; one that is covered is
    /// there twice.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
        points.map(PathBuf::from).filter(|point| point.starts_with(self.folder.path())).collect()
    }

    /// Everything that is left of volumes: mounts, and what is in the folders of driver and kubelet.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = self.mounts();
        let entries = |folder: PathBuf| {
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
        };
        // No volume's name begins with a dot; the driver's own files do.
        let hidden = |path: &PathBuf| path.file_name().is_some_and(|n| n.as_bytes()[0] == b'.');
        left.extend(entries(self.data_root()).filter(|path| !hidden(path)));
        for pod in entries(self.path("kubelet").join("pods")) {
            left.extend(entries(pod.join("volumes/kubernetes.io~csi")));
        }
        left
    }

    /// Returns when `fact` holds.
    ///
    /// # Panics
    ///
    /// With the driver's log, when it does not for too long.
    pub fn wait(&self, what: &str, mut fact: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !fact() {
            assert!(begin.elapsed() < PATIENCE, "{what}: not in time; the log is\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.kill();
    }
}
