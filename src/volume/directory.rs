//! An open directory, and what is done in it by name.
//!
//! Every name is looked up in the open directory itself and never followed if it is a symlink, so
//! nothing here reads or writes elsewhere, whatever lies in the directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, symlinkat, unlinkat};
use zeroize::Zeroizing;

use super::{Result, VolumeIoError};
use crate::spec::request::Ownership;

/// An open directory. The path is for messages only.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens `path`, whose last component must not be a symlink.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fd = open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| VolumeIoError::new("open", path, errno))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens the directory `name`.
    pub(super) fn open_directory(&self, name: &OsStr) -> Result<Self> {
        let fd =
            openat(&self.fd, name, DIRECTORY, Mode::empty()).map_err(self.error("open", name))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Makes the directory `name`, for the owner alone.
    pub(super) fn make_private_directory(&self, name: &OsStr) -> Result<()> {
        mkdirat(&self.fd, name, Mode::S_IRWXU).map_err(self.error("make", name))
    }

    /// Makes the directory `name` with exactly `mode`, and opens it.
    pub(super) fn make_directory(&self, name: &OsStr, mode: u32) -> Result<Self> {
        self.make_private_directory(name)?;
        let made = self.open_directory(name)?;
        // Not by mkdirat: the umask would take bits away.
        fchmod(&made.fd, permissions(mode)).map_err(self.error("set the mode of", name))?;
        Ok(made)
    }

    /// The number of the file system that the directory lies on.
    pub(super) fn device(&self) -> Result<u64> {
        Ok(fstat(&self.fd).map_err(self.error("look at", ""))?.st_dev)
    }

    /// Makes the file `name`, which must not be there yet, for the owner alone.
    pub(super) fn create(&self, name: &OsStr, bytes: &[u8]) -> Result<File> {
        let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        self.write_new(name, new, bytes)
    }

    /// [`Directory::create`], then hands the file to the owner and gives it exactly the mode of
    /// `ownership`.
    pub(super) fn create_owned(
        &self,
        name: &OsStr,
        bytes: &[u8],
        ownership: &Ownership,
    ) -> Result<()> {
        let file = self.create(name, bytes)?;
        if ownership.uid.is_some() || ownership.gid.is_some() {
            let (uid, gid) = (ownership.uid.map(Uid::from_raw), ownership.gid.map(Gid::from_raw));
            fchown(&file, uid, gid).map_err(|errno| {
                let error = not_ours_to_give(errno, ownership);
                VolumeIoError::new("change the owner of", &self.path.join(name), error)
            })?;
        }
        fchmod(&file, permissions(ownership.mode)).map_err(self.error("set the mode of", name))
    }

    /// Puts `bytes` in place of the file `name`, if any, at once: a reader sees the old or the new.
    pub(super) fn replace(&self, name: &OsStr, bytes: &[u8]) -> Result<()> {
        let mut temporary = name.to_owned();
        temporary.push(".tmp");
        // One left by a crash is overwritten.
        let over = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
        self.write_new(&temporary, over, bytes)?;
        self.rename(&temporary, name)
    }

    /// What the file `name` holds; `None` where there is none.
    pub(super) fn read(&self, name: &OsStr) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        read_to_end(file).map(Some).map_err(self.error("read", name))
    }

    /// The file `name`, to be read; `None` where there is none.
    pub(super) fn open_file(&self, name: &OsStr) -> Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.error("open", name)(errno)),
        }
    }

    /// Where the symlink `name` points; `None` where there is none.
    pub(super) fn link_target(&self, name: &OsStr) -> Result<Option<OsString>> {
        match readlinkat(&self.fd, name) {
            Ok(target) => Ok(Some(target)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.error("read", name)(errno)),
        }
    }

    /// Makes the symlink `name`.
    pub(super) fn link(&self, target: &OsStr, name: &OsStr) -> Result<()> {
        symlinkat(target, &self.fd, name).map_err(self.error("make", name))
    }

    /// Renames `from` to `to`, in place of what is there.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        renameat(&self.fd, from, &self.fd, to).map_err(self.error("replace", to))
    }

    /// Every name but `.` and `..`.
    pub(super) fn names(&self) -> Result<Vec<OsString>> {
        let list = || -> nix::Result<Vec<OsString>> {
            let mut names = Vec::new();
            for entry in Dir::openat(&self.fd, ".", DIRECTORY, Mode::empty())?.iter() {
                let entry = entry?;
                match entry.file_name().to_bytes() {
                    b"." | b".." => {}
                    name => names.push(OsStr::from_bytes(name).to_owned()),
                }
            }
            Ok(names)
        };
        list().map_err(self.error("list", ""))
    }

    /// Removes the file or symlink `name`; that it is missing is fine.
    pub(super) fn remove(&self, name: &OsStr) -> Result<()> {
        missing_is_fine(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir))
            .map_err(self.error("remove", name))
    }

    /// Removes `name`, be it a file, a symlink, or a directory of those; that it is missing is fine.
    pub(super) fn remove_all(&self, name: &OsStr) -> Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {}
            result => return missing_is_fine(result).map_err(self.error("remove", name)),
        }
        let inner = self.open_directory(name)?;
        for name in inner.names()? {
            inner.remove(&name)?;
        }
        missing_is_fine(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir))
            .map_err(self.error("remove", name))
    }

    fn write_new(&self, name: &OsStr, flags: OFlag, bytes: &[u8]) -> Result<File> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&self.fd, name, flags | OFlag::O_CLOEXEC, mode)
            .map_err(self.error("make", name))?;
        let mut file = File::from(fd);
        file.write_all(bytes)
            .map_err(|error| VolumeIoError::new("write", &self.path.join(name), error))?;
        Ok(file)
    }

    /// An error about `name` in this directory, or about the directory where `name` is empty.
    pub(super) fn error<E: Into<io::Error>>(
        &self,
        action: &'static str,
        name: impl AsRef<OsStr>,
    ) -> impl FnOnce(E) -> VolumeIoError {
        move |error| {
            let name = name.as_ref();
            let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
            VolumeIoError::new(action, &path, error)
        }
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o777)
}

fn missing_is_fine(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Reads a file whose size says how much memory to take, so that no copy of a secret is left
/// behind by a buffer that grew.
pub(super) fn read_to_end(mut file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let size = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_ours_to_give(errno: Errno, ownership: &Ownership) -> io::Error {
    let whom = match (ownership.uid, ownership.gid) {
        (Some(uid), Some(gid)) => format!("user {uid} and group {gid}"),
        (Some(uid), None) => format!("user {uid}"),
        (None, gid) => format!("group {}", gid.unwrap_or_default()),
    };
    let why = match errno {
        // user_namespaces(7): an id that the namespace does not map cannot be given to a file.
        Errno::EINVAL => "not known in this user namespace; run as root, or ask for other ones",
        Errno::EPERM => "not this process's to give files to; run as root, or ask for other ones",
        errno => return errno.into(),
    };
    io::Error::new(io::Error::from(errno).kind(), format!("{whom}: {why}"))
}
