//! Signals and children, as the first process of a container must treat them.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::SI_KERNEL;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What is passed on to the program; and SIGCHLD, which is for this process alone.
const CAUGHT: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// The signals that this process gets, to be read when they suit.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caught {
    pub(super) signal: Signal,
    /// Whether it is a terminal's, which tells every process in its foreground.
    pub(super) by_terminal: bool,
}

impl Signals {
    /// Catches signals from now on. Must be called before the process has a second thread.
    pub(super) fn catch() -> Result<Self> {
        let caught: SigSet = CAUGHT.into_iter().collect();
        caught.thread_block().context("cannot block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&caught, flags).context("cannot catch signals")?))
    }

    /// The next one that has come.
    pub(super) fn next(&self) -> Result<Option<Caught>> {
        let Some(info) = self.0.read_signal().context("cannot read signals")? else {
            return Ok(None);
        };
        let signal = Signal::try_from(info.ssi_signo.cast_signed()).context("an unknown signal")?;
        let keys = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGWINCH];
        let by_terminal = info.ssi_code == SI_KERNEL && keys.contains(&signal);
        Ok(Some(Caught { signal, by_terminal }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child process.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) pid: Pid,
    name: String,
}

impl Program {
    /// Starts a program, found in `PATH`, with the signals as they are by default.
    pub(super) fn start(words: &[OsString]) -> Result<Self, StartError> {
        let name = words.first().map(OsString::as_os_str).unwrap_or_default();
        let start = || {
            let arguments = words.iter().map(|word| terminated(word.as_bytes().to_vec()));
            let arguments: Vec<_> = arguments.collect::<Result<_, Errno>>()?;
            let path = arguments.first().ok_or(Errno::ENOENT)?;
            let environment: Vec<_> = env::vars_os()
                .map(|(name, value)| {
                    let mut variable = name.into_vec();
                    variable.push(b'=');
                    variable.extend_from_slice(value.as_bytes());
                    terminated(variable)
                })
                .collect::<Result<_, Errno>>()?;
            let actions = PosixSpawnFileActions::init()?;
            posix_spawnp(path, &actions, &default_signals()?, &arguments, &environment)
        };
        match start() {
            Ok(pid) => Ok(Self { pid, name: short(name) }),
            Err(errno) => Err(StartError { program: short(name), source: errno.into() }),
        }
    }

    /// Sends it a signal; nothing happens where it has ended already.
    pub(super) fn send(&self, signal: Signal) {
        // Not yet waited for, so the process id is still its own.
        let _ = kill(self.pid, signal);
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

/// A program cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program}")]
pub(super) struct StartError {
    program: String,
    source: io::Error,
}

impl StartError {
    /// What a shell exits with.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self.source.kind() {
            io::ErrorKind::NotFound => ExitCode::from(127),
            _ => ExitCode::from(126),
        }
    }
}

/// Undoes, for a child, what this process does to its own signals, and what Rust does to SIGPIPE.
fn default_signals() -> Result<PosixSpawnAttr, Errno> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    attributes.set_flags(flags)?;
    Ok(attributes)
}

fn terminated(bytes: Vec<u8>) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// The last part of a path, for people.
fn short(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).display().to_string()
}

/// All children that have ended, those too that others left to this process, without waiting.
pub(super) fn reap() -> Result<Vec<(Pid, ExitStatus)>> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid, ExitStatus::from_raw(code << 8))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push((pid, ended_by(signal))),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for children"),
        }
    }
}

/// The status of a process that `signal` ended.
pub(super) fn ended_by(signal: Signal) -> ExitStatus {
    ExitStatus::from_raw(signal as i32)
}
