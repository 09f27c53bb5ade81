//! PyTorch's `.pth`, `.pt`, `.bin` since version 1.6: a zip archive with a pickle and one entry per
//! storage.
//!
//! Here: the archive. Entries are stored, so
//! that a tensor's rows are read straight from the file; deflated ones are read through a decoder.
//! Not here: the pickle (`pickle`), and which of its tensors are
//! the model's (`torch_table`). Sources: torch/serialization.py `_save`; PKWARE APPNOTE.
//! Test: at the end of this file.

use std::io::BufReader;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{PICKLE_MAX, Pickle};
use super::source::{Blob, SourceFile, Stream};
use super::table::Table;
use super::torch_table;
use crate::FormatError;

/// Deflate packs at most 1032 bytes into one.
const DEFLATE_RATIO_MAX: u64 = 1040;

/// All storages together may be so many times as long as the file, and so many bytes more: weights
/// hardly deflate, but zeros do.
const INFLATED_MAX: u64 = 64;
const INFLATED_LEAST: u64 = 64 << 20;

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

    let mut entries = Entries::new(file.len());
    torch_table::table(file, &pickle, |key| entries.count(archive.blob(&format!("data/{key}"))?))
}

/// The storages of an archive, whose length together is bounded by the file's.
struct Entries {
    left: u64,
}

impl Entries {
    fn new(len: u64) -> Self {
        Self { left: len.saturating_mul(INFLATED_MAX).saturating_add(INFLATED_LEAST) }
    }

    fn count(&mut self, blob: Blob) -> Result<Blob, FormatError> {
        match self.left.checked_sub(blob.len()) {
            Some(left) => {
                self.left = left;
                Ok(blob)
            }
            None => Err(blob.file().field(
                "the zip archive",
                format_args!("at most {INFLATED_MAX} times its own length when inflated"),
                "more",
            )),
        }
    }
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
        if zip.file_names_raw().any(|name| name.ends_with(b"/constants.pkl")) {
            return Err(FormatError::NotAModel {
                path: file.path().to_owned(),
                found: "a TorchScript archive: a program with its weights".to_owned(),
                mend: "take the checkpoint that it was made from",
            });
        }
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

    /// Things that trainers put beside the weights: options, optimizers, steps, signs of who wrote
    /// it.
    #[test]
    fn what_stands_beside_the_weights() {
        let step = || tensor("0", 6, 0, &[1], &[1]);
        let weights = || {
            dict(&[
                ("a", tensor("0", 6, 0, &[2], &[1])),
                ("b", tensor("0", 6, 2, &[2], &[1])),
                ("_strategy", text("cuda fp16")),
                ("_rescale_layer", b"K\x06".to_vec()),
            ])
        };
        let namespace = [&b"cargparse\nNamespace\n)\x81"[..], &dict(&[("lr", step())]), b"b"];
        let optimizer = dict(&[("state", dict(&[("0", dict(&[("exp_avg", step())]))]))]);
        for wrapper in ["state_dict", "model", "module", "model_state_dict", "weights"] {
            let pickle = dict(&[
                ("optimizer", optimizer.clone()),
                ("args", namespace.concat()),
                ("step", step()),
                (wrapper, weights()),
            ]);
            let bytes = archive(&pickle, &[("data/0", &floats(0..6))], CompressionMethod::Stored);
            let checkpoint = open(&bytes).unwrap();
            let names: Vec<_> = checkpoint.tensors().iter().map(|t| &*t.name).collect();
            assert_eq!(names, ["a", "b"], "{wrapper}");
            assert_eq!(checkpoint.read("b").unwrap(), [2.0, 3.0]);
            assert_eq!(checkpoint.metadata()["torch._strategy"].as_str(), Some("cuda fp16"));
            assert_eq!(checkpoint.metadata()["torch._rescale_layer"].as_u64(), Some(6));
        }
    }

    /// A tensor with attributes is the tensor.
    #[test]
    fn a_tensor_with_attributes() {
        let plain = tensor("0", 6, 0, &[2, 3], &[3, 1]);
        let arguments = &plain[b"ctorch._utils\n_rebuild_tensor_v2\n".len()..plain.len() - 1];
        let pickle = [
            b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n",
            &b"cmine\nTensor\n"[..],
            arguments,
            b"}tR",
        ];
        let pickle = dict(&[("t", pickle.concat())]);
        let bytes = archive(&pickle, &[("data/0", &floats(0..6))], CompressionMethod::Stored);
        assert_eq!(open(&bytes).unwrap().read("t").unwrap(), [0., 1., 2., 3., 4., 5.]);
    }

    /// Small files that ask for much work: repeated numbers, many views, zeros that deflate well.
    #[test]
    fn work_is_bounded_by_the_length() {
        let one = |tensors: &[(&str, Vec<u8>)], storage: &[u8], method| {
            open(&archive(&dict(tensors), &[("data/0", storage)], method))
        };
        let expanded = || tensor("0", 6, 0, &[4096, 4096], &[0, 0]);
        let message = one(&[("t", expanded())], &floats(0..6), CompressionMethod::Stored);
        assert!(message.unwrap_err().contains("\"t\": elements must be at most"));
        let small = one(
            &[("t", tensor("0", 6, 0, &[200, 6], &[0, 1]))],
            &floats(0..6),
            CompressionMethod::Stored,
        );
        assert_eq!(small.unwrap().read("t").unwrap()[1194..], [0., 1., 2., 3., 4., 5.]);
        let names: Vec<String> = (0..64).map(|i| format!("t{i}")).collect();
        let many: Vec<_> =
            names.iter().map(|n| (&**n, tensor("0", 6, 0, &[1 << 16], &[0]))).collect();
        let message = one(&many, &floats(0..6), CompressionMethod::Stored).unwrap_err();
        assert!(message.contains("all tensors together"), "{message}");
        let zeros = vec![0; 80 << 20];
        let message = one(
            &[("t", tensor("0", 20 << 20, 0, &[20 << 20], &[1]))],
            &zeros,
            CompressionMethod::Deflated,
        );
        let message = message.unwrap_err();
        assert!(message.contains("its own length when inflated"), "{message}");
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
