//! Weight files cut, flipped and forged: an error or a correct load, never a panic, never an
//! allocation that the file's size does not justify.
//!
//! Works on the bytes as SPEC.md describes them, with no help from the crate's own header code, and
//! repairs the header's checksum after forging, so that every check behind it is reached.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use brooklet_formats::DType;
use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{BrkFile, BrkWriter, KIND, Meta};
use brooklet_formats::quant::{TileLayout, decode_row};

/// The system's allocator, remembering the largest request.
struct Largest;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Largest = Largest;

// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// A file with tiles, plain tensors and a tokenizer, as small as may be.
fn small() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.brk");
    write(&path);
    std::fs::read(&path).unwrap()
}

fn write(path: &Path) {
    let mut meta = Meta { architecture: "rwkv7".to_owned(), ..Meta::default() };
    meta.config.insert("n_layer".to_owned(), 2.into());
    let mut writer =
        BrkWriter::create(&Target::new(path, KIND, NO_INPUTS), meta, b"tokenizer".to_vec())
            .unwrap();
    writer.plain("a.vector", &[5], &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    for (dtype, group) in [(DType::Int4, 32), (DType::F16, 0)] {
        let ones = |rows: std::ops::Range<usize>, out: &mut Vec<f32>| {
            out.resize(rows.len() * 3, 1.0);
            Ok(())
        };
        writer.matrix(dtype.name(), 4, 3, dtype, group, ones).unwrap();
    }
    writer.plain("b", &[1, 2, 1], &[1.0, 2.0]).unwrap();
    let columns = TileLayout::new(DType::Int4, 4, 3, 32).unwrap().by_columns().unwrap();
    let ones = |rows: std::ops::Range<usize>, out: &mut Vec<f32>| {
        out.resize(rows.len() * 3, 1.0);
        Ok(())
    };
    writer.rows("columns", columns, ones).unwrap();
    writer.finish().unwrap();
}

/// Opens, reads everything that a reader offers; returns whether the whole file is intact.
fn explore(bytes: Vec<u8>) -> bool {
    let len = bytes.len();
    LARGEST.store(0, Relaxed);
    let file = BrkFile::from_bytes(bytes);
    let largest = LARGEST.load(Relaxed);
    assert!(largest <= len + 4096, "an allocation of {largest} bytes for a file of {len}");
    let Ok(file) = file else { return false };
    for info in file.tensors() {
        let tensor = file.tensor(&info.name).unwrap();
        assert_eq!(tensor.bytes.len() as u64, info.len);
        match tensor.info.tile_layout() {
            Some(layout) => {
                let mut row = vec![0.0; layout.cols];
                (0..layout.rows).for_each(|r| decode_row(&layout, &tensor.bytes, r, &mut row));
            }
            None => assert_eq!(tensor.as_f32().unwrap().len() as u64, info.n_elements()),
        }
    }
    file.verify(|_, _| std::ops::ControlFlow::Continue(())).is_ok()
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// Where metadata, table and tokenizer are.
fn sections(bytes: &[u8]) -> [std::ops::Range<usize>; 3] {
    let metadata = u64_at(bytes, 24)..u64_at(bytes, 24) + u64_at(bytes, 32);
    let table =
        metadata.end.next_multiple_of(64)..metadata.end.next_multiple_of(64) + u64_at(bytes, 40);
    let tokenizer =
        table.end.next_multiple_of(64)..table.end.next_multiple_of(64) + u64_at(bytes, 48);
    [metadata, table, tokenizer]
}

/// Sets the header's checksum to what a forger would compute; `sections` are those before forging.
fn repair(bytes: &mut [u8], [metadata, table, _]: &[std::ops::Range<usize>; 3]) {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(&bytes[..56]);
    hash.update(&bytes[metadata.clone()]);
    hash.update(&bytes[table.clone()]);
    let digest = hash.digest();
    bytes[56..64].copy_from_slice(&digest.to_le_bytes());
}

/// One test, because the allocator's record is common to all threads.
#[test]
fn no_byte_can_hurt() {
    let bytes = small();
    let sections = sections(&bytes);
    let [metadata, table, tokenizer] = &sections;
    assert_eq!(tokenizer.end, bytes.len(), "the sections are where SPEC.md says");
    assert!(explore(bytes.clone()));

    for len in 0..bytes.len() {
        assert!(!explore(bytes[..len].to_vec()), "cut to {len} bytes");
    }
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            assert!(!explore(damaged), "byte {at} flipped by {flip:#x}");
        }
    }
    for at in (0..56).chain(metadata.clone()).chain(table.clone()) {
        for value in [0, 1, 0x1f, 0x20, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xfe, 0xff] {
            let mut forged = bytes.clone();
            forged[at] = value;
            repair(&mut forged, &sections);
            explore(forged);
        }
    }
    // Every field of eight bytes, and every place where one could be, at its extremes.
    let extremes =
        [0, 1, 63, 64, 1 << 31, 1 << 32, 1 << 62, i64::MAX as u64, u64::MAX - 63, u64::MAX];
    for at in (16..56).step_by(8).chain(table.clone().step_by(4)).filter(|at| at + 8 <= table.end) {
        for value in extremes {
            let mut forged = bytes.clone();
            forged[at..at + 8].copy_from_slice(&value.to_le_bytes());
            repair(&mut forged, &sections);
            explore(forged);
        }
    }
    // Two tensors of one name; a tensor over another; a shape whose product wraps to the true size.
    let entry = |number: usize| table.start + 32 + 128 * number;
    let forge = |edit: &dyn Fn(&mut [u8])| {
        let mut forged = bytes.clone();
        edit(&mut forged);
        repair(&mut forged, &sections);
        BrkFile::from_bytes(forged).unwrap_err().to_string()
    };
    let names = table.start + 32 + 128 * 5;
    let same_name = forge(&|file| {
        // The names "a.vector", "int4", "f16", "b" become "a.vector", "f16", "f16", "bb".
        file[names + 8..names + 16].copy_from_slice(b"f16f16bb");
        for (number, offset, len) in [(1, 8, 3), (2, 11, 3), (3, 14, 2)] {
            file[entry(number) + 64] = offset;
            file[entry(number) + 68] = len;
        }
    });
    assert!(same_name.contains("tensor \"f16\": the name must be unique"), "{same_name}");
    let overlap = forge(&|file| {
        let offset = file[entry(1)..entry(1) + 8].to_vec();
        file[entry(2)..entry(2) + 8].copy_from_slice(&offset);
    });
    assert!(overlap.contains("tensor \"f16\": the offset must be"), "{overlap}");
    let wrapped = forge(&|file| {
        for (dim, n) in [1u64 << 62, 2, 1 << 62].into_iter().enumerate() {
            file[entry(3) + 24 + 8 * dim..][..8].copy_from_slice(&n.to_le_bytes());
        }
    });
    assert!(
        wrapped.contains("tensor \"b\": the shape must be of a size that memory can address"),
        "{wrapped}"
    );
    let unknown = |at: usize, what: &str| {
        let error = forge(&|file| file[at] = 99);
        assert!(
            error.contains(&format!("tensor \"int4\": {what} 99 is unknown to this version")),
            "{error}"
        );
    };
    let in_columns = forge(&|file| file[entry(2) + 58] = 2);
    assert!(
        in_columns
            .contains("the number format of a matrix in columns must be int4 or int8, found f16"),
        "{in_columns}"
    );
    let (as_tiles, as_columns) =
        (forge(&|file| file[entry(4) + 58] = 0), forge(&|file| file[entry(1) + 58] = 2));
    for (tensor, error) in [("columns", as_tiles), ("int4", as_columns)] {
        assert!(error.contains(&format!("tensor {tensor:?}: the length must be")), "{error}");
    }
    let plain = forge(&|file| file[entry(3) + 58] = 2);
    assert!(plain.contains("tensor \"b\": the shape must be two dimensions"), "{plain}");
    unknown(entry(1) + 57, "number format");
    unknown(entry(1) + 58, "layout");
    unknown(entry(1) + 59, "transform");
    unknown(entry(1) + 62, "flags");
    unknown(entry(1) + 127, "reserved field");
}
