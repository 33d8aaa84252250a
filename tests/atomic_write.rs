//! Files are swapped whole: for readers, for watchers, and for a process killed half way.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use certmount::clock::Clock;
use certmount::spec::layout::{FileContent, FileLayout, FileName};
use certmount::volume::{Found, Volume, Volumes};
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Bundle, Certificate, DistinguishedName, GeneralName,
    Issued, KeyAlgorithm, KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template, Validity,
    certificates_from_pem, self_sign,
};
use common::namespaced;
use common::volume::{Node, OWNER, id, payload};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;

/// Writes files that all say `number`, for tests that look at nothing but whole writes.
fn write(volume: &Volume, number: usize) {
    let text = number.to_string();
    let files = payload(&[("tls.crt", &text), ("tls.key", &text), ("ca.crt", &text)]);
    volume.write(&files, text.as_bytes(), &OWNER).unwrap();
}

/// Set for a process that reads, to the target path that it reads.
const READER: &str = "CERTMOUNT_TEST_READER";

/// How many renewals each reader must have seen.
const ENOUGH: usize = 100;

/// Longer than 1,000 renewals take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn a_reader_never_sees_a_certificate_and_a_key_that_differ() {
    namespaced(|| {
        if let Some(target) = std::env::var_os(READER) {
            return read_until_told(Path::new(&target));
        }
        let node = Node::new();
        let volume = node.open().create(&node.record("v")).unwrap();
        let layout = layout();
        renew(&volume, &layout);
        volume.mount_on(&node.target("v")).unwrap();
        let target = node.target("v").as_path().to_owned();

        let (told, enough) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut readers = Vec::new();
        for read in [through_the_link, by_name] {
            let (target, told, enough) = (target.clone(), Arc::clone(&told), Arc::clone(&enough));
            readers.push(thread::spawn(move || {
                observe(&[read], &target, &told, || {
                    enough.fetch_add(1, Ordering::Relaxed);
                });
            }));
        }
        let mut inputs = Vec::new();
        for _ in 0..2 {
            let mut reader = reader_process(&target);
            inputs.push(reader.stdin.take());
            let (said, enough) = (reader.stdout.take().unwrap(), Arc::clone(&enough));
            readers.push(thread::spawn(move || {
                let said: Vec<_> = BufReader::new(said)
                    .lines()
                    .map(Result::unwrap)
                    .inspect(|line| {
                        enough.fetch_add(usize::from(line.ends_with(STARTED)), Ordering::Relaxed);
                    })
                    .collect();
                let status = reader.wait().unwrap();
                assert!(status.success(), "{status}: {said:#?}");
            }));
        }

        let began = Instant::now();
        let mut renewals = 0;
        // Until the readers saw enough of them, however all are scheduled.
        while renewals < 1_000 || enough.load(Ordering::Relaxed) < readers.len() {
            assert!(!readers.iter().any(JoinHandle::is_finished), "a reader failed");
            assert!(began.elapsed() < PATIENCE, "the readers see next to nothing");
            renew(&volume, &layout);
            renewals += 1;
        }
        told.store(true, Ordering::Relaxed);
        drop(inputs);
        for reader in readers {
            reader.join().unwrap();
        }
        let last = through_the_link(&target).expect("nothing is written any more");
        assert_eq!(last, by_name(&target).unwrap());
    });
}

/// The files that a volume has where its pod says nothing of them.
fn layout() -> FileLayout {
    let mut layout = FileLayout::default();
    for (name, content) in [
        ("tls.crt", FileContent::CertificateChain),
        ("tls.key", FileContent::PrivateKey(KeyEncoding::Pkcs8)),
        ("ca.crt", FileContent::TrustAnchors),
    ] {
        layout.insert(FileName::try_from(name).unwrap(), content).unwrap();
    }
    layout
}

/// Puts a new key, its certificate and its trust anchor into the volume, as the renewer does.
fn renew(volume: &Volume, layout: &FileLayout) {
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let template = Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![GeneralName::dns("web.shop.svc").unwrap()],
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    };
    let (now, hour) = (Clock::system().now(), Duration::from_secs(3600));
    let validity = Validity { not_before: now, not_after: now + hour };
    let leaf = self_sign(&template, &key, validity, &AuthorityInformation::default()).unwrap();
    let issued = Issued { chain: vec![leaf.clone()], trust_anchors: vec![leaf] };
    let bundle = Bundle::new(key, issued, &template, hour, now).unwrap();
    volume.write(&layout.render(&bundle).unwrap(), &bundle.to_state(), &OWNER).unwrap();
}

/// What a reader has: certificate, key, and trust anchors.
type Files = [Vec<u8>; 3];

const NAMES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// A way to read the files, and what it promises when it answers: that they belong together.
type Read = fn(&Path) -> Option<Files>;

/// Opens `..data` once. `None` where the next renewal removed the files while the reader was held
/// up, as in kubelet's own volumes: to be tried again.
fn through_the_link(target: &Path) -> Option<Files> {
    let open = |directory: &OwnedFd, name, flags| match openat(
        directory,
        name,
        flags | OFlag::O_CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::ENOENT) => None,
        opened => Some(opened.unwrap()),
    };
    let target: OwnedFd = File::open(target).unwrap().into();
    let current = open(&target, "..data", OFlag::O_DIRECTORY)?;
    let read = |name| {
        let mut bytes = Vec::new();
        File::from(open(&current, name, OFlag::O_RDONLY)?).read_to_end(&mut bytes).unwrap();
        Some(bytes)
    };
    Some([read(NAMES[0])?, read(NAMES[1])?, read(NAMES[2])?])
}

/// Reads one name after the other, as most applications do. Each leads to a whole file, or for the
/// instant of a swap to nothing; but only where `..data` stayed the same meanwhile are they of one
/// renewal.
fn by_name(target: &Path) -> Option<Files> {
    let before = fs::read_link(target.join("..data")).unwrap();
    let read = |name| match fs::read(target.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    };
    let files = [read(NAMES[0])?, read(NAMES[1])?, read(NAMES[2])?];
    for (name, file) in NAMES.iter().zip(&files) {
        assert!(file.ends_with(b"-----\n"), "{name} is not whole");
    }
    (fs::read_link(target.join("..data")).unwrap() == before).then_some(files)
}

/// Reads until it is told to stop, and calls `enough` once it has seen many renewals.
fn observe(ways: &[Read], target: &Path, told: &AtomicBool, enough: impl FnOnce()) {
    let mut enough = Some(enough);
    let (mut seen, mut last) = (0, None);
    for read in ways.iter().cycle() {
        if told.load(Ordering::Relaxed) && enough.is_none() {
            return;
        }
        let Some(files) = read(target) else { continue };
        let leaf = assert_belong_together(&files);
        seen += usize::from(last.as_ref() != Some(&leaf));
        last = Some(leaf);
        if seen >= ENOUGH
            && let Some(enough) = enough.take()
        {
            enough();
        }
    }
}

/// Key, certificate and trust anchors are of one renewal; answers the certificate.
fn assert_belong_together([certificate, key, anchors]: &Files) -> Certificate {
    let leaf = certificates_from_pem(certificate).unwrap().remove(0);
    let key = PrivateKey::from_pem(key).unwrap();
    assert_eq!(leaf.public_key_info(), key.public_key_info(), "another's key");
    let anchors = certificates_from_pem(anchors).unwrap();
    assert!(leaf.is_signed_by(&anchors[0]), "another's trust anchor");
    leaf
}

fn reader_process(target: &Path) -> Child {
    let test = "a_reader_never_sees_a_certificate_and_a_key_that_differ";
    again(test).env(READER, target).stdin(Stdio::piped()).spawn().unwrap()
}

/// Reads both ways until standard input ends, and says when it has seen enough.
fn read_until_told(target: &Path) {
    let told = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let told = Arc::clone(&told);
        move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            told.store(true, Ordering::Relaxed);
        }
    });
    observe(&[through_the_link, by_name], target, &told, started);
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
    let mut child = again(test).env(WRITER, root).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let began = out.lines().map(Result::unwrap).any(|line| line.ends_with(STARTED));
    thread::sleep(Duration::from_micros(round * 37 % 1_000));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    assert!(began && killed, "the writer ended by itself: {status}");
}

/// This program once more, for `test` alone.
fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).stdout(Stdio::piped());
    command
}

const STARTED: &str = "started";

#[allow(clippy::print_stdout, reason = "the parent waits for it")]
fn started() {
    println!("{STARTED}");
    io::Write::flush(&mut io::stdout()).unwrap();
}
