//! A world of one's own: run a command where its mounts and processes cannot leak.
//!
//! `certmount in-namespace -- CMD` gives the command its own mount and process-id namespaces, and
//! its own user namespace where the caller is not root. The kernel removes every mount and process
//! in them when the last one ends, however it ends: a test killed half way leaves nothing behind.
//!
//! Two processes stand between the caller and the command:
//!
//! ```text
//!  outer   unshares, starts init, waits       dies with its caller
//!  init    process 1: mounts /proc, reaps     dies with outer, and everything in the namespace with it
//!  CMD     an ordinary process
//! ```
//!
//! `unshare(2)` puts only later children into the new process-id namespace, and `/proc` must be
//! mounted from inside it; hence init, which is this same program started once more.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, getegid, geteuid};

/// Runs `command` in namespaces of its own and answers its exit code; 128 and the signal's number
/// where a signal ended it.
///
/// Must be called before the process has a second thread.
///
/// # Errors
///
/// Where the kernel forbids user namespaces, the message says which setting to change.
pub fn run(command: &[OsString]) -> Result<ExitCode> {
    match command {
        [] => bail!("no command given; write one after `--`"),
        [first, command @ ..] if first == AS_INIT => init(command),
        command => outer(command),
    }
}

/// Puts this process itself into a mount namespace of its own, and into a user namespace where it
/// is not root. Its process id stays as it is.
///
/// Must be called before the process has a second thread.
///
/// # Errors
///
/// As for [`run`].
pub fn enter() -> Result<()> {
    separate(CloneFlags::CLONE_NEWNS)
}

/// The first argument that tells this program it is the second stage.
const AS_INIT: &str = "--as-init";

fn outer(command: &[OsString]) -> Result<ExitCode> {
    die_with_parent()?;
    separate(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    // The link stays good when the binary was replaced, or lies where a mapped user cannot look.
    let status = Command::new("/proc/self/exe")
        .args(["in-namespace", "--", AS_INIT])
        .args(command)
        .status()
        .context("cannot start the first process of the new namespace")?;
    Ok(exit_code(status))
}

fn init(command: &[OsString]) -> Result<ExitCode> {
    die_with_parent()?;
    let [program, arguments @ ..] = command else {
        bail!("no command given; write one after `--`")
    };
    if Pid::this() != Pid::from_raw(1) {
        bail!("{AS_INIT} is for the first process of a namespace only; leave it away");
    }
    mount_proc();
    let child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("cannot run {}", Path::new(program).display()))?;
    Ok(exit_code(reap_until(&child)?))
}

/// Waits for `child`, and on the way for each orphan that the kernel hands to process 1.
fn reap_until(child: &Child) -> Result<ExitStatus> {
    let child = Pid::from_raw(child.id().cast_signed());
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(ExitStatus::from_raw(code << 8));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the command"),
        }
    }
}

/// The exit code of a process; 128 and the signal's number where a signal ended it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Has the kernel kill this process when the thread that started it ends.
pub(super) fn die_with_parent() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("cannot tie this process to its parent")
}

/// A `/proc` that knows the new process ids. Where an outer `/proc` is partly hidden, as in most
/// containers, the kernel refuses; `/proc/self` is right even so, and little else is needed.
fn mount_proc() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>);
}

/// Unshares `namespaces`, as root of a new user namespace where that is what it takes, and cuts
/// the mounts off from the outer ones.
fn separate(namespaces: CloneFlags) -> Result<()> {
    match if geteuid().is_root() { unshare(namespaces) } else { Err(Errno::EPERM) } {
        Ok(()) => {}
        // Either not root, or root without CAP_SYS_ADMIN as in an ordinary container.
        Err(Errno::EPERM) => separate_as_user(namespaces)?,
        Err(errno) => return Err(errno).context("cannot make namespaces"),
    }
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(|errno| match errno {
        Errno::EPERM | Errno::EACCES => anyhow!(errno).context(FORBIDDEN),
        errno => anyhow!(errno).context("cannot make the mounts of the new namespace private"),
    })
}

fn separate_as_user(namespaces: CloneFlags) -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(namespaces | CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
        Errno::EINVAL => anyhow!(errno).context(
            "cannot make a user namespace: the kernel has none, or this process has threads already",
        ),
        errno => anyhow!(errno).context(FORBIDDEN),
    })?;
    // user_namespaces(7): an unprivileged process may map its group only once setgroups is denied.
    write_proc("setgroups", "deny")?;
    write_proc("uid_map", &format!("0 {uid} 1"))?;
    write_proc("gid_map", &format!("0 {gid} 1"))
}

fn write_proc(name: &str, text: &str) -> Result<()> {
    let path = Path::new("/proc/self").join(name);
    let write = || OpenOptions::new().write(true).open(&path)?.write_all(text.as_bytes());
    write().map_err(|error| {
        let forbidden = error.kind() == io::ErrorKind::PermissionDenied;
        let what = format!("cannot write {}", path.display());
        if forbidden { anyhow!(error).context(FORBIDDEN) } else { anyhow!(error).context(what) }
    })
}

/// What to do about a kernel that says no.
const FORBIDDEN: &str = "this system forbids user namespaces, which mounting without root needs; \
     run as root, or allow them with one of: sysctl kernel.unprivileged_userns_clone=1 (Debian), \
     sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), \
     sysctl user.max_user_namespaces=10000 (Red Hat), \
     or a container whose seccomp profile permits unshare(2)";
