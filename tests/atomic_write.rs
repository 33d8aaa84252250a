//! Files are swapped whole: for readers, for watchers, and for a process killed half way.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certmount::volume::{Found, Volume, Volumes};
use common::namespaced;
use common::volume::{Node, OWNER, id, payload};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;

/// Writes files that all say `number`.
fn write(volume: &Volume, number: usize) {
    let text = number.to_string();
    let files = payload(&[("tls.crt", &text), ("tls.key", &text), ("ca.crt", &text)]);
    volume.write(&files, text.as_bytes(), &OWNER).unwrap();
}

/// What certificate and key say to a reader who opened `..data` once; `None` where the next write
/// removed them while the reader was held up, as in kubelet's own volumes.
fn read_pair(directory: &OwnedFd) -> Option<(String, String)> {
    let open = |directory: &OwnedFd, name, flags| match openat(
        directory,
        name,
        flags | OFlag::O_CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::ENOENT) => None,
        opened => Some(opened.unwrap()),
    };
    let current = open(directory, "..data", OFlag::O_DIRECTORY)?;
    let read = |name| {
        let file = open(&current, name, OFlag::O_RDONLY)?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        Some(text)
    };
    Some((read("tls.crt")?, read("tls.key")?))
}

#[test]
fn a_reader_never_sees_a_certificate_and_a_key_that_differ() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.published(&node.open(), "v");
        write(&volume, 0);
        let target: OwnedFd = File::open(node.target("v").as_path()).unwrap().into();
        let seen = Arc::new(AtomicUsize::new(0));
        let writer = std::thread::spawn({
            let seen = Arc::clone(&seen);
            // Until the reader saw enough of them, however the two are scheduled.
            move || {
                let mut numbers = 1..;
                while numbers.start <= 1_000 || seen.load(Ordering::Relaxed) < 100 {
                    write(&volume, numbers.next().unwrap());
                }
                numbers.start - 1
            }
        });
        let mut last = None;
        while !writer.is_finished() {
            let Some((certificate, key)) = read_pair(&target) else { continue };
            assert_eq!(certificate, key);
            let pair = Some(certificate);
            seen.fetch_add(usize::from(last != pair), Ordering::Relaxed);
            last = pair;
        }
        let number = writer.join().unwrap().to_string();
        assert_eq!(read_pair(&target).unwrap(), (number.clone(), number));
    });
}

#[test]
fn a_watcher_of_the_directory_is_told_of_each_write() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.published(&node.open(), "v");
        let watcher = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watcher.add_watch(node.target("v").as_path(), AddWatchFlags::IN_MOVED_TO).unwrap();
        let told = || match watcher.read_events() {
            Ok(events) => events.into_iter().map(|event| event.name.unwrap()).collect(),
            Err(Errno::EAGAIN) => Vec::new(),
            Err(errno) => panic!("{errno}"),
        };
        write(&volume, 1);
        assert_eq!(told(), ["..data"]);
        // At that moment everything is there, new names too.
        let names = |file: &str| fs::read_to_string(node.target("v").as_path().join(file)).unwrap();
        assert_eq!((names("ca.crt"), names("tls.key")), ("1".to_owned(), "1".to_owned()));
        write(&volume, 1);
        assert_eq!(told(), Vec::<std::ffi::OsString>::new(), "nothing changed");
        write(&volume, 2);
        assert_eq!(told(), ["..data"]);
    });
}

/// Set for the process that writes until it is killed, to the data root it writes in.
const WRITER: &str = "CERTMOUNT_TEST_WRITER";

#[test]
fn a_writer_killed_anywhere_leaves_one_whole_write() {
    namespaced(|| {
        if std::env::var_os(WRITER).is_some() {
            return write_until_killed();
        }
        let node = Node::new();
        let volumes = node.open();
        write(&volumes.create(&node.record("v")).unwrap(), 0);
        drop(volumes);
        let mut last = 0;
        let mut rounds = 0..2_000;
        while rounds.start < 200 || last < 200 {
            let round = rounds.next().expect("the writer gets to write before it is killed");
            kill_after("a_writer_killed_anywhere_leaves_one_whole_write", &node.root(), round);
            let volume = the_one_volume(&node.open()).volume;
            let number = whole(&volume, &node.root().join("v/data")).unwrap();
            assert!(number >= last, "an old write came back");
            last = number;
        }
    });
}

/// Writes in the one volume below the data root named by [`WRITER`], for ever.
fn write_until_killed() {
    let root = std::env::var_os(WRITER).unwrap();
    let volume = the_one_volume(&Volumes::open(Path::new(&root)).unwrap()).volume;
    let state = volume.state().unwrap().unwrap();
    let first: usize = std::str::from_utf8(&state).unwrap().parse().unwrap();
    started();
    for number in first + 1.. {
        write(&volume, number);
    }
}

#[test]
fn a_driver_killed_anywhere_leaves_whole_volumes_or_none() {
    namespaced(|| {
        if let Some(root) = std::env::var_os(WRITER) {
            return come_and_go_until_killed(Path::new(&root));
        }
        let node = Node::new();
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        // How often the driver was killed with no volume, an empty one, one with files, and one
        // that was on its target.
        let [mut none, mut empty, mut written, mut mounted] = [0; 4];
        let mut rounds = 0..2_000;
        while rounds.start < 200 || none.min(empty).min(written).min(mounted) == 0 {
            let round = rounds.next().expect("the driver is killed at every stage");
            kill_after(
                "a_driver_killed_anywhere_leaves_whole_volumes_or_none",
                &node.root(),
                round,
            );
            let volumes = node.open();
            let found = volumes.find().unwrap();
            assert_eq!(fs::read_dir(node.root()).unwrap().count(), found.len(), "{found:?}");
            match found.into_iter().next().map(Result::unwrap) {
                None => {
                    none += 1;
                    assert_eq!(mounts(), before);
                }
                Some(found) => match whole(&found.volume, &node.root().join("v/data")) {
                    None => empty += 1,
                    Some(_) if found.mounted => mounted += 1,
                    Some(_) => written += 1,
                },
            }
            // Kubelet unpublishes what it ever published.
            volumes.remove(&id("v"), &node.target("v")).unwrap();
            assert_eq!(mounts(), before);
            assert_eq!(fs::read_dir(node.root()).unwrap().count(), 0);
            assert!(!node.target("v").as_path().exists());
        }
    });
}

/// Makes, publishes and removes one volume, for ever.
fn come_and_go_until_killed(root: &Path) {
    let node = Node::at(root.parent().unwrap());
    let volumes = node.open();
    started();
    loop {
        let volume = volumes.create(&node.record("v")).unwrap();
        write(&volume, 1);
        volume.mount_on(&node.target("v")).unwrap();
        write(&volume, 2);
        volumes.remove(&id("v"), &node.target("v")).unwrap();
    }
}

fn the_one_volume(volumes: &Volumes) -> Found {
    let [found] = volumes.find().unwrap().try_into().expect("one volume");
    found.unwrap()
}

/// Asserts that state and files are of one write and that nothing else is there; answers which.
fn whole(volume: &Volume, data: &Path) -> Option<usize> {
    let mut names: Vec<_> = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let Some(state) = volume.state().unwrap() else {
        assert_eq!(names, Vec::<String>::new());
        return None;
    };
    let state = std::str::from_utf8(&state).unwrap().to_owned();
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        assert_eq!(fs::read_to_string(data.join(file)).unwrap(), state, "{file}");
    }
    assert_eq!(names[1..], ["..data", "ca.crt", "tls.crt", "tls.key"], "{names:?}");
    let states: Vec<_> = fs::read_dir(data.join("../state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(states, names[..1]);
    Some(state.parse().unwrap())
}

/// Starts `test` again as the process that works on `root`, and kills it a moment after it began;
/// another moment in each `round`.
fn kill_after(test: &str, root: &Path, round: u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(WRITER, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let began = out.lines().map(Result::unwrap).any(|line| line.ends_with(STARTED));
    std::thread::sleep(Duration::from_micros(round * 37 % 1_000));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    assert!(began && killed, "the writer ended by itself: {status}");
}

const STARTED: &str = "started";

#[allow(clippy::print_stdout, reason = "the parent waits for it")]
fn started() {
    println!("{STARTED}");
    io::Write::flush(&mut io::stdout()).unwrap();
}
