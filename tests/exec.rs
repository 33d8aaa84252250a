//! `certmount exec` with real programs: what they are told when files change, and how signals and
//! exit codes get through.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write files before anyone reads them, and fail by panicking"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use certmount::volume::{Volume, Volumes};
use common::namespaced;
use common::volume::{Node, OWNER, payload};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says what happens to it, and ends at a SIGTERM with 3.
const COUNTER: &str = r#"
    hup=0
    trap 'hup=$((hup + 1)); echo "HUP $hup"' HUP
    for name in INT QUIT USR1 USR2 WINCH; do trap "echo $name" $name; done
    trap 'echo TERM; exit 3' TERM
    sleep 1000 >/dev/null 2>&1 &
    echo "started $$"
    while :; do wait; done
"#;

#[test]
fn a_signal_comes_once_for_each_swap() {
    namespaced(|| {
        let volume = TestVolume::new();
        let exec = volume.exec(&["--signal", "HUP"], COUNTER);
        exec.says("started");
        for count in 1..=3 {
            volume.renew();
            assert_eq!(exec.says("HUP"), format!("HUP {count}"));
        }
        for _ in 0..5 {
            volume.renew();
        }
        assert_eq!(exec.says("HUP"), "HUP 4");
        volume.renew();
        assert_eq!(exec.says("HUP"), "HUP 5", "the burst came as one");
        exec.send(Signal::SIGUSR1);
        assert_eq!(exec.line(), "USR1", "and nothing between");
    });
}

#[test]
fn a_signal_comes_within_two_seconds() {
    namespaced(|| {
        let volume = TestVolume::new();
        let exec = volume.exec(&["--signal", "hup"], COUNTER);
        exec.says("started");
        volume.renew();
        exec.says("HUP 1");
        let renewed = Instant::now();
        volume.renew();
        exec.says("HUP 2");
        assert!(renewed.elapsed() < Duration::from_secs(2), "{:?}", renewed.elapsed());
    });
}

#[test]
fn plain_files_are_followed_too() {
    namespaced(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tls.crt");
        let replace = |text: &str| {
            fs::write(folder.path().join(".new"), text).unwrap();
            fs::rename(folder.path().join(".new"), &file).unwrap();
        };
        replace("one");
        for watched in [folder.path(), &file] {
            let exec = Exec::start(&[watched], &["--signal", "HUP"], COUNTER);
            exec.says("started");
            replace("two");
            exec.says("HUP 1");
            fs::write(&file, "three, in place").unwrap();
            exec.says("HUP 2");
            // Not what was asked for, or the same again.
            fs::write(folder.path().join(".hidden"), "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            replace("four");
            assert_eq!(exec.says("HUP"), "HUP 3");
        }
    });
}

#[test]
fn a_folder_that_was_replaced_is_found_again() {
    namespaced(|| {
        let parent = tempfile::tempdir().unwrap();
        let (folder, next) = (parent.path().join("tls"), parent.path().join("next"));
        let make = |folder: &Path, text: &str| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("tls.crt"), text).unwrap();
        };
        make(&folder, "one");
        let exec = Exec::start(&[&folder], &["--signal", "HUP"], COUNTER);
        exec.says("started");
        make(&next, "two");
        fs::remove_dir_all(&folder).unwrap();
        fs::rename(&next, &folder).unwrap();
        exec.says("HUP 1");
        fs::write(folder.join("tls.crt"), "three").unwrap();
        exec.says("HUP 2");
    });
}

#[test]
fn several_volumes_are_watched() {
    namespaced(|| {
        let volumes = [TestVolume::new(), TestVolume::new()];
        let paths = volumes.each_ref().map(|volume| volume.path.as_path());
        let exec = Exec::start(&paths, &["--signal", "HUP"], COUNTER);
        exec.says("started");
        for (count, volume) in (1..).zip(&volumes) {
            volume.renew();
            assert_eq!(exec.says("HUP"), format!("HUP {count}"));
        }
    });
}

#[test]
fn a_command_is_run_until_it_succeeds() {
    namespaced(|| {
        let volume = TestVolume::new();
        let once = volume.path.parent().unwrap().join("once");
        let command = format!("sh -c 'mkdir {} && exit 9; echo \"$0\"' reloaded", once.display());
        let exec = volume.exec(&["--run", &command], COUNTER);
        exec.says("started");
        volume.renew();
        exec.logs("failed, exit status: 9; trying again");
        exec.says("reloaded");
        volume.renew();
        exec.says("reloaded");
        exec.send(Signal::SIGUSR1);
        assert_eq!(exec.line(), "USR1", "the program itself is told nothing");
    });
}

#[test]
fn a_command_that_hangs_is_killed_and_run_again() {
    namespaced(|| {
        let volume = TestVolume::new();
        let once = volume.path.parent().unwrap().join("once");
        let command = format!("sh -c 'mkdir {} && exec sleep 1000; echo done'", once.display());
        let exec = volume.exec(&["--run", &command, "--grace", "200ms"], COUNTER);
        exec.says("started");
        volume.renew();
        exec.logs("took longer than 200ms: killed it");
        exec.says("done");
    });
}

#[test]
fn a_command_that_does_not_exist_is_said() {
    namespaced(|| {
        let volume = TestVolume::new();
        let exec = volume.exec(&["--run", "/no/such/reload now"], COUNTER);
        exec.says("started");
        volume.renew();
        exec.logs("cannot run reload: No such file");
        exec.send(Signal::SIGUSR1);
        exec.says("USR1");
    });
}

#[test]
fn the_program_is_restarted() {
    namespaced(|| {
        let volume = TestVolume::new();
        let mut exec = volume.exec(&["--restart"], COUNTER);
        let first = exec.says("started");
        volume.renew();
        exec.says("TERM");
        assert_ne!(exec.says("started"), first);
        volume.renew();
        exec.says("TERM");
        exec.says("started");
        exec.asked_to_end();
    });
}

#[test]
fn a_program_that_does_not_end_is_killed_and_restarted() {
    namespaced(|| {
        let volume = TestVolume::new();
        let stubborn = "trap '' TERM; sleep 1000 & echo started $$; while :; do wait; done";
        let exec = volume.exec(&["--restart", "--grace", "300ms"], stubborn);
        let first = exec.says("started");
        volume.renew();
        exec.logs("took longer than 300ms: killed it");
        assert_ne!(exec.says("started"), first);
    });
}

#[test]
fn a_program_asked_to_end_is_not_restarted() {
    namespaced(|| {
        let volume = TestVolume::new();
        let slow = r#"
            trap 'n=$((n + 1)); echo "TERM $n"; [ $n -lt 2 ] || exit 5' TERM
            sleep 1000 & echo started; while :; do wait; done
        "#;
        let mut exec = volume.exec(&["--restart"], slow);
        exec.says("started");
        volume.renew();
        exec.says("TERM 1");
        exec.send(Signal::SIGTERM);
        exec.says("TERM 2");
        assert_eq!(exec.ends().code(), Some(5));
    });
}

#[test]
fn a_program_that_ends_by_itself_is_not_restarted() {
    namespaced(|| {
        let volume = TestVolume::new();
        assert_eq!(volume.exec(&["--restart"], "exit 4").ends().code(), Some(4));
    });
}

#[test]
fn signals_are_passed_on() {
    namespaced(|| {
        let volume = TestVolume::new();
        let mut exec = volume.exec(&["--signal", "HUP"], COUNTER);
        exec.says("started");
        for signal in ["INT", "QUIT", "USR1", "USR2", "WINCH", "HUP"] {
            exec.send(format!("SIG{signal}").parse().unwrap());
            exec.says(signal);
        }
        exec.asked_to_end();
    });
}

/// Outside of a namespace, as a user without rights gets no terminal inside.
#[test]
fn a_terminal_interrupts_the_program_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tls.crt"), "").unwrap();
    let program = r#"
        trap 'echo INT' INT; trap 'echo QUIT; kill $!; exit 6' QUIT
        stty -echo; sleep 1000 & echo started; while :; do wait; done
    "#;
    let line = exec_line(&[folder.path()], &["--signal", "HUP", "--log-level", "off"], program);
    let line = format!("exec {}", shlex::try_join(line.iter().map(String::as_str)).unwrap());
    // util-linux's script(1) runs it on a terminal, into which it types what it reads.
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]);
    let mut exec = Exec::of(piped(script.stdin(Stdio::piped())));
    exec.says("started");
    let mut keyboard = exec.child.stdin.take().unwrap();
    for (key, name) in [(b"\x03", "INT"), (b"\x03", "INT"), (b"\x1c", "QUIT")] {
        keyboard.write_all(key).unwrap();
        exec.says(name);
    }
    assert_eq!(exec.ends().code(), Some(6));
}

#[test]
fn exit_codes_are_the_programs() {
    namespaced(|| {
        let volume = TestVolume::new();
        let code = |program: &str| volume.exec(&["--signal", "HUP"], program).ends().code();
        assert_eq!(code("exit 0"), Some(0));
        assert_eq!(code("exit 7"), Some(7));
        assert_eq!(code("kill -KILL $$"), Some(128 + 9));

        let code = |program: &Path| {
            let mut command = certmount();
            command.args(["exec", "--signal", "HUP", "--watch"]).arg(&volume.path).arg("--");
            let output = command.arg(program).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (missing, log) = code(Path::new("/no/such/program"));
        assert_eq!(missing, Some(127), "{log}");
        assert!(log.contains("cannot run program: No such file"), "{log}");
        let (forbidden, log) = code(&volume.path.join("tls.crt"));
        assert_eq!(forbidden, Some(126), "{log}");
    });
}

#[test]
fn files_are_waited_for() {
    namespaced(|| {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("tls");
        let exec = Exec::start(&[&folder], &["--signal", "HUP"], COUNTER);
        exec.logs(&format!("waiting up to 1m for files at {}", folder.display()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("tls.crt"), "").unwrap();
        exec.says("started");
    });
}

#[test]
fn a_missing_folder_is_explained() {
    namespaced(|| {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing")] {
            let mut exec = Exec::start(&[&path], &["--signal", "HUP", "--wait", "0s"], COUNTER);
            exec.logs(&format!("there is no file at {}", path.display()));
            assert_eq!(exec.ends().code(), Some(1));
        }
    });
}

#[test]
fn a_wait_can_be_ended() {
    namespaced(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut exec = Exec::start(&[folder.path()], &["--signal", "HUP"], COUNTER);
        exec.logs("waiting");
        exec.send(Signal::SIGTERM);
        assert_eq!(exec.ends().code(), Some(128 + 15));
    });
}

#[test]
fn process_1_reaps_orphans_and_takes_signals() {
    namespaced(|| {
        let volume = TestVolume::new();
        let orphans = format!("for i in 1 2 3; do (sleep 0 &); done\n{COUNTER}");
        // The next child of the thread is the first process of a namespace.
        let start = || {
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            piped(&mut exec_command(&[&volume.path], &["--restart"], &orphans))
        };
        let mut exec = Exec::of(thread::scope(|scope| scope.spawn(start).join().unwrap()));
        exec.says("started");
        let children = format!("/proc/{0}/task/{0}/children", exec.child.id());
        let children = || fs::read_to_string(&children).unwrap().split_whitespace().count();
        let began = Instant::now();
        while children() != 1 {
            assert!(began.elapsed() < PATIENCE, "{} children, one was started", children());
            thread::yield_now();
        }
        volume.renew();
        exec.says("TERM");
        exec.says("started");
        exec.asked_to_end();
    });
}

#[test]
fn programs_start_with_ordinary_signals() {
    namespaced(|| {
        let volume = TestVolume::new();
        let program = "grep -E '^Sig(Blk|Ign):' /proc/self/status";
        let exec = volume.exec(&["--signal", "HUP"], program);
        let signals = || {
            let line = exec.line();
            u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
        };
        assert_eq!(signals(), 0, "blocked");
        assert_eq!(signals() & 0x7fff_ffff, 0, "ignored, of those that are not real-time");
    });
}

#[test]
fn it_installs_itself() {
    let folder = tempfile::tempdir().unwrap();
    // The second time, somebody may be running the first.
    for _ in 0..2 {
        let installed = certmount().arg("install").arg(folder.path()).status().unwrap();
        assert!(installed.success());
    }
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let version = |program: &Path| Command::new(program).arg("--version").output().unwrap().stdout;
    let installed = version(&folder.path().join("certmount"));
    assert_eq!(installed, version(Path::new(env!("CARGO_BIN_EXE_certmount"))));
    assert!(!installed.is_empty());
}

/// A volume as the driver makes them, with nonsense in it.
struct TestVolume {
    path: PathBuf,
    volume: Volume,
    _volumes: Volumes,
    _node: Node,
}

impl TestVolume {
    fn new() -> Self {
        let node = Node::new();
        let volumes = node.open();
        let volume = node.published(&volumes, "tls");
        let path = node.target("tls").as_path().to_owned();
        Self { path, volume, _volumes: volumes, _node: node }
    }

    fn renew(&self) {
        let chain = format!("{:?}", Instant::now());
        let files = payload(&[("tls.crt", &chain), ("tls.key", "key")]);
        self.volume.write(&files, b"state", &OWNER).unwrap();
    }

    fn exec(&self, options: &[&str], program: &str) -> Exec {
        Exec::start(&[&self.path], options, program)
    }
}

/// A running `certmount exec` and what it and its program say.
struct Exec {
    child: Child,
    out: Receiver<String>,
    log: Receiver<String>,
}

impl Exec {
    /// Starts `program`, a shell script.
    fn start(watched: &[&Path], options: &[&str], program: &str) -> Self {
        Self::of(piped(&mut exec_command(watched, options, program)))
    }

    fn of(mut child: Child) -> Self {
        let out = lines(child.stdout.take().unwrap());
        let log = lines(child.stderr.take().unwrap());
        Self { child, out, log }
    }

    /// The next line that the program prints.
    #[track_caller]
    fn line(&self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!(
                "{error} for the program; the log is {:#?}",
                self.log.try_iter().collect::<Vec<_>>()
            )
        })
    }

    /// The next line that the program prints, which begins with `what`.
    #[track_caller]
    fn says(&self, what: &str) -> String {
        let line = self.line();
        assert!(line.starts_with(what), "{line:?} in place of {what:?}");
        line
    }

    /// Waits for a line of the log.
    #[track_caller]
    fn logs(&self, what: &str) {
        let mut log = Vec::new();
        while !log.last().is_some_and(|line: &String| line.contains(what)) {
            let line = self.log.recv_timeout(PATIENCE);
            log.push(line.unwrap_or_else(|error| panic!("{error} for {what:?} in {log:#?}")));
        }
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Asks [`COUNTER`] to end, which it does in its own way.
    #[track_caller]
    fn asked_to_end(&mut self) {
        self.send(Signal::SIGTERM);
        self.says("TERM");
        assert_eq!(self.ends().code(), Some(3));
    }

    fn ends(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => {
                    assert_eq!(status.signal(), None, "it was killed itself");
                    return status;
                }
                None => assert!(began.elapsed() < PATIENCE, "it goes on"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line, with signals that the caller may ignore as they are by default.
fn exec_line(watched: &[&Path], options: &[&str], program: &str) -> Vec<String> {
    let certmount = env!("CARGO_BIN_EXE_certmount");
    let mut line = vec!["env", "--default-signal", certmount, "exec"];
    for path in watched {
        line.extend(["--watch", path.to_str().unwrap()]);
    }
    line.extend(options);
    line.extend(["--", "sh", "-c", program]);
    line.into_iter().map(str::to_owned).collect()
}

fn exec_command(watched: &[&Path], options: &[&str], program: &str) -> Command {
    let line = exec_line(watched, options, program);
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null());
    command
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn certmount() -> Command {
    Command::new(env!("CARGO_BIN_EXE_certmount"))
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}
