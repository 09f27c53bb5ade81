//! The tensor table: names, shapes, formats, places and checksums of all tensors.
//!
//! Here: [`TensorInfo`], the table's writing, and its parsing with every field checked, so that a
//! tensor's bytes can be sliced without looking again. Not here: the bytes. Source: `SPEC.md`,
//! "Tensor table". Tests: `brk/tests.rs`.

use std::collections::HashMap;
use std::path::Path;

use byteorder::{ByteOrder, LE};

use super::header::{PREAMBLE_LEN, align};
use crate::quant::TileLayout;
use crate::{DType, FormatError};

/// Dimensions of a tensor at most.
pub const MAX_DIMS: usize = 4;
/// Bytes of a tensor's name at most.
pub const MAX_NAME_LEN: usize = 255;
/// Tensors of a file at most.
pub const MAX_TENSORS: usize = 1 << 20;

const HEAD_LEN: usize = 32;
const ENTRY_LEN: usize = 128;

/// How the elements of a tensor are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Layout {
    /// A matrix in tiles of 16 rows: [`TileLayout`].
    Tiles = 0,
    /// Little-endian f32 in C order.
    Plain = 1,
    /// A matrix in columns: [`TileLayout::by_columns`].
    Columns = 2,
}

/// A change made to a tensor before it was encoded, which must be made to its input too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Transform {
    /// Nothing.
    None = 0,
}

/// One line of the tensor table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Canonical name, unique in the file.
    pub name: String,
    /// Shape, outermost dimension first; a matrix is `[rows, cols]`.
    pub shape: Vec<usize>,
    /// Number format of the elements.
    pub dtype: DType,
    /// Arrangement of the elements.
    pub layout: Layout,
    /// Columns that share a scale; 0 where the format has none.
    pub group: usize,
    /// The change made to the tensor before it was encoded.
    pub transform: Transform,
    /// First byte, from the start of the file; a multiple of 64.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// xxh3-64 of the bytes.
    pub checksum: u64,
}

impl TensorInfo {
    /// Number of elements, without padding.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Whether it is a matrix, in tiles or in columns.
    pub fn is_matrix(&self) -> bool {
        self.layout != Layout::Plain
    }

    /// The geometry of a matrix; `None` for plain tensors.
    pub fn tile_layout(&self) -> Option<TileLayout> {
        let &[rows, cols] = self.shape.as_slice() else { return None };
        let tiles = || TileLayout::new(self.dtype, rows, cols, self.group).ok();
        match self.layout {
            Layout::Tiles => tiles(),
            Layout::Columns => tiles()?.by_columns(),
            Layout::Plain => None,
        }
    }

    /// Checks name and shape against the limits, and format against layout; returns the length in
    /// bytes.
    pub(super) fn checked_len(&self, path: &Path) -> Result<u64, FormatError> {
        let invalid = |what, expected: String, found: String| FormatError::Tensor {
            path: path.to_owned(),
            tensor: self.name.clone(),
            what,
            expected,
            found,
        };
        if self.name.is_empty()
            || self.name.len() > MAX_NAME_LEN
            || self.name.contains(char::is_control)
        {
            let expected = format!("1 to {MAX_NAME_LEN} bytes without control characters");
            return Err(invalid("the name", expected, format!("{} bytes", self.name.len())));
        }
        let bad_shape =
            |expected: String| invalid("the shape", expected, format!("{:?}", self.shape));
        if self.shape.is_empty() || self.shape.len() > MAX_DIMS || self.shape.contains(&0) {
            return Err(bad_shape(format!("1 to {MAX_DIMS} dimensions of 1 or more")));
        }
        match self.layout {
            Layout::Tiles | Layout::Columns => {
                let &[rows, cols] = self.shape.as_slice() else {
                    return Err(bad_shape("two dimensions, those of a matrix".to_owned()));
                };
                let in_tiles = TileLayout::new(self.dtype, rows, cols, self.group);
                let in_tiles = in_tiles.map_err(|source| FormatError::InTensor {
                    path: path.to_owned(),
                    tensor: self.name.clone(),
                    source: Box::new(source),
                })?;
                if self.layout == Layout::Tiles {
                    return Ok(in_tiles.total_bytes() as u64);
                }
                let columns = in_tiles.by_columns().map(|layout| layout.total_bytes() as u64);
                columns.ok_or_else(|| {
                    let expected = "int4 or int8".to_owned();
                    let what = "the number format of a matrix in columns";
                    invalid(what, expected, self.dtype.to_string())
                })
            }
            Layout::Plain if self.dtype != DType::F32 => Err(invalid(
                "the number format of a plain tensor",
                "f32".into(),
                self.dtype.to_string(),
            )),
            Layout::Plain if self.group != 0 => {
                Err(invalid("the group of a plain tensor", "0".into(), self.group.to_string()))
            }
            Layout::Plain => self
                .shape
                .iter()
                .try_fold(size_of::<f32>(), |len, &n| len.checked_mul(n))
                .filter(|&len| len <= isize::MAX as usize)
                .map(|len| len as u64)
                .ok_or_else(|| bad_shape("of a size that memory can address".to_owned())),
        }
    }

    /// The 128 bytes of the entry.
    fn to_bytes(&self, name_offset: u32) -> [u8; ENTRY_LEN] {
        let mut entry = [0; ENTRY_LEN];
        LE::write_u64_into(&[self.offset, self.len, self.checksum], &mut entry[..24]);
        for (field, &n) in entry[24..56].as_chunks_mut::<8>().0.iter_mut().zip(&self.shape) {
            *field = (n as u64).to_le_bytes();
        }
        entry[56] = self.shape.len() as u8;
        entry[57] = self.dtype.id();
        entry[58] = self.layout as u8;
        entry[59] = self.transform as u8;
        LE::write_u16(&mut entry[60..], self.group as u16);
        LE::write_u32(&mut entry[64..], name_offset);
        LE::write_u16(&mut entry[68..], self.name.len() as u16);
        entry
    }

    /// Parses one entry; names are taken from `names`.
    fn parse(path: &Path, entry: &[u8], names: &[u8], number: usize) -> Result<Self, FormatError> {
        let field = |what, expected: &str, found: String| FormatError::Field {
            path: path.to_owned(),
            what,
            expected: expected.to_owned(),
            found,
        };
        let (name_offset, name_len) = (LE::read_u32(&entry[64..]), LE::read_u16(&entry[68..]));
        let name = (name_offset as usize)
            .checked_add(usize::from(name_len))
            .and_then(|end| names.get(name_offset as usize..end))
            .ok_or_else(|| {
                let found = format!("{name_len} bytes at {name_offset} for tensor number {number}");
                field("a tensor's name", "inside the table", found)
            })?;
        let name = str::from_utf8(name)
            .map_err(|_| field("a tensor's name", "UTF-8", name.escape_ascii().to_string()))?
            .to_owned();

        let unknown = |what, known: String, found: u64| FormatError::Unknown {
            path: path.to_owned(),
            tensor: Some(name.clone()),
            what,
            known,
            found,
        };
        let dtype = DType::from_id(entry[57]).ok_or_else(|| {
            unknown("number format", format!("0 to {}", DType::ALL.len() - 1), entry[57].into())
        })?;
        let layout = match entry[58] {
            0 => Layout::Tiles,
            1 => Layout::Plain,
            2 => Layout::Columns,
            id => return Err(unknown("layout", "0 to 2".to_owned(), id.into())),
        };
        let transform = match entry[59] {
            0 => Transform::None,
            id => return Err(unknown("transform", "0".to_owned(), id.into())),
        };
        let flags = LE::read_u16(&entry[62..]);
        if flags != 0 {
            return Err(unknown("flags", "0".to_owned(), flags.into()));
        }
        if let Some(&byte) = entry[70..ENTRY_LEN].iter().find(|&&byte| byte != 0) {
            return Err(unknown("reserved field", "0".to_owned(), byte.into()));
        }

        let invalid = |what, expected: &str, found: String| FormatError::Tensor {
            path: path.to_owned(),
            tensor: name.clone(),
            what,
            expected: expected.to_owned(),
            found,
        };
        let n_dim = usize::from(entry[56]);
        if n_dim == 0 || n_dim > MAX_DIMS {
            return Err(invalid("the number of dimensions", "1 to 4", n_dim.to_string()));
        }
        let mut dims = [0; MAX_DIMS];
        LE::read_u64_into(&entry[24..56], &mut dims);
        let (used, unused) = dims.split_at(n_dim);
        if unused.iter().any(|&n| n != 0) {
            return Err(invalid("the shape beyond its dimensions", "0", format!("{unused:?}")));
        }
        let shape =
            used.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>().map_err(
                |_| invalid("the shape", "of a size that memory can address", format!("{used:?}")),
            )?;
        Ok(Self {
            shape,
            dtype,
            layout,
            group: LE::read_u16(&entry[60..]).into(),
            transform,
            offset: LE::read_u64(entry),
            len: LE::read_u64(&entry[8..]),
            checksum: LE::read_u64(&entry[16..]),
            name,
        })
    }
}

/// The table section: head, entries, names.
pub(super) fn to_bytes(tensors: &[TensorInfo], tokenizer_checksum: u64) -> Vec<u8> {
    let names_len: usize = tensors.iter().map(|tensor| tensor.name.len()).sum();
    let mut bytes = vec![0; HEAD_LEN];
    LE::write_u32_into(
        &[tensors.len() as u32, ENTRY_LEN as u32, names_len as u32],
        &mut bytes[..12],
    );
    LE::write_u64(&mut bytes[16..], tokenizer_checksum);
    let mut name_offset = 0;
    for tensor in tensors {
        bytes.extend(tensor.to_bytes(name_offset));
        name_offset += tensor.name.len() as u32;
    }
    for tensor in tensors {
        bytes.extend(tensor.name.as_bytes());
    }
    bytes
}

/// The parsed table: tensors in file order, their index by name, the tokenizer section's checksum.
pub(super) struct Table {
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) index: HashMap<String, usize>,
    pub(super) tokenizer_checksum: u64,
}

/// Parses the table section and checks that the tensors fill the bytes from the preamble to `end`
/// exactly: in order, aligned, no holes, no overlaps, no duplicates.
pub(super) fn parse(path: &Path, bytes: &[u8], end: u64) -> Result<Table, FormatError> {
    let field = |what, expected: String, found: String| FormatError::Field {
        path: path.to_owned(),
        what,
        expected,
        found,
    };
    let Some((head, rest)) = bytes.split_at_checked(HEAD_LEN) else {
        let expected = format!("{HEAD_LEN} bytes at least");
        return Err(field("the tensor table", expected, format!("{} bytes", bytes.len())));
    };
    let [n_tensors, entry_len, names_len] = [0, 4, 8].map(|at| LE::read_u32(&head[at..]) as usize);
    if entry_len != ENTRY_LEN {
        return Err(field(
            "the length of a table entry",
            ENTRY_LEN.to_string(),
            entry_len.to_string(),
        ));
    }
    if head[12..16].iter().chain(&head[24..]).any(|&byte| byte != 0) {
        return Err(field(
            "the reserved bytes of the tensor table",
            "zero".into(),
            "other bytes".into(),
        ));
    }
    if n_tensors > MAX_TENSORS {
        return Err(field(
            "the number of tensors",
            format!("{MAX_TENSORS} at most"),
            n_tensors.to_string(),
        ));
    }
    // At most 2^20 · 128 + 2^32 bytes: compared as u64.
    let expected = n_tensors as u64 * ENTRY_LEN as u64 + names_len as u64;
    if expected != rest.len() as u64 {
        let found = format!("{} bytes", rest.len());
        return Err(field("the tensor table", format!("{expected} bytes after its head"), found));
    }
    let (entries, names) = rest.split_at(n_tensors * ENTRY_LEN);

    let mut tensors = Vec::with_capacity(n_tensors);
    let mut index = HashMap::with_capacity(n_tensors);
    let (mut offset, mut name_offset) = (PREAMBLE_LEN, 0);
    for (number, entry) in entries.chunks_exact(ENTRY_LEN).enumerate() {
        let tensor = TensorInfo::parse(path, entry, names, number)?;
        let invalid = |what, expected: String, found: String| FormatError::Tensor {
            path: path.to_owned(),
            tensor: tensor.name.clone(),
            what,
            expected,
            found,
        };
        if LE::read_u32(&entry[64..]) as usize != name_offset {
            let found = LE::read_u32(&entry[64..]).to_string();
            return Err(invalid("the offset of the name", name_offset.to_string(), found));
        }
        name_offset += tensor.name.len();
        let len = tensor.checked_len(path)?;
        if tensor.len != len {
            return Err(invalid("the length", format!("{len} bytes"), tensor.len.to_string()));
        }
        if tensor.offset != offset {
            return Err(invalid("the offset", offset.to_string(), tensor.offset.to_string()));
        }
        let next = offset.checked_add(len).and_then(align).filter(|&next| next <= end);
        offset = next.ok_or_else(|| {
            let expected = format!("{} bytes at most", end.saturating_sub(offset));
            invalid("the length", expected, len.to_string())
        })?;
        if index.insert(tensor.name.clone(), number).is_some() {
            return Err(invalid(
                "the name",
                "unique".to_owned(),
                "a second tensor of that name".to_owned(),
            ));
        }
        tensors.push(tensor);
    }
    if offset != end {
        return Err(field("the end of the tensors", end.to_string(), offset.to_string()));
    }
    if name_offset != names.len() {
        return Err(field(
            "the length of the names",
            name_offset.to_string(),
            names.len().to_string(),
        ));
    }
    Ok(Table { tensors, index, tokenizer_checksum: LE::read_u64(&head[16..]) })
}
