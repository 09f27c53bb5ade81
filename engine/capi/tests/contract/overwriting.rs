//! Nothing that the caller has is lost by a call that writes: inputs under every name, files of
//! other kinds, permissions.

use std::path::{Path, PathBuf};

use super::*;

/// Converts with `force` and a tokenizer, if there is one.
fn convert(source: &Path, target: &Path, tokenizer: Option<&Path>, force: u32) -> brooklet_result {
    let (source, target, tokenizer) = (c_path(source), c_path(target), tokenizer.map(c_path));
    unsafe {
        let mut options = std::mem::zeroed::<brooklet_convert_options>();
        ok(brooklet_convert_options_init(&raw mut options, size_of::<brooklet_convert_options>()));
        options.force = force;
        options.tokenizer = tokenizer.as_ref().map_or(null(), |path| path.as_ptr());
        let (from, to) = (source.as_ptr(), target.as_ptr());
        brooklet_convert(from, to, &raw const options, None, null_mut(), null_mut(), 0)
    }
}

/// A copy of a small checkpoint, a folder.
fn checkpoint(folder: &Path) -> PathBuf {
    let copy = folder.join("checkpoint");
    std::fs::create_dir(&copy).expect("made");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(root().join("tests/fixtures/mamba-a").join(name), copy.join(name))
            .expect("copied");
    }
    copy
}

/// The files of a folder.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let mut contents: Vec<_> = entries
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(&path).expect("a file")))
        .collect();
    contents.sort();
    contents
}

#[test]
fn a_conversion_spares_its_source() {
    if !cfg!(feature = "convert") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = checkpoint(folder.path());
    let tokenizer = folder.path().join("vocabulary.txt");
    std::fs::write(&tokenizer, "1 'a' 1\n2 'b' 1\n").expect("written");
    let hard = folder.path().join("hard");
    std::fs::hard_link(source.join("model.safetensors"), &hard).expect("linked");
    let mut targets: Vec<PathBuf> = contents(&source).into_iter().map(|(path, _)| path).collect();
    targets.extend([hard, source.join("../checkpoint/config.json"), tokenizer.clone()]);
    #[cfg(unix)]
    {
        let soft = folder.path().join("soft");
        std::os::unix::fs::symlink(source.join("model.safetensors"), &soft).expect("linked");
        targets.push(soft);
    }
    let before = [contents(&source), contents(folder.path())];
    for target in &targets {
        for from in [&source, &source.join("model.safetensors")] {
            for force in [0, 1] {
                let result = convert(from, target, Some(&tokenizer), force);
                assert_eq!(result, BROOKLET_EXISTS, "{}: {}", target.display(), last_message());
            }
        }
    }
    assert!(last_message().contains("is read here"), "{}", last_message());
    // Other files of a folder belong to it; beside weights that were named it does not.
    let notes = source.join("notes.md");
    std::fs::write(&notes, "dear to somebody").expect("written");
    assert_eq!(convert(&source, &notes, None, 1), BROOKLET_EXISTS);
    assert_eq!(convert(&source.join("config.json"), &notes, None, 1), BROOKLET_EXISTS);
    assert_eq!(convert(&source.join("model.safetensors"), &notes, None, 0), BROOKLET_EXISTS);
    std::fs::remove_file(&notes).expect("removed");
    assert!(before == [contents(&source), contents(folder.path())], "nothing has changed");

    let own = source.join("model.brk");
    assert_eq!(convert(&source, &own, None, 0), BROOKLET_OK, "{}", last_message());
    assert_eq!(convert(&source, &own, None, 0), BROOKLET_OK, "an older one is replaced");
}

#[test]
fn other_kinds_are_replaced_on_request_only() {
    if !cfg!(feature = "convert") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = checkpoint(folder.path());
    let target = folder.path().join("notes.txt");
    std::fs::write(&target, "dear to somebody").expect("written");
    assert_eq!(convert(&source, &target, None, 0), BROOKLET_EXISTS);
    assert!(last_message().contains("no .brk file"), "{}", last_message());
    assert_eq!(std::fs::read(&target).expect("a file"), b"dear to somebody");
    assert_eq!(convert(&source, &target, None, 2), BROOKLET_ARGUMENT);
    assert_eq!(convert(&source, &target, None, 1), BROOKLET_OK, "{}", last_message());
    assert!(std::fs::read(&target).expect("a file").starts_with(b"\x89BRK\r\n"));
    assert_eq!(text(brooklet_result_name(BROOKLET_EXISTS as i32)), "BROOKLET_EXISTS");
}

#[test]
fn options_of_the_first_version_force_nothing() {
    if !cfg!(feature = "convert") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, target) = (checkpoint(folder.path()), folder.path().join("notes.txt"));
    std::fs::write(&target, "dear to somebody").expect("written");
    let (from, to) = (c_path(&source), c_path(&target));
    unsafe {
        let mut options = std::mem::zeroed::<brooklet_convert_options>();
        let first = std::mem::offset_of!(brooklet_convert_options, force);
        ok(brooklet_convert_options_init(&raw mut options, first));
        assert_eq!(options.size, first);
        // Bytes that are not the struct's, as its user was compiled.
        options.force = 1;
        let options = &raw const options;
        let (from, to) = (from.as_ptr(), to.as_ptr());
        let result = brooklet_convert(from, to, options, None, null_mut(), null_mut(), 0);
        assert_eq!(result, BROOKLET_EXISTS);
    }
}

#[test]
fn states_replace_states_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    let c_file = c_path(&path);
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let snapshot = made(|to| brooklet_snapshot_of_session(session, null(), to));
        let state = made(|to| brooklet_snapshot_get_state(snapshot, to));
        let brk = std::fs::read(demo()).expect("the demo model");
        for foreign in [b"dear to somebody".as_slice(), &brk[..64]] {
            std::fs::write(&path, foreign).expect("written");
            assert_eq!(brooklet_snapshot_save(snapshot, c_file.as_ptr(), null()), BROOKLET_EXISTS);
            assert_eq!(brooklet_state_save(state, c_file.as_ptr(), null()), BROOKLET_EXISTS);
            assert_eq!(std::fs::read(&path).expect("a file"), foreign);
        }
        std::fs::remove_file(&path).expect("removed");
        ok(brooklet_snapshot_save(snapshot, c_file.as_ptr(), null()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, private).expect("changed");
            ok(brooklet_state_save(state, c_file.as_ptr(), null()));
            let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        ok(brooklet_state_save(state, c_file.as_ptr(), c"f16".as_ptr()));
        brooklet_state_free(state);
        brooklet_snapshot_free(snapshot);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}
