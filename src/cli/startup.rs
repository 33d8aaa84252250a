//! What must hold before the driver starts, and what it takes from itself so that it leaks less.

use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{AccessFlags, access};

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
    let status =
        std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .context("/proc/self/status does not tell this process's capabilities")?;
    const CAP_SYS_ADMIN: u32 = 21;
    if capabilities & (1 << CAP_SYS_ADMIN) == 0 {
        bail!(
            "this process may not mount (it lacks CAP_SYS_ADMIN): run it as root, in a container \
             with securityContext.privileged: true; to try it out without root, put \
             `certmount in-namespace --` in front"
        );
    }
    Ok(())
}

/// Holds a data root for this process alone, as long as it lives and however it ends.
#[derive(Debug)]
pub(super) struct DataRootLock {
    _held: Flock<File>,
}

/// Makes the data root if need be and locks it.
pub(super) fn lock_data_root(root: &Path) -> Result<DataRootLock> {
    ensure!(root.is_absolute(), "the data root {} is not an absolute path", root.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(root)
        .with_context(|| format!("cannot make the data root {}", root.display()))?;
    access(root, AccessFlags::W_OK | AccessFlags::X_OK)
        .with_context(|| format!("the data root {} is not writable", root.display()))?;
    let folder = File::open(root)
        .with_context(|| format!("cannot open the data root {}", root.display()))?;
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(DataRootLock { _held: held }),
        Err((_, Errno::EWOULDBLOCK)) => bail!(
            "another certmount is using the data root {}: stop it first, or give this one its own \
             --data-root (two drivers need two names, endpoints and data roots)",
            root.display()
        ),
        Err((_, errno)) => {
            Err(errno).with_context(|| format!("cannot lock the data root {}", root.display()))
        }
    }
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
    fn a_data_root_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        let lock = lock_data_root(&root).unwrap();
        let error = lock_data_root(&root).unwrap_err();
        assert!(error.to_string().contains("another certmount is using"), "{error}");
        drop(lock);
        lock_data_root(&root).unwrap();
    }

    #[test]
    fn a_data_root_that_is_a_file_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = lock_data_root(file.path()).unwrap_err();
        assert!(error.to_string().contains("data root"), "{error}");
    }
}
