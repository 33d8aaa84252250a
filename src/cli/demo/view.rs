//! How a volume, its renewals and the end of the show look in 80 columns.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Group, Uid, User};
use tokio::time::Instant;

use super::Story;
use super::screen::{Look, Screen, bar, number, span};
use super::stage::Leftovers;
use super::traffic::Seen;
use crate::clock::Timestamp;
use crate::x509::{Certificate, certificates_from_pem};

/// How much of a serial number is shown: enough to tell a handful of random ones apart.
const SERIAL_DIGITS: usize = 12;

/// How wide the bar of a certificate's life is, in columns.
const BAR: usize = 24;

/// The mounted volume at one moment, read as a pod reads it.
pub(super) struct Volume {
    pub(super) leaf: Certificate,
    pub(super) trust_anchors: Vec<Certificate>,
    read_at: Timestamp,
    files: Vec<(String, Metadata)>,
    /// What `..data` names.
    data: PathBuf,
}

impl Volume {
    /// Reads the volume mounted on `target`.
    pub(super) fn read(target: &Path, now: Timestamp) -> Result<Self> {
        let data = fs::read_link(target.join("..data")).context("the volume holds no files")?;
        let directory = target.join(&data);
        let certificates = |name: &str| -> Result<Vec<Certificate>> {
            let read = fs::read(directory.join(name));
            let pem = read.with_context(|| format!("cannot read {name}"))?;
            certificates_from_pem(&pem).with_context(|| format!("cannot use {name}"))
        };
        let leaf = certificates("tls.crt")?.into_iter().next().context("tls.crt is empty")?;
        let trust_anchors = certificates("ca.crt")?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?));
        }
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Self { leaf, trust_anchors, read_at: now, files, data })
    }

    fn serial(&self) -> String {
        short(&self.leaf.serial_number())
    }
}

/// The files, as `ls -l` would list them.
pub(super) fn files(screen: &mut Screen, volume: &Volume) -> io::Result<()> {
    for (name, file) in &volume.files {
        let mode = mode(file.mode());
        let owner = format!("{}:{}", user(file.uid()), group(file.gid()));
        let size = file.size();
        screen.line(format_args!("    {mode}  {owner:<12} {size:>6} bytes  {name}"))?;
    }
    Ok(())
}

/// What the certificate says.
pub(super) fn certificate(screen: &mut Screen, volume: &Volume) -> io::Result<()> {
    let leaf = &volume.leaf;
    let serial = screen.paint(Look::Fresh, &volume.serial());
    screen.field("certificate", format_args!("serial {serial} for {}", leaf.names().join(", ")))?;
    screen.field("expires", expiry(volume))
}

/// One line on how things stand now.
pub(super) fn status(
    screen: &mut Screen,
    volume: &Volume,
    now: Timestamp,
    seen: &Seen,
) -> io::Result<()> {
    let not_after = volume.leaf.validity().not_after;
    let life = seconds_between(volume.read_at, not_after);
    let left = seconds_between(now, not_after).max(0.0);
    let bar = screen.paint(Look::Fresh, &bar(left / life, BAR));
    let requests = number(seen.requests());
    let failed = failed(screen, seen);
    screen.status(format_args!("[{bar}] {left:>4.1} s to live, {requests} requests, {failed}"))
}

/// What a renewal changed, and what the clients noticed of it.
pub(super) fn renewal(
    screen: &mut Screen,
    old: &Volume,
    new: &Volume,
    reloaded: Instant,
    seen: &Seen,
) -> io::Result<()> {
    let before = screen.paint(Look::Dim, &old.serial());
    let after = screen.paint(Look::Fresh, &new.serial());
    screen.field("serial", format_args!("{before} -> {after}"))?;
    let left = seconds_between(new.read_at, old.leaf.validity().not_after);
    screen.field("expires", format_args!("{}; the old one had {left:.1} s left", expiry(new)))?;
    let same_key = old.leaf.public_key_info() == new.leaf.public_key_info();
    screen.field("private key", if same_key { "the same" } else { "a new one" })?;
    screen.field("..data", format_args!("now {}", new.data.display()))?;
    let handshakes = |volume: &Volume| seen.handshakes.get(&volume.leaf.serial_number());
    if let (Some(with_old), Some(with_new)) = (handshakes(old), handshakes(new)) {
        let count = number(with_old.count);
        let after = span(with_new.first.saturating_duration_since(reloaded));
        screen.field(
            "handshakes",
            format_args!("{count} with the old; the first with the new {after} after reload"),
        )?;
    }
    let kept = number(seen.kept_requests);
    screen.field("kept client", format_args!("still on its first connection, {kept} requests"))?;
    let requests = number(seen.requests());
    screen.field("requests", format_args!("{requests}, {}", failed(screen, seen)))
}

/// The end of the show.
pub(super) fn summary(screen: &mut Screen, story: &Story, leftovers: &Leftovers) -> io::Result<()> {
    let seen = story.tally.seen();
    let (kept, new) = (number(seen.kept_requests), number(seen.connections));
    let requests = number(seen.requests());
    screen.field(
        "requests",
        format_args!("{requests}: {kept} on the connection kept, {new} on new ones"),
    )?;
    let look = if seen.failed == 0 { Look::Good } else { Look::Bad };
    screen.field("failed", screen.paint(look, &number(seen.failed)))?;
    let handshakes = seen.handshakes.values().map(|handshakes| handshakes.count).sum();
    let (handshakes, certificates) = (number(handshakes), seen.handshakes.len());
    screen.field("handshakes", format_args!("{handshakes}; certificates seen: {certificates}"))?;
    if let Some(publish) = story.publish {
        let took = span(publish);
        screen.field("publish", format_args!("{took} for all three calls that kubelet makes"))?;
    }
    let left = match leftovers.found.as_slice() {
        [] => screen.paint(Look::Good, "no mount, no file, no process"),
        found => screen.paint(Look::Bad, &found.join(", ")),
    };
    screen.field("left behind", left)?;
    for problem in &leftovers.problems {
        screen.field("problem", screen.paint(Look::Bad, problem))?;
    }
    Ok(())
}

fn failed(screen: &Screen, seen: &Seen) -> String {
    let look = if seen.failed == 0 { Look::Good } else { Look::Bad };
    screen.paint(look, &format!("{} failed", number(seen.failed)))
}

fn expiry(volume: &Volume) -> String {
    let not_after = volume.leaf.validity().not_after;
    let left = seconds_between(volume.read_at, not_after);
    format!("{} UTC, in {left:.1} s", not_after.strftime("%H:%M:%S"))
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn short(serial: &str) -> String {
    match serial.get(..SERIAL_DIGITS) {
        Some(start) if start.len() < serial.len() => format!("{start}..."),
        _ => serial.to_owned(),
    }
}

/// Permission bits of a file as `ls` writes them.
fn mode(mode: u32) -> String {
    let bits = (0..9).rev().map(|bit| if mode & (1 << bit) == 0 { '-' } else { 'x' });
    let letters = "rwxrwxrwx".chars();
    let text = bits.zip(letters).map(|(bit, letter)| if bit == '-' { '-' } else { letter });
    std::iter::once('-').chain(text).collect()
}

fn user(uid: u32) -> String {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}

fn group(gid: u32) -> String {
    let known = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    known.map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_in_ls() {
        assert_eq!(mode(0o100_440), "-r--r-----");
        assert_eq!(mode(0o755), "-rwxr-xr-x");
    }

    #[test]
    fn long_serials_are_cut() {
        assert_eq!(short("1f"), "1f");
        assert_eq!(short("0123456789abcdef"), "0123456789ab...");
    }
}
