//! The kind of a file, told from its first bytes: the extension is never asked.
//!
//! Here: the magic numbers of what we read, and of what people save by mistake in place of a model.
//! Not here: parsing. Sources: zip APPNOTE 4.3.7, GGUF specification, rwkv.cpp docs/FILE_FORMAT.md,
//! Git LFS specification ("the pointer"), torch/serialization.py (`MAGIC_NUMBER`). Test: at the end
//! of this file.

use super::source::SourceFile;
use crate::FormatError;
use crate::brk::MAGIC;

/// The kind that the first bytes promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Magic {
    Safetensors,
    Zip,
    /// PyTorch before version 1.6.
    LegacyTorch,
    Gguf,
    RwkvCpp,
    Json,
}

/// The start of torch's magic number as pickled by `torch.save` before version 1.6.
const LEGACY_TORCH: [u8; 14] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

const RESAVE: &str = "load it with PyTorch and save it again: \
                      torch.save(torch.load(\"FILE\", map_location=\"cpu\"), \"NEW\")";

/// Recognises a checkpoint file, or says what else it is.
pub(super) fn sniff(file: &SourceFile) -> Result<Magic, FormatError> {
    let head = file.head(512)?;
    let not_a_model = |found: &str, mend: &'static str| {
        Err(FormatError::NotAModel { path: file.path().to_owned(), found: found.to_owned(), mend })
    };
    let text =
        head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start().to_ascii_lowercase();
    match head.as_slice() {
        [] => not_a_model("an empty file", "download it again"),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Ok(Magic::Zip),
        [b'G', b'G', b'U', b'F', ..] => Ok(Magic::Gguf),
        [b'f', b'm', b'g', b'g', ..] => Ok(Magic::RwkvCpp),
        [_, _, _, _, _, _, _, _, b'{', ..] if safetensors_len(&head).is_some() => {
            Ok(Magic::Safetensors)
        }
        _ if head.starts_with(b"version https://git-lfs") => not_a_model(
            "a Git LFS pointer, not the file it stands for",
            "fetch the file with `git lfs pull`",
        ),
        _ if text.starts_with(b"<!doctype")
            || text.starts_with(b"<html")
            || text.starts_with(b"<?xml") =>
        {
            not_a_model("a web page", "download the file itself, not the page that shows it")
        }
        _ if text.starts_with(b"{") => Ok(Magic::Json),
        _ if head.starts_with(&LEGACY_TORCH) => Ok(Magic::LegacyTorch),
        _ if head.get(257..262) == Some(b"ustar") => {
            not_a_model("a tar archive (old PyTorch files are)", RESAVE)
        }
        [0x80, 2..=5, ..] => not_a_model("a bare pickle without tensor data", RESAVE),
        [b'l' | b't', b'm' | b'j', b'g', b'g', ..] => not_a_model(
            "a GGML or GGJT file from before GGUF",
            "convert the original model to GGUF or safetensors",
        ),
        _ if head.starts_with(&MAGIC) => {
            not_a_model("a .brk file already", "run it as it is, or convert its source")
        }
        [0x1f, 0x8b, ..] => not_a_model("a gzip archive", "unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => not_a_model("a Zstandard archive", "unpack it first"),
        _ => {
            let shown = &head[..head.len().min(8)];
            not_a_model(
                &format!("a file of no known kind (it starts with {})", shown.escape_ascii()),
                "give a .safetensors, .pth, .gguf or rwkv.cpp .bin file, or a Hugging Face folder",
            )
        }
    }
}

/// Whether `head` starts a Git LFS pointer; for the text files beside the weights.
pub(super) fn is_lfs_pointer(head: &[u8]) -> bool {
    head.starts_with(b"version https://git-lfs")
}

/// The header length in the first eight bytes, where one is plausible: text is not.
fn safetensors_len(head: &[u8]) -> Option<u64> {
    let len = u64::from_le_bytes(*head.first_chunk()?);
    (len < 1 << 32).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sniffed(bytes: &[u8]) -> Result<Magic, String> {
        let mut temporary = tempfile::NamedTempFile::new().unwrap();
        temporary.write_all(bytes).unwrap();
        let file = SourceFile::open(temporary.path()).unwrap();
        sniff(&file).map_err(|e| e.to_string())
    }

    #[test]
    fn kinds_by_their_first_bytes() {
        assert_eq!(sniffed(b"GGUF\x03\0\0\0"), Ok(Magic::Gguf));
        assert_eq!(sniffed(b"fmgge\0\0\0"), Ok(Magic::RwkvCpp));
        assert_eq!(sniffed(b"\x02\0\0\0\0\0\0\0{}"), Ok(Magic::Safetensors));
        assert_eq!(sniffed(b"PK\x03\x04"), Ok(Magic::Zip));
        assert_eq!(sniffed(&LEGACY_TORCH), Ok(Magic::LegacyTorch));
        assert_eq!(sniffed(b" {\"architectures\": []}"), Ok(Magic::Json));
    }

    #[test]
    fn mistakes_are_named_with_their_mend() {
        let tar = [&[b'x'; 257][..], b"ustar\0"].concat();
        for (bytes, words) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"\x80\x02\x8a\x0alf\x9c\x46", "bare pickle"),
            (&tar, "tar archive"),
            (b"lmgg\0\0\0\0", "GGML"),
            (b"tjgg\0\0\0\0", "GGML"),
            (&MAGIC, "a .brk file already"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"hello world, this is text", "no known kind"),
        ] {
            let message = sniffed(bytes).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
