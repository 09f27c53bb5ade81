//! Files that appear whole; what is never replaced, what is only by force; links, permissions,
//! killed and living writers.

use std::collections::BTreeSet;

use std::fs;
#[cfg(unix)]
use std::path::Path;

use super::*;

const KIND: Kind = Kind { name: ".test", magic: b"TEST" };

/// A folder with a model of a kind that is read, and one file of the kind that is written.
struct Places(tempfile::TempDir);

impl Places {
    fn new() -> Places {
        let places = Places(tempfile::tempdir().unwrap());
        fs::write(places.at("input"), "TEST, and an input").unwrap();
        fs::write(places.at("old"), "TEST, and old").unwrap();
        fs::write(places.at("foreign"), "dear to somebody").unwrap();
        places
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An output of that name, made from "input".
    fn target(&self, name: &str) -> Target {
        Target::new(self.at(name), KIND, [self.at("input"), self.at("nowhere")])
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    fn parts(&self) -> usize {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".part")).count()
    }
}

fn write(target: &Target, text: &str) -> Result<(), FormatError> {
    let asked = target.check();
    let file = AtomicFile::create(target);
    assert!(asked.is_ok() || file.is_err(), "{asked:?} {file:?}");
    let mut file = file?;
    file.write(text.as_bytes())?;
    file.publish(&[])
}

#[test]
fn a_file_of_many_blocks_is_whole_however_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let target = Target::new(&path, KIND, NO_INPUTS).force(true);
    let expected: Vec<u8> = (0..2 * BLOCK + 12_345).map(|i| (i % 251) as u8).collect();
    for piece in [1000, BLOCK - 1, BLOCK, BLOCK + 1, expected.len()] {
        let mut file = AtomicFile::create(&target).unwrap();
        expected.chunks(piece).for_each(|piece| file.write(piece).unwrap());
        file.publish(&expected[..64]).unwrap();
        assert!(fs::read(&path).unwrap() == expected, "in pieces of {piece}");
    }
}

#[test]
fn inputs_are_never_written_onto() {
    let places = Places::new();
    fs::hard_link(places.at("input"), places.at("hard")).unwrap();
    let mut names = vec!["input", "./input", "hard"];
    fs::create_dir(places.at("inner")).unwrap();
    names.push("inner/../input");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink("input", places.at("soft")).unwrap();
        symlink("soft", places.at("softer")).unwrap();
        symlink(places.at("hard"), places.at("inner/far")).unwrap();
        symlink(".", places.at("here")).unwrap();
        names.extend(["soft", "softer", "inner/far", "here/here/input"]);
    }
    for name in names {
        for force in [false, true] {
            let error = write(&places.target(name).force(force), "TEST").unwrap_err();
            assert!(matches!(error, FormatError::OntoInput { .. }), "{name}: {error}");
        }
    }
    let error = write(&places.target("hard"), "TEST").unwrap_err().to_string();
    let input = format!("{}input,", std::path::MAIN_SEPARATOR);
    assert!(error.contains("hard: this is the input ") && error.contains(&input), "{error}");
    assert_eq!((places.read("input").as_str(), places.parts()), ("TEST, and an input", 0));
}

#[test]
fn other_kinds_are_replaced_by_force_only() {
    let places = Places::new();
    let error = write(&places.target("foreign"), "TEST").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("foreign: it is there and is no .test file, and only such are replaced"),
        "{error}"
    );
    assert_eq!(places.read("foreign"), "dear to somebody");
    // Shorter than the magic bytes.
    fs::write(places.at("foreign"), "TES").unwrap();
    assert!(write(&places.target("foreign"), "TEST").is_err());
    write(&places.target("foreign").force(true), "TEST new").unwrap();
    write(&places.target("old"), "TEST new").unwrap();
    write(&places.target("new"), "TEST new").unwrap();
    fs::write(places.at("empty"), "").unwrap();
    write(&places.target("empty"), "TEST new").unwrap();
    for name in ["foreign", "old", "new", "empty"] {
        assert_eq!(places.read(name), "TEST new", "{name}");
    }
    assert!(write(&Target::new(places.0.path(), KIND, NO_INPUTS).force(true), "TEST").is_err());
}

#[test]
fn what_comes_to_the_place_meanwhile_is_kept() {
    let places = Places::new();
    let (target, mut input) = (places.target("new"), AtomicFile::create(&places.target("late")));
    let file = AtomicFile::create(&target).unwrap();
    fs::write(places.at("new"), "somebody's").unwrap();
    assert!(matches!(file.publish(&[]), Err(FormatError::InTheWay { .. })));
    assert_eq!(places.read("new"), "somebody's");
    fs::hard_link(places.at("input"), places.at("late")).unwrap();
    input.as_mut().unwrap().write(b"TEST").unwrap();
    assert!(matches!(input.unwrap().publish(&[]), Err(FormatError::OntoInput { .. })));
    assert_eq!((places.read("input").as_str(), places.parts()), ("TEST, and an input", 0));
}

#[cfg(unix)]
#[test]
fn links_are_written_through() {
    use std::os::unix::fs::symlink;
    let places = Places::new();
    fs::create_dir(places.at("inner")).unwrap();
    fs::rename(places.at("old"), places.at("inner/old")).unwrap();
    for (link, to) in [
        ("a", "inner/old"),
        ("b", "a"),
        ("c", "inner/made"),
        ("d", "none/made"),
        ("e", "e"),
        ("f", "foreign"),
    ] {
        symlink(to, places.at(link)).unwrap();
    }
    write(&places.target("b"), "TEST through two").unwrap();
    assert_eq!(places.read("inner/old"), "TEST through two");
    write(&places.target("c"), "TEST new").unwrap();
    assert_eq!(places.read("inner/made"), "TEST new");
    let error = write(&places.target("d"), "TEST").unwrap_err().to_string();
    assert!(error.contains("none/made"), "{error}");
    let error = write(&places.target("e").force(true), "TEST").unwrap_err().to_string();
    assert!(error.contains("in a circle"), "{error}");
    assert!(write(&places.target("f"), "TEST").is_err());
    for link in ["a", "b", "c", "d", "e", "f"] {
        assert!(fs::symlink_metadata(places.at(link)).unwrap().is_symlink(), "{link}");
    }
    assert_eq!(places.read("foreign"), "dear to somebody");
}

#[cfg(unix)]
#[test]
fn permissions_stay() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let places = Places::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let part = |places: &Places| {
        let mut entries = fs::read_dir(places.0.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.extension().is_some_and(|end| end == "part")).unwrap()
    };
    for kept in [0o600, 0o640, 0o444, 0o755] {
        fs::set_permissions(places.at("old"), PermissionsExt::from_mode(kept)).unwrap();
        let file = AtomicFile::create(&places.target("old")).unwrap();
        assert_eq!(mode(&part(&places)), 0o600, "nobody else reads along");
        file.publish(b"TEST").unwrap();
        assert_eq!(mode(&places.at("old")), kept);
    }
    // A new file has what any new file has.
    File::create(places.at("plain")).unwrap();
    write(&places.target("new"), "TEST").unwrap();
    assert_eq!(mode(&places.at("new")), mode(&places.at("plain")));
    // Root keeps the owner; nobody else could.
    let old = File::open(places.at("old")).unwrap();
    if fchown(&old, Some(1234), Some(2345)).is_err() {
        eprintln!("SKIPPED: this user cannot give files away");
        return;
    }
    write(&places.target("old"), "TEST").unwrap();
    let found = fs::metadata(places.at("old")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 2345, 0o755));
}

#[test]
fn parts_of_the_dead_go_and_those_of_the_living_stay() {
    let places = Places::new();
    let own = std::process::id();
    let dead = [".old.1-0.part", &format!(".old.{own}-4000000000.part"), ".old.999999999-12.part"];
    let others = [".old.part", ".older.1-0.part", ".old.x-1.part", "old.1-0.part"];
    dead.iter().chain(&others).for_each(|name| fs::write(places.at(name), "half").unwrap());
    fs::create_dir(places.at(".old.2-0.part")).unwrap();
    let mut living = AtomicFile::create(&places.target("old")).unwrap();
    assert!(dead.iter().all(|name| !places.at(name).exists()));
    assert!(others.iter().all(|name| places.at(name).exists()));
    living.write(b"TEST living").unwrap();
    // Each of these looks for dead ones.
    (0..3).for_each(|_| write(&places.target("old"), "TEST another").unwrap());
    living.publish(&[]).unwrap();
    assert_eq!(places.read("old"), "TEST living");
    // The folder, and the three that are other files'.
    assert_eq!(places.parts(), 5);
}

#[test]
fn many_writers_of_one_target_do_not_disturb_each_other() {
    let places = Places::new();
    let text = |writer: usize| format!("TEST {}", writer.to_string().repeat(5000));
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let places = &places;
            scope.spawn(move || {
                for _ in 0..50 {
                    write(&places.target("old"), &text(writer)).unwrap();
                    let found = places.read("old");
                    assert!((0..4).any(|writer| found == text(writer)), "whole");
                }
            });
        }
    });
    let names: BTreeSet<_> =
        fs::read_dir(places.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["foreign", "input", "old"].map(Into::into).into());
}
