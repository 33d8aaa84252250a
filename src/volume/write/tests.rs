//! The writer on an ordinary directory; `tests/volume.rs` has it on a tmpfs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;

const OWNER: Ownership = Ownership { mode: 0o440, uid: None, gid: None };
const NOW: i64 = 1_787_659_200;

struct World {
    directory: tempfile::TempDir,
    writer: Writer,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Directory::open(directory.path()).unwrap();
        let make = |name| root.make_directory(OsStr::new(name), DIRECTORY_MODE).unwrap();
        let writer = Writer::new(make("data"), make("state"));
        Self { directory, writer }
    }

    fn write(&self, files: &[(&str, &str)], state: &str) -> Result<()> {
        self.write_as(files, state, &OWNER)
    }

    fn write_as(&self, files: &[(&str, &str)], state: &str, owner: &Ownership) -> Result<()> {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        // Always the same second, as on a fast machine or a clock that was set back.
        let now = Timestamp::from_second(NOW).unwrap();
        self.writer.write(&files, state.as_bytes(), owner, now)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    /// What a pod sees: each name and what it reads.
    fn seen(&self) -> Vec<(String, String)> {
        let mut seen: Vec<_> = self
            .names("data")
            .into_iter()
            .filter(|name| !name.starts_with(".."))
            .map(|name| (name.clone(), fs::read_to_string(self.data(&name)).unwrap()))
            .collect();
        seen.sort();
        seen
    }

    fn state(&self) -> Option<String> {
        let state = self.writer.state().unwrap()?;
        Some(String::from_utf8(state.to_vec()).unwrap())
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join(directory)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Where `..data` points, after a look that nothing else hidden is there.
    fn current(&self) -> String {
        let current = fs::read_link(self.data(CURRENT)).unwrap().into_os_string();
        let current = current.into_string().unwrap();
        let hidden: Vec<_> =
            self.names("data").into_iter().filter(|name| name.starts_with("..")).collect();
        assert_eq!(hidden, [current.clone(), CURRENT.to_owned()]);
        assert_eq!(self.names("state"), std::slice::from_ref(&current));
        current
    }
}

fn pair(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

#[test]
fn a_first_write_is_visible_in_kubelets_layout() {
    let world = World::new();
    assert_eq!(world.state(), None);
    world.write(&[("tls.crt", "chain"), ("tls.key", "key")], "one").unwrap();
    assert_eq!(world.seen(), [pair("tls.crt", "chain"), pair("tls.key", "key")]);
    assert_eq!(world.state().unwrap(), "one");
    assert_eq!(world.current(), "..2026_08_25_12_00_00.000000000");
    assert_eq!(fs::read_link(world.data("tls.crt")).unwrap().to_str(), Some("..data/tls.crt"));
}

#[test]
fn a_write_replaces_adds_and_removes_files() {
    let world = World::new();
    world.write(&[("tls.crt", "a"), ("old", "x")], "one").unwrap();
    let first = world.current();
    world.write(&[("tls.crt", "b"), ("new", "y")], "two").unwrap();
    assert_eq!(world.seen(), [pair("new", "y"), pair("tls.crt", "b")]);
    assert_eq!(world.state().unwrap(), "two");
    assert_ne!(world.current(), first);
    world.write(&[], "none").unwrap();
    assert_eq!(world.seen(), []);
    assert_eq!(world.state().unwrap(), "none");
}

#[test]
fn the_same_files_are_not_swapped_but_their_state_is_kept() {
    let world = World::new();
    let files = [("tls.crt", "a"), ("tls.key", "b")];
    world.write(&files, "one").unwrap();
    let first = world.current();
    world.write(&files, "two").unwrap();
    assert_eq!(world.current(), first);
    assert_eq!(world.state().unwrap(), "two");
}

#[test]
fn any_difference_is_a_swap() {
    let with_mode = Ownership { mode: 0o400, ..OWNER };
    let cases: [(&[(&str, &str)], &Ownership); 5] = [
        (&[("a", "1"), ("b", "3")], &OWNER),
        (&[("a", "1"), ("b", "22")], &OWNER),
        (&[("a", "1")], &OWNER),
        (&[("a", "1"), ("b", "2"), ("c", "2")], &OWNER),
        (&[("a", "1"), ("b", "2")], &with_mode),
    ];
    for (files, owner) in cases {
        let world = World::new();
        world.write(&[("a", "1"), ("b", "2")], "one").unwrap();
        let first = world.current();
        world.write_as(files, "two", owner).unwrap();
        assert_ne!(world.current(), first, "{files:?} {owner:?}");
    }
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    let world = World::new();
    // The usual umask takes the group's right to write.
    world.write_as(&[("a", "1")], "one", &Ownership { mode: 0o664, uid: None, gid: None }).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(world.data("a")), 0o664);
    assert_eq!(mode(world.data(CURRENT)), 0o755);
    assert_eq!(mode(world.directory.path().join("state").join(world.current())), 0o600);
}

#[test]
fn a_failed_write_leaves_the_old_files_and_nothing_of_the_new() {
    let world = World::new();
    world.write(&[("a", "1")], "one").unwrap();
    let first = world.current();
    // The second file of the same name cannot be made.
    let error = world.write(&[("a", "2"), ("a", "3")], "two").unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(world.current(), first);
    assert_eq!(world.seen(), [pair("a", "1")]);
    assert_eq!(world.state().unwrap(), "one");
}

/// Each thing that a process killed half way can leave, put there by hand.
#[test]
fn leavings_of_a_crash_are_swept_by_the_next_write_and_by_adoption() {
    type Damage = fn(&World);
    let damages: [Damage; 5] = [
        |world| std::os::unix::fs::symlink("..nowhere", world.data(NEXT)).unwrap(),
        |world| fs::create_dir(world.data("..2026_08_25_11_59_59.000000001")).unwrap(),
        |world| {
            let orphan = world.data("..2026_08_25_11_59_59.000000002");
            fs::create_dir(&orphan).unwrap();
            fs::File::create(orphan.join("tls.key")).unwrap();
            let state = world.directory.path().join("state").join(orphan.file_name().unwrap());
            fs::File::create(state).unwrap();
        },
        |world| std::os::unix::fs::symlink("..data/new", world.data("new")).unwrap(),
        |world| {
            std::os::unix::fs::symlink("..nowhere", world.data(NEXT)).unwrap();
            fs::create_dir(world.data("..2026_08_25_11_59_59.000000003")).unwrap();
        },
    ];
    let recoveries: [fn(&World); 3] = [
        |world| world.write(&[("a", "1")], "one").unwrap(),
        |world| {
            world.write(&[("a", "2")], "two").unwrap();
            world.write(&[("a", "1")], "one").unwrap();
        },
        |world| world.writer.sweep().unwrap(),
    ];
    for damage in damages {
        for recover in recoveries {
            let world = World::new();
            world.write(&[("a", "1")], "one").unwrap();
            damage(&world);
            recover(&world);
            world.current();
            assert_eq!(world.seen(), [pair("a", "1")]);
            assert_eq!(world.state().unwrap(), "one");
        }
    }
}

#[test]
fn a_crash_before_the_first_write_counts_leaves_an_empty_volume() {
    let world = World::new();
    fs::create_dir(world.data("..2026_08_25_12_00_00.000000000")).unwrap();
    std::os::unix::fs::symlink("..data/tls.crt", world.data("tls.crt")).unwrap();
    world.writer.sweep().unwrap();
    assert_eq!(world.names("data"), Vec::<String>::new());
    assert_eq!(world.state(), None);
}

#[test]
fn a_lost_state_is_none_and_the_next_write_brings_one() {
    let world = World::new();
    world.write(&[("a", "1")], "one").unwrap();
    fs::remove_file(world.directory.path().join("state").join(world.current())).unwrap();
    assert_eq!(world.state(), None);
    world.write(&[("a", "1")], "two").unwrap();
    assert_eq!(world.state().unwrap(), "two");
    world.current();
}

/// Nothing of ours leaves such a link, but a volume must not be lost to one.
#[test]
fn lost_files_are_written_again() {
    let damages: [fn(&World, PathBuf); 2] = [
        |_, files| fs::remove_dir_all(files).unwrap(),
        |world, files| {
            fs::remove_dir_all(&files).unwrap();
            fs::File::create(&files).unwrap();
            assert_eq!(world.state(), None);
        },
    ];
    for damage in damages {
        let world = World::new();
        world.write(&[("a", "1"), ("old", "x")], "one").unwrap();
        damage(&world, world.data(&world.current()));
        assert_eq!(world.state(), None);
        world.write(&[("a", "1")], "two").unwrap();
        assert_eq!(world.seen(), [pair("a", "1")]);
        assert_eq!(world.state().unwrap(), "two");
        world.current();
    }
}

#[test]
fn symlinks_in_the_volume_lead_nowhere() {
    let world = World::new();
    let outside = tempfile::tempdir().unwrap();
    let kept = outside.path().join("kept");
    fs::File::create(&kept).unwrap();
    fs::set_permissions(&kept, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(outside.path(), world.data("..2026_orphan")).unwrap();
    std::os::unix::fs::symlink(&kept, world.data("a")).unwrap();
    world.write(&[("b", "1")], "one").unwrap();
    assert!(kept.exists());
    assert_eq!(fs::metadata(&kept).unwrap().len(), 0);
    assert_eq!(world.seen(), [pair("b", "1")]);
}
