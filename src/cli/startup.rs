//! What must hold before the driver starts, and what it takes from itself so that it leaks less.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Reads a path that must not depend on the working directory.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("write an absolute path".to_owned()) }
}

/// Refuses paths that do not fit into a socket address (`sun_path` in unix(7), less the final NUL).
pub(super) fn check_socket_path(path: &Path) -> Result<()> {
    const LONGEST: usize = 107;
    let length = path.as_os_str().as_bytes().len();
    ensure!(
        length <= LONGEST,
        "the socket path {} has {length} bytes, and the kernel takes {LONGEST}; choose a shorter one",
        path.display()
    );
    Ok(())
}

/// Refuses to start where mounting cannot work.
pub(super) fn check_may_mount() -> Result<()> {
    const STATUS: &str = "/proc/self/status";
    let status =
        std::fs::read_to_string(STATUS).with_context(|| format!("cannot read {STATUS}"))?;
    ensure!(
        has_cap_sys_admin(&status),
        "this process may not mount (it lacks CAP_SYS_ADMIN): run it as root, in Kubernetes with \
         securityContext.privileged: true; to try it out without root, put `certmount \
         in-namespace --` in front"
    );
    Ok(())
}

/// Reads the effective capabilities out of proc_pid_status(5).
fn has_cap_sys_admin(status: &str) -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << CAP_SYS_ADMIN) != 0)
}

/// Gives up all rights of root (capabilities(7)) but those that volumes need: to mount, to change
/// owners and modes, and to write to what has an owner already.
///
/// Kubernetes gives a container that mounts for its node every right there is, whatever
/// `capabilities.drop` says. Call it before there are threads: only the calling one loses them, and
/// those that it starts.
pub(super) fn drop_rights() -> Result<()> {
    const NEEDED: CapabilitySet = CapabilitySet::CHOWN
        .union(CapabilitySet::DAC_OVERRIDE)
        .union(CapabilitySet::FOWNER)
        .union(CapabilitySet::SYS_ADMIN);
    let had = capabilities(None).context("cannot read this process's capabilities")?;
    let kept = had.permitted & NEEDED;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give up capabilities")?;
    set_no_new_privs().context("cannot rule out that this process gains rights")
}

/// Keeps private keys in this process's memory out of core files, and out of reach of other
/// processes of the same user through `/proc/<pid>/mem` and ptrace(2).
pub(super) fn harden() -> Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core files")?;
    set_dumpable(false).context("cannot make this process undumpable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_must_fit_the_kernel() {
        let long = format!("/{}", "x".repeat(107));
        let error = check_socket_path(Path::new(&long)).unwrap_err();
        assert!(error.to_string().contains("has 108 bytes"), "{error}");
        check_socket_path(Path::new(&long[..107])).unwrap();
    }

    #[test]
    fn who_may_mount_is_read_from_the_capabilities() {
        assert!(has_cap_sys_admin("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(has_cap_sys_admin("CapEff:\t0000000000200000\n"));
        // An ordinary container's root.
        assert!(!has_cap_sys_admin("CapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n"));
        assert!(!has_cap_sys_admin("CapEff:\t0000000000000000\n"));
        assert!(!has_cap_sys_admin(""));
    }
}
