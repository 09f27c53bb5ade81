//! PyTorch's `.pth`, `.pt`, `.bin` since version 1.6: a zip archive with a pickle and one entry per
//! storage.
//!
//! Here: finding the pickle's tensors and their storages in the archive. Entries are stored, so
//! that a tensor's rows are read straight from the file; deflated ones are read through a decoder.
//! Not here: the pickle itself (`pickle`). Sources: torch/serialization.py `_save`; PKWARE APPNOTE.
//! Test: at the end of this file.

use std::collections::{HashMap, HashSet};
use std::io::BufReader;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Node, PICKLE_MAX, Pickle, Tensor};
use super::source::{Blob, SourceFile, Stream};
use super::table::Table;
use super::tensor::SourceTensor;
use crate::FormatError;

/// Keys under which training scripts wrap the state dict, in the order in which they are tried.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// Bounds of the walk through the containers: depth, entries visited, bytes of a dotted name.
const DEPTH_MAX: usize = 16;
const VISITS_MAX: usize = 1 << 18;
const NAME_MAX: usize = 512;

/// Deflate packs at most 1032 bytes into one.
const DEFLATE_RATIO_MAX: u64 = 1040;

/// Reads the table of tensors of the archive `file`.
pub(super) fn read(file: &Arc<SourceFile>) -> Result<Table, FormatError> {
    let mut archive = Archive::open(file)?;
    let bytes = archive.read("data.pkl", PICKLE_MAX)?;
    if archive.contains("byteorder") {
        let order = archive.read("byteorder", 16)?;
        if order != b"little" {
            return Err(file.field("the byte order", "little", order.escape_ascii()));
        }
    }
    let pickle = Pickle::parse(&bytes).map_err(|refusal| {
        let found = format!("{} (data.pkl, byte {})", refusal.found, refusal.at);
        file.field("the pickle", refusal.expected, found)
    })?;
    drop(bytes);

    let mut found = Vec::new();
    let mut visits = 0;
    collect(&pickle, state_dict(&pickle), String::new(), 0, &mut visits, &mut found)
        .map_err(|(expected, found)| file.field("the pickle", expected, found))?;
    let mut blobs = HashMap::new();
    let mut table = Table::default();
    for (name, tensor) in found {
        let Node::Storage(storage) = pickle.node(tensor.storage) else { continue };
        let Node::Text(key) = pickle.node(storage.key) else { continue };
        let blob = match blobs.get(key.as_str()) {
            Some(blob) => Blob::clone(blob),
            None => {
                let blob = archive.blob(&format!("data/{key}"))?;
                blobs.insert(key.as_str(), blob.clone());
                blob
            }
        };
        let size = storage.dtype.map_or(1, |dtype| dtype.block_bytes() as u64);
        if storage.len.checked_mul(size).is_none_or(|len| len > blob.len()) {
            let expected = format!("{} elements of {size} bytes", storage.len);
            return Err(file.tensor(
                &name,
                "storage",
                expected,
                format_args!("{} bytes", blob.len()),
            ));
        }
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        table.tensors.push(SourceTensor::strided(
            name,
            shape,
            tensor.dtype,
            blob,
            tensor.offset,
            strides,
        )?);
    }
    Ok(table)
}

/// The container that holds the model's tensors: the root, or what a training script put into it.
fn state_dict(pickle: &Pickle) -> &Node {
    let mut node = pickle.root();
    for _ in 0..DEPTH_MAX {
        let Node::Dict(items) = node else { break };
        if items.iter().any(|(_, value)| matches!(pickle.node(*value), Node::Tensor(_))) {
            break;
        }
        let inner = WRAPPERS.iter().find_map(|wrapper| {
            let named = |key: Id| matches!(pickle.node(key), Node::Text(key) if key == wrapper);
            let (_, value) = items.iter().rev().find(|(key, _)| named(*key))?;
            Some(pickle.node(*value)).filter(|value| matches!(value, Node::Dict(_)))
        });
        match inner {
            Some(inner) => node = inner,
            None => break,
        }
    }
    node
}

/// Collects the tensors below `node` under their dotted names. Values that are neither tensors nor
/// containers are left out. Fails with (expected, found) on nesting or sharing that no checkpoint
/// has.
fn collect<'a>(
    pickle: &'a Pickle,
    node: &'a Node,
    name: String,
    depth: usize,
    visits: &mut usize,
    found: &mut Vec<(String, &'a Tensor)>,
) -> Result<(), (&'static str, &'static str)> {
    *visits += 1;
    if depth > DEPTH_MAX || *visits > VISITS_MAX || name.len() > NAME_MAX {
        return Err(("a table of tensors", "containers nested without end"));
    }
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match node {
        Node::Tensor(tensor) => found.push((name, tensor)),
        Node::Dict(items) => {
            // A later equal key wins, as in Python; the order of the others stays.
            let mut seen = HashSet::new();
            let mut kept: Vec<_> = items
                .iter()
                .rev()
                .filter_map(|(key, value)| match pickle.node(*key) {
                    Node::Text(key) if seen.insert(key.as_str()) => Some((key, value)),
                    _ => None,
                })
                .collect();
            kept.reverse();
            for (key, value) in kept {
                collect(pickle, pickle.node(*value), below(key), depth + 1, visits, found)?;
            }
        }
        Node::List(items) | Node::Tuple(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(
                    pickle,
                    pickle.node(*item),
                    below(&i.to_string()),
                    depth + 1,
                    visits,
                    found,
                )?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The zip archive, whose entries lie in one folder named after the file.
struct Archive {
    file: Arc<SourceFile>,
    zip: ZipArchive<BufReader<Stream>>,
    /// `"name/"`, or empty.
    prefix: String,
}

impl Archive {
    fn open(file: &Arc<SourceFile>) -> Result<Self, FormatError> {
        let stream = BufReader::new(file.stream(0, file.len()));
        let zip = ZipArchive::new(stream)
            .map_err(|e| file.field("the zip directory", "readable (is the file cut off?)", e))?;
        let pickles: Vec<_> =
            zip.file_names_raw().filter(|name| name.ends_with(b"data.pkl")).collect();
        let prefix = match pickles.as_slice() {
            [name] => String::from_utf8_lossy(&name[..name.len() - "data.pkl".len()]).into_owned(),
            _ => {
                let found = format!("{} of them among {} entries", pickles.len(), zip.len());
                return Err(file.field(
                    "the zip archive",
                    "one of PyTorch, with one data.pkl",
                    found,
                ));
            }
        };
        Ok(Self { file: Arc::clone(file), zip, prefix })
    }

    fn contains(&self, name: &str) -> bool {
        self.zip.index_for_name(&format!("{}{name}", self.prefix)).is_some()
    }

    /// Where the bytes of an entry are.
    fn blob(&mut self, name: &str) -> Result<Blob, FormatError> {
        let file = &self.file;
        let full = format!("{}{name}", self.prefix);
        let wrong = |expected: &str, found: String| {
            file.field("the zip archive", expected, format_args!("{full}: {found}"))
        };
        let index =
            self.zip.index_for_name(&full).ok_or_else(|| wrong("complete", "missing".into()))?;
        let entry = self.zip.by_index_raw(index).map_err(|e| wrong("readable", e.to_string()))?;
        let (len, packed) = (entry.size(), entry.compressed_size());
        let start = entry.data_start().unwrap_or(u64::MAX);
        file.check(start, packed, "a zip entry")?;
        if entry.encrypted() {
            return Err(wrong("readable without a password", "encrypted".into()));
        }
        match entry.compression() {
            CompressionMethod::Stored if len == packed => {
                Ok(Blob::Plain { file: Arc::clone(file), offset: start, len })
            }
            CompressionMethod::Deflated if len <= packed.saturating_mul(DEFLATE_RATIO_MAX) => {
                Ok(Blob::deflated(file, start, start + packed, len))
            }
            method => Err(wrong(
                "of stored or deflated entries",
                format!("{method:?}, {packed} bytes for {len}"),
            )),
        }
    }

    /// The whole of a small entry.
    fn read(&mut self, name: &'static str, max: u64) -> Result<Vec<u8>, FormatError> {
        let blob = self.blob(name)?;
        if blob.len() > max {
            let found = format!("{name}: {} bytes", blob.len());
            return Err(self.file.field(
                "the zip archive",
                format_args!("at most {max} bytes"),
                found,
            ));
        }
        let mut bytes = vec![0; blob.len() as usize];
        blob.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::super::tests::{survives_every_cut_and_flip, temporary};
    use std::io::{Cursor, Write};
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    /// A pickle of the given middle part: between `PROTO` and `STOP`.
    fn archive(pickle: &[u8], storages: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method);
        let data = [b"\x80\x02", pickle, b"."].concat();
        zip.start_file("model/data.pkl", options).unwrap();
        zip.write_all(&data).unwrap();
        for (name, bytes) in storages {
            zip.start_file(format!("model/{name}"), options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn ints(values: &[i32]) -> Vec<u8> {
        let items: Vec<u8> =
            values.iter().flat_map(|v| [b"J", &v.to_le_bytes()[..]].concat()).collect();
        [b"(", &items[..], b"t"].concat()
    }

    /// A float tensor, as `torch.save` writes it.
    fn tensor(key: &str, len: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
        let storage = [
            b"(",
            &text("storage")[..],
            b"ctorch\nFloatStorage\n",
            &text(key),
            &text("cpu"),
            b"J",
            &len.to_le_bytes(),
            b"tQ",
        ];
        let view = [
            b"J",
            &offset.to_le_bytes()[..],
            &ints(shape),
            &ints(strides),
            b"\x89ccollections\nOrderedDict\n)R",
        ];
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage.concat()[..], &view.concat(), b"tR"]
            .concat()
    }

    fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let items: Vec<u8> =
            items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
        [b"}(", &items[..], b"u"].concat()
    }

    fn floats(values: std::ops::Range<u32>) -> Vec<u8> {
        values.flat_map(|v| (v as f32).to_le_bytes()).collect()
    }

    fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
        let file = temporary(bytes);
        Checkpoint::open(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn views_and_shared_storages_stored_and_deflated() {
        let pickle = dict(&[
            ("plain", tensor("0", 6, 0, &[2, 3], &[3, 1])),
            ("transposed", tensor("0", 6, 0, &[3, 2], &[1, 3])),
            ("tail", tensor("0", 6, 4, &[2], &[1])),
        ]);
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let checkpoint = open(&archive(&pickle, &[("data/0", &floats(0..6))], method)).unwrap();
            assert_eq!(checkpoint.read("plain").unwrap(), [0., 1., 2., 3., 4., 5.]);
            assert_eq!(checkpoint.read("transposed").unwrap(), [0., 3., 1., 4., 2., 5.]);
            assert_eq!(checkpoint.read("tail").unwrap(), [4., 5.]);
            assert_eq!(checkpoint.get("transposed").unwrap().shape, [3, 2]);
        }
    }

    #[test]
    fn wrapped_and_nested_dicts() {
        let inner = dict(&[("emb.weight", tensor("0", 6, 0, &[6], &[1]))]);
        for wrapper in ["state_dict", "model", "module"] {
            let epoch = ("epoch", b"K\x07".to_vec());
            let pickle = dict(&[epoch, ("optimizer", dict(&[])), (wrapper, inner.clone())]);
            let checkpoint =
                open(&archive(&pickle, &[("data/0", &floats(0..6))], CompressionMethod::Stored))
                    .unwrap();
            assert_eq!(checkpoint.tensors().len(), 1);
            assert_eq!(checkpoint.tensors()[0].name, "emb.weight");
        }
        let pickle = dict(&[("x", tensor("0", 6, 0, &[6], &[1])), ("y", inner)]);
        let checkpoint =
            open(&archive(&pickle, &[("data/0", &floats(0..6))], CompressionMethod::Stored))
                .unwrap();
        assert_eq!(checkpoint.tensors()[1].name, "y.emb.weight");
    }

    #[test]
    fn cut_and_flipped() {
        let pickle = dict(&[
            ("a", tensor("0", 6, 0, &[3, 2], &[1, 3])),
            ("b", tensor("0", 6, 4, &[2], &[1])),
        ]);
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            survives_every_cut_and_flip(&archive(&pickle, &[("data/0", &floats(0..6))], method));
        }
    }

    #[test]
    fn hostile_archives() {
        let one = |tensor: Vec<u8>| {
            archive(
                &dict(&[("t", tensor)]),
                &[("data/0", &floats(0..6))],
                CompressionMethod::Stored,
            )
        };
        for (bytes, words) in [
            (one(tensor("0", 7, 0, &[6], &[1])), "storage"),
            (one(tensor("0", 6, 1, &[6], &[1])), "\"t\""),
            (one(tensor("0", 6, 0, &[2, 3], &[4, 1])), "\"t\""),
            (one(tensor("0", 6, -1, &[6], &[1])), "offset"),
            (one(tensor("1", 6, 0, &[6], &[1])), "data/1"),
            (one(tensor("0", 6, 0, &[i32::MAX, i32::MAX], &[0, 0])), "\"t\""),
            (archive(b"cposix\nsystem\n", &[], CompressionMethod::Stored), "posix.system"),
            (archive(&dict(&[]), &[("byteorder", b"big")], CompressionMethod::Stored), "little"),
            (archive(&dict(&[]), &[], CompressionMethod::Stored), "no tensors"),
            (archive(b"N", &[("x/data.pkl", b"")], CompressionMethod::Stored), "data.pkl"),
        ] {
            let message = open(&bytes).err().unwrap();
            assert!(message.contains(words), "{message}");
        }
        // A dict that holds itself: ends, by depth.
        let cycle = [&b"}q\x00"[..], &text("me"), b"h\x00s"].concat();
        assert!(open(&archive(&cycle, &[], CompressionMethod::Stored)).is_err());
        // Lists of lists shared 100 times each: ends, by visits.
        let laughs: Vec<u8> = (0..10u8)
            .flat_map(|i| [&b"]("[..], &[b'h', i].repeat(100), b"eq", &[i + 1]].concat())
            .collect();
        let laughs = [&b"]q\x00"[..], &laughs].concat();
        assert!(open(&archive(&laughs, &[], CompressionMethod::Stored)).is_err());
    }
}
