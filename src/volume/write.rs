//! The atomic writer: readers that open `..data` once see files of one write only.
//!
//! The layout is that of kubelet's own volumes, which applications watch already:
//!
//! ```text
//! data/..2026_08_25_12_00_00.123456789/tls.crt   the files of one write
//! data/..data -> ..2026_08_25_12_00_00.123456789
//! data/tls.crt -> ..data/tls.crt                 what the pod opens
//! state/..2026_08_25_12_00_00.123456789          what the files were made from
//! ```
//!
//! Renaming a symlink over `..data` is the one step that counts. All before it touches nothing
//! that a reader can see, and all after it only clears away. So a process killed between any two
//! steps leaves the old files with the old state or the new with the new, and what it leaves
//! besides is swept away by the next write or by [`sweep`].
//!
//! What readers may count on: below one resolved `..data` everything belongs together, and is gone
//! after the next write at the earliest. A name opened by itself is a whole file of the one write or
//! the other, or for the instant of a swap nothing, as in kubelet's own volumes.
//!
//! Nothing is synced: a tmpfs has nothing to sync to.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{getegid, geteuid};
use zeroize::Zeroizing;

use super::Result;
use super::directory::{Directory, read_to_end};
use crate::clock::Timestamp;
use crate::spec::request::Ownership;

/// The two directories that belong together.
#[derive(Debug)]
pub(super) struct Writer {
    /// What the pod sees.
    data: Directory,
    /// What only this process sees.
    states: Directory,
}

/// The mode of what the pod lists. The files' own mode and group keep the secrets; their names are
/// in the pod's spec anyway, and a container that runs as any user at all must get to them.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

const CURRENT: &str = "..data";
const NEXT: &str = "..data_tmp";

/// What opening a directory that is not there comes to.
const LOST: [io::ErrorKind; 2] = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];

impl Writer {
    /// A writer of files to `data`, with their states in `states`.
    pub(super) fn new(data: Directory, states: Directory) -> Self {
        Self { data, states }
    }

    /// Puts `files` in place of those there, with `state` and exactly the mode and owner of
    /// `ownership`. Where the same files are there already, only the state is replaced.
    ///
    /// # Errors
    ///
    /// The old files and their state stay as they were.
    pub(super) fn write(
        &self,
        files: &[(&str, &[u8])],
        state: &[u8],
        ownership: &Ownership,
        now: Timestamp,
    ) -> Result<()> {
        let Visible { current, links } = self.survey()?;
        let wanted: BTreeSet<&OsStr> = files.iter().map(|(name, _)| OsStr::new(name)).collect();
        if let Some(Current { name, directory }) = &current
            && links.iter().map(OsString::as_os_str).eq(wanted.iter().copied())
            && holds(directory, files, ownership)?
        {
            return self.states.replace(name, state);
        }
        let new = self.prepare(files, state, ownership, now)?;
        let swap = || {
            // Before the swap, so that whoever waits for it finds every name; until then a new
            // name leads nowhere.
            for name in wanted.iter().filter(|name| !links.contains(**name)) {
                self.data.link(&through_current(name), name)?;
            }
            self.data.link(&new, OsStr::new(NEXT))?;
            self.data.rename(OsStr::new(NEXT), OsStr::new(CURRENT))
        };
        swap().inspect_err(|_| {
            let _ = self.discard(&new);
        })?;
        // The write has happened. What cannot be cleared away now is at the next one.
        for name in links.iter().filter(|name| !wanted.contains(name.as_os_str())) {
            let _ = self.data.remove(name);
        }
        let _ = current.map(|old| self.discard(&old.name));
        Ok(())
    }

    /// The state that belongs to the files now visible; `None` before the first write, and where
    /// files or state were lost.
    pub(super) fn state(&self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        match self.current()? {
            Some(current) => self.states.read(&current.name),
            None => Ok(None),
        }
    }

    /// Removes what a write cut short left behind.
    pub(super) fn sweep(&self) -> Result<()> {
        let Visible { current, links } = self.survey()?;
        let present: BTreeSet<OsString> = match &current {
            Some(current) => current.directory.names()?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        links.difference(&present).try_for_each(|name| self.data.remove(name))
    }

    /// Where `..data` points. A link that leads to nothing is damage that the next write mends.
    fn current(&self) -> Result<Option<Current>> {
        let Some(name) = self.data.link_target(OsStr::new(CURRENT))? else { return Ok(None) };
        match self.data.open_directory(&name) {
            Ok(directory) => Ok(Some(Current { name, directory })),
            Err(error) if LOST.contains(&error.source.kind()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is visible, once the leavings of earlier writes are removed.
    fn survey(&self) -> Result<Visible> {
        let current = self.current()?;
        let mut links = BTreeSet::new();
        for name in self.data.names()? {
            if name == CURRENT || current.as_ref().is_some_and(|current| current.name == name) {
                continue;
            }
            match name.as_bytes().starts_with(b"..") {
                true => self.discard(&name)?,
                false => drop(links.insert(name)),
            }
        }
        if current.is_none() {
            // Of files that were lost; those of leavings went with them.
            for name in self.states.names()? {
                self.states.remove(&name)?;
            }
        }
        Ok(Visible { current, links })
    }

    /// Writes files and state where no reader looks, and answers under which name.
    fn prepare(
        &self,
        files: &[(&str, &[u8])],
        state: &[u8],
        ownership: &Ownership,
        now: Timestamp,
    ) -> Result<OsString> {
        let (name, directory) = self.make_timestamped(now)?;
        let fill = || {
            for (name, bytes) in files {
                directory.create_owned(OsStr::new(name), bytes, ownership)?;
            }
            self.states.create(&name, state).map(drop)
        };
        fill().inspect_err(|_| {
            let _ = self.discard(&name);
        })?;
        Ok(name)
    }

    /// A new directory named after `now`, in the way of kubelet.
    fn make_timestamped(&self, now: Timestamp) -> Result<(OsString, Directory)> {
        let second = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
        let mut fraction = now.subsec_nanosecond().unsigned_abs();
        loop {
            let name = OsString::from(format!("{second}.{fraction:09}"));
            match self.data.make_directory(&name, DIRECTORY_MODE) {
                // A clock that was set back can come by the same instant again.
                Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => fraction += 1,
                made => return made.map(|directory| (name, directory)),
            }
        }
    }

    /// Removes one write. The state goes first: its name is known from the directory's only.
    fn discard(&self, name: &OsStr) -> Result<()> {
        self.states.remove(name)?;
        self.data.remove_all(name)
    }
}

/// Where `..data` points.
struct Current {
    name: OsString,
    directory: Directory,
}

/// What [`Writer::survey`] finds.
struct Visible {
    current: Option<Current>,
    /// The names that the pod opens.
    links: BTreeSet<OsString>,
}

/// Whether a write made `directory` with exactly these files.
fn holds(directory: &Directory, files: &[(&str, &[u8])], owner: &Ownership) -> Result<bool> {
    let uid = owner.uid.unwrap_or_else(|| geteuid().as_raw());
    let gid = owner.gid.unwrap_or_else(|| getegid().as_raw());
    for (name, bytes) in files {
        let name = OsStr::new(name);
        let Some(file) = directory.open_file(name)? else { return Ok(false) };
        let found = file.metadata().map_err(directory.error("look at", name))?;
        let same = found.len() == bytes.len() as u64
            && found.mode() & 0o7777 == owner.mode & 0o777
            && (found.uid(), found.gid()) == (uid, gid);
        if !same || read_to_end(file).map_err(directory.error("read", name))?.as_slice() != *bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn through_current(name: &OsStr) -> OsString {
    let mut target = OsString::from("..data/");
    target.push(name);
    target
}

#[cfg(test)]
mod tests;
