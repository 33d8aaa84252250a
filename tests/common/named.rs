//! BIND on loopback, for a test in a network of its own: there it may have port 53, as the servers
//! of real zones do.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// Puts this thread, and all that it starts, into a network that is nothing but a loopback with the
/// addresses 127.0.0.1 and 127.0.0.2: a server listens to what an interface has.
///
/// # Panics
///
/// When the process may not, which inside of [`super::namespaced`] it may.
pub fn enter_own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace can have a network of its own");
    for arguments in ["link set lo up", "address add 127.0.0.2/8 dev lo"] {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        assert!(done.expect("ip is installed").success(), "ip {arguments}");
    }
}

/// A name server, until it is dropped.
pub struct Named {
    address: &'static str,
    folder: PathBuf,
    log: Receiver<String>,
    seen: String,
    process: Child,
}

const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Of the servers' own control channels; it is good for nothing else.
const CONTROL_KEY: &str = "key control { algorithm hmac-sha256; secret \"Y29udHJvbA==\"; };";

impl Named {
    /// A server at port 53 of `address` with these statements (`zone`, `key`) of its configuration,
    /// and these files, in a folder below `parent`.
    pub fn start(
        parent: &Path,
        address: &'static str,
        options: &str,
        statements: &str,
        files: &[(&str, &str)],
    ) -> Self {
        let folder = parent.join(address);
        fs::create_dir(&folder).unwrap();
        let path = folder.display();
        let configuration = format!(
            "options {{ directory \"{path}\"; pid-file \"{path}/pid\"; \
             session-keyfile \"{path}/session.key\"; listen-on {{ {address}; }}; \
             listen-on-v6 {{ none; }}; query-source {address}; transfer-source {address}; \
             notify-source {address}; recursion no; dnssec-validation no; \
             allow-transfer {{ any; }}; {options} }};\n\
             {CONTROL_KEY}\n\
             controls {{ inet {address} port 953 allow {{ any; }} keys {{ control; }}; }};\n\
             {statements}\n"
        );
        let texts = [("named.conf", &*configuration), ("control.conf", CONTROL_KEY)];
        for (name, text) in texts.iter().chain(files) {
            write(&folder.join(name), text);
        }
        let mut process = Command::new("named")
            .args(["-g", "-n", "1", "-c"])
            .arg(folder.join("named.conf"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("named is installed");
        let (send, log) = channel();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut named = Self { address, folder, log, seen: String::new(), process };
        named.wait_for(" running");
        named
    }

    /// Returns when the server has logged `words`, now or before.
    ///
    /// # Panics
    ///
    /// When it has not for half a minute, with all that it has logged.
    pub fn wait_for(&mut self, words: &str) {
        while !self.seen.contains(words) {
            match self.log.recv_timeout(LONGEST_WAIT) {
                Ok(line) => self.seen += &(line + "\n"),
                Err(_) => panic!("{} has not said {words:?}:\n{}", self.address, self.seen),
            }
        }
    }

    /// Has the server do what rndc(8) calls `command`.
    pub fn control(&self, command: &[&str]) {
        let output = Command::new("rndc")
            .args(["-s", self.address, "-k"])
            .arg(self.folder.join("control.conf"))
            .args(command)
            .output()
            .expect("rndc is installed");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// What the server has for TXT records at `name`, in order.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let answer = self.ask(name, "TXT");
        let mut texts: Vec<_> = answer.lines().map(|line| line.trim_matches('"').into()).collect();
        texts.sort();
        texts
    }

    /// What grows with each change of a zone: the third word of its SOA record.
    pub fn serial(&self, zone: &str) -> String {
        self.ask(zone, "SOA").split(' ').nth(2).unwrap().to_owned()
    }

    fn ask(&self, name: &str, record_type: &str) -> String {
        let output = Command::new("dig")
            .args([&format!("@{}", self.address), name, record_type, "+short", "+norecurse"])
            .output()
            .expect("dig is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "nobody reads it before it is whole")]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
