//! Folders, parts and links: which files are the weights, and what is refused.

use std::fs;
use std::path::Path;

use super::super::{Checkpoint, CheckpointKind};

/// Sharded models, and folders that are not what they should be.
#[test]
fn shards_and_broken_folders() {
    let entry = |name: &str, at: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{at},{}]}}"#, at + 4)
    };
    let shard = |names: [&str; 2], values: [f32; 2]| {
        let header = format!("{{{},{}}}", entry(names[0], 0), entry(names[1], 4));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    };
    let index = |map: &str| {
        format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{{map}}}}}"#).into_bytes()
    };
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let good = index(&format!(r#""a":"{first}","b":"{first}","c":"{second}""#));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();

    assert!(refused(folder.path()).contains("without weights"));
    fs::write(at(first), shard(["a", "b"], [1.0, 2.0])).unwrap();
    fs::write(at(second), shard(["c", "unused"], [3.0, 4.0])).unwrap();
    // Without an index, the parts' own numbers say that all are there.
    for path in [folder.path().to_owned(), at(first), at(second)] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.files(), [at(first), at(second)]);
        assert_eq!(checkpoint.tensors().len(), 4);
    }
    fs::rename(at(second), at("else")).unwrap();
    for path in [folder.path().to_owned(), at(first)] {
        let message = refused(&path);
        assert!(message.contains("one of 2 parts") && message.contains(second), "{message}");
    }
    fs::rename(at("else"), at(second)).unwrap();
    fs::write(at("other.pth"), "").unwrap();
    assert!(refused(folder.path()).contains("several weight files"));
    fs::remove_file(at("other.pth")).unwrap();
    fs::write(at("training_args.bin"), "").unwrap();
    fs::write(at("model.safetensors.index.json"), [b"\xef\xbb\xbf", &good[..]].concat()).unwrap();
    for path in [folder.path().to_owned(), at("model.safetensors.index.json")] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.files(), [at(first), at(second)]);
        assert_eq!(checkpoint.tensors().len(), 3);
        assert_eq!(checkpoint.read("c").unwrap(), [3.0]);
    }

    fs::write(at("tokenizer_config.json"), r#"{"chat_template": "{{ a }}"}"#).unwrap();
    assert_eq!(
        Checkpoint::open(folder.path()).unwrap().chat_template().as_deref(),
        Some("{{ a }}")
    );
    fs::write(at("chat_template.jinja"), "{{ b }}").unwrap();
    assert_eq!(
        Checkpoint::open(folder.path()).unwrap().chat_template().as_deref(),
        Some("{{ b }}")
    );

    fs::write(at("tokenizer.json"), "version https://git-lfs.github.com/spec/v1\noid").unwrap();
    assert!(refused(folder.path()).contains("git lfs pull"));
    fs::remove_file(at("tokenizer.json")).unwrap();
    fs::write(at("config.json"), "{").unwrap();
    assert!(refused(folder.path()).contains("config.json"));
    fs::remove_file(at("config.json")).unwrap();

    fs::write(at(second), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        .unwrap();
    assert!(refused(folder.path()).contains("git lfs pull"));
    fs::remove_file(at(second)).unwrap();
    assert!(refused(folder.path()).contains(second));
    for (map, words) in [
        (format!(r#""a":"{first}","z":"{first}""#), "\"z\" is missing"),
        (r#""a":"../outside""#.to_owned(), "../outside"),
        (r#""a":"/etc/hostname""#.to_owned(), "/etc/hostname"),
        (r#""a":".""#.to_owned(), "found ."),
        (r#""a":7"#.to_owned(), "index.json"),
        (String::new(), "no tensors"),
    ] {
        fs::write(at("model.safetensors.index.json"), index(&map)).unwrap();
        let message = refused(folder.path());
        assert!(message.contains(words), "{message}");
    }
    fs::write(at("notes.json"), "{}").unwrap();
    assert!(refused(&at("notes.json")).contains("a JSON file"));
    assert!(refused(&at("absent.gguf")).contains("cannot open"));
}

/// A cache of huggingface_hub, whose files are links into its blobs; and links that lead elsewhere.
#[cfg(unix)]
#[test]
fn caches_and_links() {
    use std::os::unix::fs::symlink;
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let root = tempfile::tempdir().unwrap();
    let cache = root.path().join("models--org--name");
    for folder in ["blobs", "refs", "snapshots/abc", "snapshots/def"] {
        fs::create_dir_all(cache.join(folder)).unwrap();
    }
    let snapshot = cache.join("snapshots/abc");
    let put = |name: &str, blob: &str, bytes: &[u8]| {
        fs::write(cache.join("blobs").join(blob), bytes).unwrap();
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
    };
    put("model.safetensors", "b1", &weights);
    put("chat_template.jinja", "b2", b"mine\r\n");
    let refused = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    let message = refused(&cache);
    assert!(message.contains("2 snapshots") && message.contains("refs/main"), "{message}");
    fs::write(cache.join("refs/main"), "abc\n").unwrap();
    for path in [&cache, &snapshot, &snapshot.join("model.safetensors")] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.files(), [snapshot.join("model.safetensors")]);
        assert_eq!(checkpoint.chat_template().as_deref(), Some("mine\n"));
        assert!(checkpoint.notes().is_empty());
    }
    fs::write(cache.join("refs/main"), "../../elsewhere").unwrap();
    assert!(refused(&cache).contains("../../elsewhere"));
    fs::write(cache.join("refs/main"), "abc").unwrap();

    // A template from elsewhere would be copied into the model.
    let secret = root.path().join("secret");
    fs::write(&secret, "hidden").unwrap();
    let template = snapshot.join("chat_template.jinja");
    fs::remove_file(&template).unwrap();
    symlink(&secret, &template).unwrap();
    let checkpoint = Checkpoint::open(&cache).unwrap();
    assert_eq!(checkpoint.chat_template(), None);
    assert!(checkpoint.notes()[0].contains("is not followed"), "{:?}", checkpoint.notes());

    // A link to nothing, and a pipe, in the place of each text.
    for name in ["config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"]
    {
        let path = snapshot.join(name);
        symlink("../../blobs/absent", &path).unwrap();
        let message = refused(&cache);
        assert!(message.contains(name) && message.contains("not there"), "{message}");
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let message = refused(&cache);
        assert!(message.contains(name) && message.contains("not a regular file"), "{message}");
        fs::remove_file(&path).unwrap();
    }
    fs::remove_file(cache.join("blobs/b1")).unwrap();
    let message = refused(&cache);
    assert!(message.contains("model.safetensors is a link to a file"), "{message}");
}

/// A GGUF in parts, given any of them; texts as editors on Windows save them.
#[test]
fn split_gguf() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let part = |tensor: &str, value: f32, keys: &[(&str, u32)]| {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend([1u64.to_le_bytes(), (keys.len() as u64).to_le_bytes()].concat());
        for (key, value) in keys {
            file.extend(
                [text(key), 4u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat(),
            );
        }
        file.extend([&text(tensor)[..], &1u32.to_le_bytes(), &1u64.to_le_bytes()].concat());
        file.extend([&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(value.to_le_bytes());
        file
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |i: usize| folder.path().join(format!("m-{i:05}-of-00003.gguf"));
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        let first = [("x", 7), ("split.no", 0), ("split.count", 3), ("split.tensors.count", 3)];
        let own = [("split.no", i as u32), ("split.count", 3)];
        let keys = if i == 0 { &first[..] } else { &own };
        fs::write(at(i + 1), part(name, i as f32, keys)).unwrap();
    }
    for path in [at(1), at(2), at(3), folder.path().to_owned()] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.kind(), CheckpointKind::Gguf);
        assert_eq!(checkpoint.metadata()["x"].as_u64(), Some(7));
        assert_eq!(checkpoint.read("c").unwrap(), [2.0]);
        assert_eq!(checkpoint.files().len(), 3);
    }
    let refused = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    fs::copy(at(2), folder.path().join("other.gguf")).unwrap();
    let message = refused(&folder.path().join("other.gguf"));
    assert!(message.contains("one of 3 parts") && message.contains("-00001-of-"), "{message}");
    fs::remove_file(folder.path().join("other.gguf")).unwrap();
    fs::write(at(3), part("c", 2.0, &[("split.count", 4)])).unwrap();
    assert!(refused(&at(1)).contains("split.count must be 3, as the name says, found 4"));
    fs::write(at(3), part("b", 2.0, &[("split.count", 3)])).unwrap();
    assert!(refused(&at(1)).contains("several times"));
    fs::remove_file(at(2)).unwrap();
    let message = refused(&at(3));
    assert!(message.contains("m-00002-of-00003.gguf are missing"), "{message}");
}
