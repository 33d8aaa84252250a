//! Volumes on real mounts, each test inside namespaces of its own.

#![allow(clippy::disallowed_methods, reason = "tests damage things on purpose")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use certmount::spec::request::Ownership;
use certmount::volume::Volumes;
use common::namespaced;
use common::volume::{Node, OWNER, id, payload};
use nix::mount::{MsFlags, mount};

/// The mounts on exactly `path`: options of the mount, and those of the file system.
fn mounts_on(path: &Path) -> Vec<(String, String)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|fields| Path::new(fields[4]) == path)
        .map(|fields| (fields[5].to_owned(), fields[fields.len() - 1].to_owned()))
        .collect()
}

fn mount_count() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

fn error_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn tmpfs(on: &Path) {
    mount(Some("other"), on, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[test]
fn a_pod_reads_its_files_and_can_change_nothing() {
    namespaced(|| {
        let node = Node::new();
        node.published(&node.open(), "v");
        let target = node.target("v");
        let target = target.as_path();
        assert_eq!(fs::read_to_string(target.join("tls.key")).unwrap(), "key");
        assert_eq!(fs::metadata(target.join("tls.key")).unwrap().mode() & 0o7777, 0o440);
        assert_eq!(fs::metadata(target).unwrap().mode() & 0o7777, 0o755);
        let refused = fs::write(target.join("new"), "").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let refused = fs::remove_file(target.join("tls.crt")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(!target.join("record.json").exists());
    });
}

#[test]
fn mounts_carry_every_safe_option() {
    namespaced(|| {
        let node = Node::new();
        node.published(&node.open(), "v");
        let [(own, file_system)] = mounts_on(&node.root().join("v")).try_into().unwrap();
        let [(bind, _)] = mounts_on(node.target("v").as_path()).try_into().unwrap();
        for options in [&own, &bind] {
            for option in ["nosuid", "nodev", "noexec"] {
                assert!(options.split(',').any(|one| one == option), "{option} in {options}");
            }
        }
        assert!(own.starts_with("rw") && bind.starts_with("ro"), "{own} {bind}");
        for option in ["size=4096k", "nr_inodes=256", "mode=750"] {
            assert!(file_system.split(',').any(|one| one == option), "{option} in {file_system}");
        }
        // The kernel lets only root of the first user namespace turn swap off, from 6.4 on.
        let first = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
        let release = nix::sys::utsname::uname().unwrap();
        let release = release.release().to_str().unwrap().to_owned();
        let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(file_system.contains("noswap"), first && version >= (6, 4), "{file_system}");
    });
}

#[test]
fn one_volume_cannot_fill_the_memory() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.published(&node.open(), "v");
        let large = "x".repeat(5 << 20);
        let error = volume.write(&payload(&[("tls.crt", &large)]), b"2", &OWNER).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(
            fs::read_to_string(node.target("v").as_path().join("tls.crt")).unwrap(),
            "chain"
        );
        assert_eq!(volume.state().unwrap().unwrap().as_slice(), b"1");
        // Nothing of the failed write takes room, so that the largest there may be fits, twice.
        let largest = "y".repeat(1_600 << 10);
        volume.write(&payload(&[("tls.crt", &largest)]), b"3", &OWNER).unwrap();
        volume.write(&payload(&[("tls.crt", &largest), ("x", "")]), b"4", &OWNER).unwrap();
        let many: Vec<_> = (0..400).map(|number| (format!("f{number}"), "")).collect();
        let many: Vec<_> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let error = volume.write(&payload(&many), b"5", &OWNER).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(volume.state().unwrap().unwrap().as_slice(), b"4");
    });
}

#[test]
fn files_belong_to_the_group_and_user_asked_for_or_it_is_said_why_not() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.published(&node.open(), "v");
        let owner = Ownership { mode: 0o640, uid: Some(1000), gid: Some(2000) };
        let written = volume.write(&payload(&[("tls.key", "new")]), b"2", &owner);
        let file = node.target("v").as_path().join("tls.key");
        let found = fs::metadata(&file).unwrap();
        if fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
            written.unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1000, 2000, 0o640));
            // The same bytes for other readers are another write.
            let owner = Ownership { uid: None, gid: Some(2001), ..owner };
            volume.write(&payload(&[("tls.key", "new")]), b"2", &owner).unwrap();
            let found = fs::metadata(&file).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 2001, 0o640));
        } else {
            let told = error_text(&written.unwrap_err());
            assert!(told.contains("cannot change the owner of"), "{told}");
            assert!(told.contains("user 1000 and group 2000: not known in this user"), "{told}");
            assert_eq!(fs::read_to_string(file).unwrap(), "key");
        }
    });
}

#[test]
fn mounting_again_changes_nothing_and_a_stale_mount_is_replaced() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.published(&node.open(), "v");
        let target = node.target("v");
        let before = mount_count();
        volume.mount_on(&target).unwrap();
        assert_eq!(mount_count(), before);
        tmpfs(target.as_path());
        tmpfs(target.as_path());
        volume.mount_on(&target).unwrap();
        assert_eq!(mount_count(), before);
        assert_eq!(fs::read_to_string(target.as_path().join("tls.crt")).unwrap(), "chain");
    });
}

#[test]
fn a_mount_left_writable_by_a_crash_is_made_read_only() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        let volume = volumes.create(&node.record("v")).unwrap();
        let target = node.target("v");
        fs::create_dir(target.as_path()).unwrap();
        let data = node.root().join("v/data");
        mount(Some(&data), target.as_path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        fs::write(target.as_path().join("probe"), "").unwrap();
        fs::remove_file(target.as_path().join("probe")).unwrap();
        let [found] = volumes.find().unwrap().try_into().unwrap();
        assert!(!found.unwrap().mounted, "so that it is mounted as it should be");
        volume.mount_on(&target).unwrap();
        let [found] = volumes.find().unwrap().try_into().unwrap();
        assert!(found.unwrap().mounted);
        assert_eq!(mounts_on(target.as_path()).len(), 1);
        fs::write(target.as_path().join("probe"), "").unwrap_err();
    });
}

#[test]
fn a_target_that_cannot_be_is_an_error_and_nothing_is_followed() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.open().create(&node.record("v")).unwrap();
        let elsewhere = node.directory().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let target = node.target("v");
        symlink(&elsewhere, target.as_path()).unwrap();
        let told = error_text(&volume.mount_on(&target).unwrap_err());
        assert!(told.contains("other than a directory"), "{told}");
        assert!(mounts_on(&elsewhere).is_empty());
        volume.mount_on(&node.target("no-parent/v")).unwrap_err();
        assert!(!node.directory().join("pods/no-parent").exists());
    });
}

#[test]
fn remove_leaves_nothing_and_succeeds_again() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        let before = mount_count();
        node.published(&volumes, "v");
        // Stacked by an earlier driver, and one still in use.
        tmpfs(node.target("v").as_path());
        let file = node.root().join("v/data/tls.crt");
        let mut open = fs::File::open(file).unwrap();
        for _ in 0..2 {
            volumes.remove(&id("v"), &node.target("v")).unwrap();
            assert_eq!(mount_count(), before);
            assert!(!node.target("v").as_path().exists());
            assert!(!node.root().join("v").exists());
            assert!(node.directory().join("pods").exists());
        }
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "chain");
    });
}

#[test]
fn remove_takes_whatever_lies_on_the_target() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        let target = node.target("v");
        let target = target.as_path();
        let remove = || volumes.remove(&id("v"), &node.target("v")).unwrap();

        // No mount, but files, and further down a mount with files that are not ours.
        fs::create_dir_all(target.join("deep/inner")).unwrap();
        fs::write(target.join("deep/file"), "").unwrap();
        let other = node.directory().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        let inner = target.join("deep/inner");
        mount(Some(&other), &inner, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        symlink(&other, target.join("link")).unwrap();
        remove();
        assert!(!target.exists());
        assert!(other.join("kept").exists());

        symlink(&other, target).unwrap();
        remove();
        assert!(target.symlink_metadata().is_err());
        assert!(other.join("kept").exists());

        fs::write(target, "a file").unwrap();
        remove();
        assert!(!target.exists());

        assert!(node.directory().join("pods").exists());
        volumes.remove(&id("v"), &node.target("no-parent/v")).unwrap();
    });
}

#[test]
fn a_target_around_the_data_root_is_refused() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        node.published(&volumes, "v");
        let around = node.directory().to_owned().try_into().unwrap();
        let told = error_text(&volumes.remove(&id("v"), &around).unwrap_err());
        assert!(told.contains("the data root lies in it"), "{told}");
        assert!(node.root().join("v/record.json").exists());
    });
}

#[test]
fn a_restart_finds_every_volume_with_its_state_and_record() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        let volume = node.published(&volumes, "a");
        volume.set_pending_key(b"pkcs8").unwrap();
        volume.set_pending_handle("order/1").unwrap();
        volumes.create(&node.record("b")).unwrap();
        drop(volumes);

        let mut found: Vec<_> =
            node.open().find().unwrap().into_iter().map(Result::unwrap).collect();
        found.sort_by_key(|found| found.record.raw().volume_id.to_owned());
        let [a, b] = found.try_into().unwrap();
        assert!(a.record.fingerprint().same_request(&node.record("a").fingerprint()) && a.mounted);
        assert!(a.record.fingerprint().same_secrets(&node.record("a").fingerprint()));
        assert_eq!(a.volume.state().unwrap().unwrap().as_slice(), b"1");
        assert_eq!(a.volume.pending_key().unwrap().unwrap().as_slice(), b"pkcs8");
        assert_eq!(a.volume.pending_handle().unwrap().as_deref(), Some("order/1"));
        a.volume.clear_pending().unwrap();
        assert!(a.volume.pending_key().unwrap().is_none());
        assert!(a.volume.pending_handle().unwrap().is_none());
        assert!(b.record.fingerprint().same_request(&node.record("b").fingerprint()) && !b.mounted);
        assert!(b.volume.state().unwrap().is_none());
    });
}

#[test]
fn finding_sweeps_up_what_a_crash_or_a_reboot_left() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        let before = mount_count();
        // Killed between mounting and recording.
        volumes.create(&node.record("unrecorded")).unwrap();
        fs::remove_file(node.root().join("unrecorded/record.json")).unwrap();
        // Rebooted: the tmpfs is gone.
        fs::create_dir(node.root().join("rebooted")).unwrap();
        drop(volumes);
        assert!(node.open().find().unwrap().is_empty());
        assert_eq!(fs::read_dir(node.root()).unwrap().count(), 0);
        assert_eq!(mount_count(), before);
    });
}

#[test]
fn what_is_not_certmounts_is_left_alone() {
    namespaced(|| {
        let node = Node::new();
        fs::create_dir_all(node.root().join("files")).unwrap();
        fs::write(node.root().join("files/kept"), "").unwrap();
        fs::create_dir(node.root().join("mounted")).unwrap();
        tmpfs(&node.root().join("mounted"));
        fs::write(node.root().join("mounted/kept"), "").unwrap();
        fs::create_dir(node.root().join("not a volume id")).unwrap();
        let found = node.open().find().unwrap();
        assert!(node.root().join("files/kept").exists());
        assert!(node.root().join("mounted/kept").exists());
        assert!(node.root().join("not a volume id").exists());
        let [Err((name, error))] = &found[..] else { panic!("{found:?}") };
        assert_eq!(name, "mounted");
        assert!(error_text(error).contains("no record of what was asked"), "{error:?}");
    });
}

#[test]
fn a_damaged_record_is_the_trouble_of_one_volume() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        node.published(&volumes, "good");
        node.published(&volumes, "bad");
        fs::write(node.root().join("bad/record.json"), "{").unwrap();
        drop(volumes);
        let volumes = node.open();
        let (good, bad): (Vec<_>, Vec<_>) =
            volumes.find().unwrap().into_iter().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (1, 1));
        let (name, error) = bad.into_iter().next().unwrap().unwrap_err();
        assert_eq!(name, "bad");
        assert!(error.path.ends_with("bad/record.json"));
        // Its pod still reads, and can be unpublished.
        assert!(node.target("bad").as_path().join("tls.crt").exists());
        volumes.remove(&id("bad"), &node.target("bad")).unwrap();
        assert!(!node.root().join("bad").exists());
    });
}

#[test]
fn creating_starts_afresh_whatever_was_there() {
    namespaced(|| {
        let node = Node::new();
        let volumes = node.open();
        let before = mount_count();
        node.published(&volumes, "v").set_pending_key(b"old").unwrap();
        let volume = volumes.create(&node.record("v")).unwrap();
        assert!(volume.state().unwrap().is_none());
        assert!(volume.pending_key().unwrap().is_none());
        volume.write(&payload(&[("tls.crt", "new")]), b"2", &OWNER).unwrap();
        volume.mount_on(&node.target("v")).unwrap();
        assert_eq!(fs::read_to_string(node.target("v").as_path().join("tls.crt")).unwrap(), "new");
        assert_eq!(mount_count(), before + 2);

        fs::create_dir(node.root().join("w")).unwrap();
        fs::write(node.root().join("w/left"), "").unwrap();
        volumes.create(&node.record("w")).unwrap();
        assert!(!node.root().join("w/left").exists());
    });
}

#[test]
fn a_tmpfs_unmounted_behind_our_back_is_an_error_and_no_secret_gets_to_the_disk() {
    namespaced(|| {
        let node = Node::new();
        let volume = node.published(&node.open(), "v");
        nix::mount::umount2(&node.root().join("v"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        for result in [
            volume.set_record(&node.record("v")),
            volume.set_pending_key(b"secret"),
            volume.write(&payload(&[("tls.key", "secret")]), b"secret", &OWNER),
        ] {
            let told = error_text(&result.unwrap_err());
            assert!(told.contains("its tmpfs was unmounted"), "{told}");
        }
        assert_eq!(fs::read_dir(node.root().join("v")).unwrap().count(), 0);
    });
}

#[test]
fn one_data_root_has_one_driver() {
    namespaced(|| {
        let node = Node::new();
        let first = node.open();
        let told = error_text(&Volumes::open(&node.root()).unwrap_err());
        assert!(told.contains("another certmount uses it"), "{told}");
        drop(first);
        node.open();
        let mode = fs::metadata(node.root()).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o750);
    });
}
