//! Mounting: a tmpfs for each volume, and the read-only bind mount that the pod sees.
//!
//! Nothing here reads `/proc/self/mountinfo` on the way of a publish: with a thousand mounts that
//! takes longer than all the rest together.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

/// Most bytes in a volume, its own bookkeeping included.
///
/// The largest thing a volume holds is its trust anchors. All the roots that browsers trust make
/// 230 KiB of PEM; in six files (alone, in a combined one, in keystores and truststores) and in the
/// state that is 1.6 MiB, next to which 8192-bit keys and chains are small. While files are swapped
/// the old and the new are there together. What is not used takes no memory.
const SIZE: &str = "4m";

/// Most files, directories and symlinks in a volume: some 15 of our own, and three for each file
/// that the pod sees (the symlink, the old and the new).
const INODES: &str = "256";

/// The name in the first column of `mount`, by which our mounts are told from others.
const SOURCE: &str = "certmount";

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Mounts a new, empty tmpfs on `directory`; never swapped to a disk where the kernel can tell
/// (6.4 and later, and not in a user namespace).
pub(super) fn mount_tmpfs(directory: &Path) -> io::Result<()> {
    /// Once the kernel refused, it will again.
    static MAY_SWAP: AtomicBool = AtomicBool::new(false);
    let tmpfs = |more: &str| {
        let options = format!("size={SIZE},nr_inodes={INODES},mode=0750{more}");
        mount(Some(SOURCE), directory, Some("tmpfs"), SAFE, Some(options.as_str()))
    };
    if !MAY_SWAP.load(Ordering::Relaxed) {
        match tmpfs(",noswap") {
            Err(Errno::EINVAL | Errno::EPERM) => {}
            result => return Ok(result?),
        }
    }
    tmpfs("")?;
    MAY_SWAP.store(true, Ordering::Relaxed);
    Ok(())
}

/// Bind-mounts `source` read-only on the directory `target`.
pub(super) fn bind_read_only(source: &Path, target: &Path) -> io::Result<()> {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND, none)?;
    make_read_only(target).inspect_err(|_| {
        let _ = unmount_all(target);
    })
}

/// Makes the bind mount on `target` read-only, and that one only.
pub(super) fn make_read_only(target: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | SAFE;
    Ok(mount(none, target, none, flags, none)?)
}

/// How a directory is mounted on another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Bound {
    /// Not at all.
    Not,
    /// As a crash between the two steps of [`bind_read_only`] leaves it.
    Writable,
    /// As it should be.
    ReadOnly,
}

/// How `source` itself is mounted on the directory `target`.
pub(super) fn how_bound(source: &Path, target: &Path) -> io::Result<Bound> {
    let [source, found] = [fs::symlink_metadata(source)?, fs::symlink_metadata(target)?];
    if (source.dev(), source.ino()) != (found.dev(), found.ino()) {
        return Ok(Bound::Not);
    }
    let read_only = statvfs(target)?.flags().contains(FsFlags::ST_RDONLY);
    Ok(if read_only { Bound::ReadOnly } else { Bound::Writable })
}

/// Unmounts `path` until nothing is mounted there, even while in use. That `path` is missing, or
/// no mount, is fine.
pub(super) fn unmount_all(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A mount, as `/proc/self/mountinfo` tells (proc_pid_mountinfo(5)).
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    /// Whether it is a tmpfs that [`mount_tmpfs`] made.
    pub(super) is_ours: bool,
}

/// Every mount at or below `directory`, in the order in which they were made.
pub(super) fn mounts_below(directory: &Path) -> io::Result<Vec<Mount>> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let lines = mounts.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(parse_mount).filter(|mount| mount.path.starts_with(directory)).collect())
}

/// `36 35 98:0 /root /mnt/point rw,noatime optional… - type source options`
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let is_ours = after.next()? == b"tmpfs" && after.next()? == SOURCE.as_bytes();
    Some(Mount { path, is_ours })
}

/// Space, tab, newline and backslash come as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail))
            }
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = tail;
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_and_without_optional_fields() {
        let of = |line: &str| parse_mount(line.as_bytes());
        let mount = |path: &str, is_ours| Some(Mount { path: path.into(), is_ours });
        assert_eq!(
            of("29 1 0:26 / /var/x rw,relatime shared:5 master:1 - tmpfs certmount rw,size=4096k"),
            mount("/var/x", true)
        );
        assert_eq!(of("29 1 0:26 / /run rw - tmpfs tmpfs rw"), mount("/run", false));
        assert_eq!(
            of("29 1 0:26 / /a\\040b\\134c rw - ext4 certmount rw"),
            mount("/a b\\c", false)
        );
        assert_eq!(of(""), None);
        assert_eq!(of("29 1 0:26 / /run rw shared:5"), None);
    }

    #[test]
    fn a_mount_line_of_any_shape_is_no_panic() {
        proptest::proptest!(|(line in "[ a-z0-9/\\\\-]{0,60}")| { parse_mount(line.as_bytes()); });
    }
}
