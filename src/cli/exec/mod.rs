//! `certmount exec`: run a program that cannot follow its certificate, and tell it of renewals.
//!
//! One thread and one `poll(2)` loop over signals ([`process::Signals`]) and the watched files
//! ([`watch::Watch`]), so that it can be process 1 of a container: it reaps what is left to it,
//! passes signals on to the program, and ends with the program's exit code.

mod process;
mod schedule;
mod watch;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::mem;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use self::process::{Caught, Program, Signals, ended_by, reap};
use self::schedule::{LOOK_EVERY, Schedule};
use self::watch::{State, Watch};
use super::logging::LogArgs;
use super::namespace::exit_code;
use crate::error::with_causes;

/// Run a program, and signal it, run a command or restart it when its certificate is renewed
///
/// For programs that read their certificate only when they start or are told to. It can be the
/// first process of a container: it passes signals on to the program, reaps orphans, and ends with
/// the program's exit code, or 128 and the number of the signal that ended it.
///
/// The program is told once for each renewal. Several changes within a fraction of a second count
/// as one, and a program that has just started is left alone for a second.
#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    override_usage = "certmount exec --watch <PATH> <--signal <NAME>|--run <COMMAND>|--restart> -- <PROGRAM>..."
)]
pub(super) struct Args {
    /// What to watch: a volume, or a folder or file of any other kind; more than once for several
    ///
    /// In a volume of Kubernetes or certmount all files change at once, by a swap of the link
    /// `..data`; that is what is watched for.
    #[arg(long, required = true, value_name = "PATH")]
    watch: Vec<PathBuf>,

    #[command(flatten)]
    action: ActionArgs,

    /// How long to wait for the files before the program is started
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Duration,

    /// How long the program may take to end at --restart, or the command of --run to finish,
    /// before it is killed
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    grace: Duration,

    #[command(flatten)]
    log: LogArgs,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Examples:
  nginx reloads at SIGHUP:
    certmount exec --watch /tls --signal HUP -- nginx -g 'daemon off;'
  HAProxy in master-worker mode reloads at SIGUSR2:
    certmount exec --watch /tls --signal USR2 -- haproxy -W -f /etc/haproxy/haproxy.cfg
  Any command; the shell is used only where it is named:
    certmount exec --watch /tls --run 'nginx -s reload' -- nginx -g 'daemon off;'
    certmount exec --watch /tls --run \"sh -c 'pg_ctl reload | logger'\" -- postgres
  A program that only reads its files when it starts:
    certmount exec --watch /tls --restart --grace 10s -- ./server

Exit codes: the program's own; 128 and the signal's number where a signal ended it; 127 where there
is no such program, 126 where it cannot be run; 1 where the files did not come in time.";

/// What to do about a change.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ActionArgs {
    /// Send the program this signal when the files change: HUP, USR1, USR2...
    #[arg(long, value_name = "NAME", value_parser = parse_signal)]
    signal: Option<Signal>,

    /// Run this command when the files change, until it succeeds
    ///
    /// It is split into words as a shell does it, quotes included, and nothing more: for variables
    /// and pipes write `sh -c '...'`. One that fails is tried again every 10 seconds.
    #[arg(long, value_name = "COMMAND")]
    run: Option<Words>,

    /// Restart the program when the files change, first asking it to end with SIGTERM
    #[arg(long)]
    restart: bool,
}

#[derive(Debug)]
enum Action {
    Signal(Signal),
    Run(Words),
    Restart,
}

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        self.log.start();
        let action = match self.action {
            ActionArgs { signal: Some(signal), .. } => Action::Signal(signal),
            ActionArgs { run: Some(words), .. } => Action::Run(words),
            ActionArgs { .. } => Action::Restart,
        };
        let signals = Signals::catch()?;
        let watch = Watch::new(self.watch);
        let state = match wait_for_files(&signals, &watch, self.wait)? {
            Wait::Over(state) => state,
            Wait::Ended(signal) => return Ok(exit_code(ended_by(signal))),
        };
        let program = match start(&self.program) {
            Ok(program) => program,
            Err(code) => return Ok(code),
        };
        tracing::info!("started {program}; when files in {watch} change: {action}");
        let supervisor = Supervisor {
            words: self.program,
            action,
            grace: self.grace,
            signals,
            watch,
            state,
            schedule: Schedule::started(Instant::now()),
            program,
            restart: None,
            command: None,
            ending: false,
        };
        supervisor.run()
    }
}

/// How often to look for files that are not there yet.
const WAIT_EVERY: Duration = Duration::from_millis(250);

enum Wait {
    /// The files are there.
    Over(State),
    /// Somebody does not want to wait any longer.
    Ended(Signal),
}

fn wait_for_files(signals: &Signals, watch: &Watch, patience: Duration) -> Result<Wait> {
    let until = Instant::now() + patience;
    let mut told = false;
    loop {
        let missing = match watch.look() {
            Ok(state) => return Ok(Wait::Over(state)),
            Err(missing) => missing.display(),
        };
        let patience = humantime::format_duration(patience);
        if Instant::now() >= until {
            bail!(
                "there is no file at {missing}, after waiting for {patience}; in a pod, mount the \
                 volume there with `volumeMounts` of this container"
            );
        }
        if !mem::replace(&mut told, true) {
            tracing::info!("waiting up to {patience} for files at {missing}");
        }
        wait(signals, watch, until.min(Instant::now() + WAIT_EVERY))?;
        watch.drain();
        while let Some(Caught { signal, .. }) = signals.next()? {
            if signal == Signal::SIGHUP || ENDING.contains(&signal) {
                return Ok(Wait::Ended(signal));
            }
        }
    }
}

/// Returns when a signal or a change has come, and at `until` at the latest.
fn wait(signals: &Signals, watch: &Watch, until: Instant) -> Result<()> {
    // Rounded up to poll's whole milliseconds, so as not to come back early again and again.
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let mut sources: Vec<_> = [Some(signals.as_fd()), watch.events()]
        .into_iter()
        .flatten()
        .map(|source| PollFd::new(source, PollFlags::POLLIN))
        .collect();
    match poll(&mut sources, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot wait for signals"),
    }
}

/// Starts a program, or says why not and answers what to exit with.
fn start(words: &[OsString]) -> Result<Program, ExitCode> {
    Program::start(words).map_err(|error| {
        tracing::error!("{}", with_causes(&error));
        error.exit_code()
    })
}

/// The signals that ask a program to end, after which it is not restarted.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// A program under way, and what is being done about its files.
struct Supervisor {
    /// The program and its arguments.
    words: Vec<OsString>,
    action: Action,
    grace: Duration,
    signals: Signals,
    watch: Watch,
    /// The files that the program knows of.
    state: State,
    schedule: Schedule,
    program: Program,
    /// While the program is ending in order to be started again: when it is killed.
    restart: Option<Instant>,
    command: Option<Command>,
    /// Somebody asked the program to end.
    ending: bool,
}

/// A command of `--run` under way.
struct Command {
    program: Program,
    /// When it is killed.
    until: Instant,
    /// The files as they were when it started.
    state: State,
}

impl Supervisor {
    /// Returns what to exit with, once the program has ended for good.
    fn run(mut self) -> Result<ExitCode> {
        loop {
            wait(&self.signals, &self.watch, self.deadline())?;
            while let Some(caught) = self.signals.next()? {
                self.pass_on(caught);
            }
            for (pid, status) in reap()? {
                if pid == self.program.pid {
                    if let Some(code) = self.program_ended(status) {
                        return Ok(code);
                    }
                } else if self.command.as_ref().is_some_and(|command| command.program.pid == pid) {
                    self.command_ended(status);
                }
            }
            let now = Instant::now();
            if self.watch.drain() {
                self.schedule.changed(now);
            }
            if self.schedule.due() <= now {
                self.schedule.looked(now);
                self.look(now);
            }
            self.kill_the_late(now);
        }
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self) -> Instant {
        let command = self.command.as_ref().map(|command| command.until);
        [self.restart, command].into_iter().flatten().fold(self.schedule.due(), Instant::min)
    }

    fn pass_on(&mut self, caught: Caught) {
        if caught.signal == Signal::SIGCHLD {
            return;
        }
        self.ending |= ENDING.contains(&caught.signal);
        if !caught.by_terminal {
            tracing::debug!("passing {} on to {}", caught.signal, self.program);
            self.program.send(caught.signal);
        }
    }

    fn look(&mut self, now: Instant) {
        // A program about to start reads the newest files, and a command is looked after when it
        // ends.
        if self.restart.is_some() || self.command.is_some() || self.ending {
            return;
        }
        // Files that are gone are no news; those that come in their place will be.
        let Ok(state) = self.watch.look() else { return };
        if state == self.state {
            return;
        }
        match &self.action {
            Action::Signal(signal) => {
                self.program.send(*signal);
                self.state = state;
                tracing::info!("files changed: sent {signal} to {}", self.program);
            }
            Action::Run(Words(words)) => {
                // One that cannot be started is tried again at the next look.
                if let Ok(program) = start(words) {
                    tracing::info!("files changed: started {program}");
                    self.command = Some(Command { program, until: now + self.grace, state });
                }
            }
            Action::Restart => {
                self.program.send(Signal::SIGTERM);
                self.restart = Some(now + self.grace);
                tracing::info!("files changed: ending {} to restart it", self.program);
            }
        }
    }

    /// What to exit with, unless the program is started again.
    fn program_ended(&mut self, status: ExitStatus) -> Option<ExitCode> {
        tracing::info!("{} ended, {status}", self.program);
        if self.restart.take().is_none() || self.ending {
            return Some(exit_code(status));
        }
        // Read before the start, so that a change in between is one.
        if let Ok(state) = self.watch.look() {
            self.state = state;
        }
        match start(&self.words) {
            Ok(program) => self.program = program,
            Err(code) => return Some(code),
        }
        self.schedule.restarted(Instant::now());
        tracing::info!("restarted {}", self.program);
        None
    }

    fn command_ended(&mut self, status: ExitStatus) {
        let Some(Command { program, state, .. }) = self.command.take() else { return };
        if status.success() {
            tracing::info!("{program} succeeded");
            self.state = state;
            self.schedule.hurry(Instant::now());
        } else {
            let again = humantime::format_duration(LOOK_EVERY);
            tracing::error!("{program} failed, {status}; trying again in {again}");
            self.schedule.looked(Instant::now());
        }
    }

    /// Kills what had its grace and did not use it.
    fn kill_the_late(&mut self, now: Instant) {
        let grace = self.grace;
        let kill_if_late = |until: &mut Instant, program: &Program| {
            if *until <= now {
                *until = now + grace.max(LOOK_EVERY);
                program.send(Signal::SIGKILL);
                let grace = humantime::format_duration(grace);
                tracing::warn!("{program} took longer than {grace}: killed it");
            }
        };
        if let Some(until) = &mut self.restart {
            kill_if_late(until, &self.program);
        }
        if let Some(command) = &mut self.command {
            kill_if_late(&mut command.until, &command.program);
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{signal}"),
            Self::Run(Words(words)) => write!(f, "run {}", words.join(OsStr::new(" ")).display()),
            Self::Restart => write!(f, "restart"),
        }
    }
}

/// Reads `HUP` or `SIGHUP`.
fn parse_signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map_err(|_| "write the name of a signal, such as HUP, USR1 or USR2".to_owned())
}

/// A command, split into words.
#[derive(Clone, Debug, PartialEq)]
struct Words(Vec<OsString>);

impl FromStr for Words {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = shlex::split(text).ok_or("a quote is not closed")?;
        if words.is_empty() {
            return Err("write a command, such as 'nginx -s reload'".to_owned());
        }
        Ok(Self(words.into_iter().map(OsString::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_written_with_and_without_their_prefix() {
        for text in ["HUP", "SIGHUP", "hup"] {
            assert_eq!(parse_signal(text), Ok(Signal::SIGHUP));
        }
        assert!(parse_signal("RELOAD").unwrap_err().contains("HUP, USR1"));
    }

    #[test]
    fn commands_are_split_as_a_shell_does() {
        let words = |text: &str| text.parse().map(|Words(words)| words);
        assert_eq!(words("nginx -s reload").unwrap(), ["nginx", "-s", "reload"]);
        assert_eq!(words("sh -c 'a | b $C'").unwrap(), ["sh", "-c", "a | b $C"]);
        assert!(words("sh -c 'a").unwrap_err().contains("quote"));
        assert!(words("  ").is_err());
    }
}
