//! Every matrix kernel of every instruction set against `scalar.rs`, and every product of many
//! columns against one column.
//!
//! Weights go through the codec (`brooklet_formats::quant`), or are random codes that no codec
//! would choose; activations are made of any f32 ([`Inputs`]). Results are compared bit for
//! bit, except where `portable.rs` states a tolerance.

use brooklet_formats::DType;
use brooklet_formats::quant::{self, TILE_ROWS, TileLayout};

use super::{Output, Tiles, form, matmul};
use crate::kernels::forms::{Activations, Form, GROUP, Packed};
use crate::kernels::isa::Isa;
use crate::kernels::lanes::Lanes;
use crate::kernels::units::{Fp8Quad, Int8Group, LmulQuad, Unit};

mod columns;

const ROWS: usize = 40;
const WIDTHS: [usize; 6] = [7, 33, 100, 128, 300, 1000];
const COLUMNS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 70];

/// A small generator of its own, so that failures repeat.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Uniform in −1..1.
    fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Roughly normal, standard deviation 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() / 2.0
    }
}

/// Bytes that start on a 64-byte boundary, as a mapped file's tensors do.
struct Aligned {
    vectors: Vec<Vector>,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Vector([u8; 64]);

impl Aligned {
    fn new(len: usize) -> Self {
        Aligned { vectors: vec![Vector([0; 64]); len / 64] }
    }

    fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.vectors)
    }
}

/// The weights of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weights {
    /// Normal, as trained matrices are.
    Normal,
    /// Rows and groups of very different size, many of them zero, many values at a group's largest.
    Extreme,
    /// Any bytes that are no NaN or infinity: every code with every scale.
    Raw,
}

fn layout(dtype: DType, cols: usize, group: usize) -> TileLayout {
    TileLayout::new(dtype, ROWS, cols, group).unwrap()
}

fn matrix(layout: &TileLayout, weights: Weights, random: &mut Random) -> Aligned {
    let mut matrix = Aligned::new(layout.total_bytes());
    let mut rows = vec![0.0; layout.tile_floats()];
    for t in 0..layout.n_tiles() {
        if weights == Weights::Raw {
            let mut encoded = vec![0; layout.encoded_bytes()];
            raw(layout, &mut encoded, random);
            quant::place_tile(layout, &encoded, t, matrix.bytes());
            // Any values of codes, with bits above that do not count.
            if layout.dtype == DType::Int4 {
                let table = layout.n_tiles() * layout.tile_bytes();
                matrix.bytes()[table..][..16].fill_with(|| random.bits() as u8);
            }
            continue;
        }
        for (r, row) in rows.chunks_exact_mut(layout.padded_cols()).enumerate() {
            row.fill(0.0);
            if t * TILE_ROWS + r >= layout.rows {
                continue;
            }
            for group in row[..layout.cols].chunks_mut(layout.group.max(32)) {
                let size: f32 = match (weights, random.below(4)) {
                    (Weights::Normal, _) => 0.02,
                    (_, 0) => 0.0,
                    (_, 1) => 1e-6,
                    (_, 2) => 300.0,
                    _ => 1.0,
                };
                for w in group {
                    *w = match random.below(3) {
                        0 if weights == Weights::Extreme => size.copysign(random.uniform()),
                        _ => size * random.normal(),
                    };
                }
            }
        }
        let mut encoded = vec![0; layout.encoded_bytes()];
        quant::encode_tile(layout, &rows, &mut encoded).unwrap();
        quant::place_tile(layout, &encoded, t, matrix.bytes());
    }
    matrix
}

/// Fills a tile with any codes and scales that are finite.
fn raw(layout: &TileLayout, tile: &mut [u8], random: &mut Random) {
    tile.iter_mut().for_each(|byte| *byte = random.bits() as u8);
    let finite_f16 = |bytes: &mut [u8]| {
        if bytes[1] & 0x7c == 0x7c {
            bytes[1] ^= 0x40;
        }
    };
    match layout.dtype {
        DType::F32 => {
            for w in tile.as_chunks_mut::<4>().0 {
                // Exponents −63..=64, so that sums stay finite, and some subnormals.
                w[3] = (w[3] & 0x80) | if w[3] % 16 == 0 { 0 } else { 0x20 | (w[3] & 0x1f) };
                w[2] &= if w[3] & 0x7f == 0 { 0x7f } else { 0xff };
            }
        }
        DType::Bf16 => {
            for w in tile.as_chunks_mut::<2>().0 {
                // Exponents −63..=64 and zeros: smaller numbers may count as zero.
                w[1] = (w[1] & 0x80) | 0x20 | (w[1] & 0x1f);
                *w = if w[0] % 16 == 0 { [0, w[1] & 0x80] } else { *w };
            }
        }
        DType::F16 => tile.as_chunks_mut::<2>().0.iter_mut().for_each(|w| finite_f16(w)),
        dtype if dtype.has_steps() => {
            let steps = &mut tile[layout.tile_bytes()..][..2 * TILE_ROWS];
            steps.as_chunks_mut::<2>().0.iter_mut().for_each(|step| finite_f16(step));
        }
        _ => {
            for pair in tile.chunks_exact_mut(layout.pair_bytes()) {
                let (codes, scales) = pair.split_at_mut(2 * layout.group_bytes());
                scales.as_chunks_mut::<2>().0.iter_mut().for_each(|scale| finite_f16(scale));
                for code in codes {
                    match layout.dtype {
                        DType::Fp8E4m3 | DType::Lmul if *code & 0x7f == 0x7f => *code ^= 1,
                        DType::Fp8E5m2 if *code & 0x7c == 0x7c => *code ^= 0x40,
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Activations in the form that some matrix reads, padded with zeros.
enum Inputs {
    Int8(Vec<Int8Group>),
    F32(Vec<f32>),
    Bf16(Vec<half::bf16>),
    Fp8(Vec<Fp8Quad>),
    Lmul(Vec<LmulQuad>),
}

impl Inputs {
    fn new(dtype: DType, columns: &[Vec<f32>]) -> Self {
        /// Units where `Packed::new(_, columns.len(), stride)` looks for them.
        fn pack<U: Unit>(columns: &[Vec<f32>]) -> Vec<U> {
            let units = columns[0].len().next_multiple_of(256) / U::VALUES;
            let mut packed = vec![U::ZERO; units * columns.len()];
            for (c, column) in columns.iter().enumerate() {
                for (i, values) in column.chunks(U::VALUES).enumerate() {
                    let mut whole = vec![0.0; U::VALUES];
                    whole[..values.len()].copy_from_slice(values);
                    let at = if U::ADJACENT { i * columns.len() + c } else { c * units + i };
                    U::pack::<Lanes>(&whole, &mut packed[at..=at]);
                }
            }
            packed
        }
        match form(dtype) {
            Form::Int8 => Inputs::Int8(pack(columns)),
            Form::F32 => Inputs::F32(pack(columns)),
            Form::Bf16 => Inputs::Bf16(pack(columns)),
            Form::Fp8 => Inputs::Fp8(pack(columns)),
            Form::Lmul => Inputs::Lmul(pack(columns)),
        }
    }

    /// All `columns` columns.
    fn view(&self, columns: usize) -> Activations<'_> {
        fn view<U: Unit>(units: &[U], columns: usize) -> Activations<'_> {
            let stride = if U::ADJACENT { columns } else { units.len() / columns };
            U::activations(Packed::new(units, columns, stride))
        }
        match self {
            Inputs::Int8(units) => view(units, columns),
            Inputs::F32(units) => view(units, columns),
            Inputs::Bf16(units) => view(units, columns),
            Inputs::Fp8(units) => view(units, columns),
            Inputs::Lmul(units) => view(units, columns),
        }
    }
}

/// `columns` columns of activations, of very different size, with zeros among them.
fn activations(k: usize, columns: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let column = |c: usize| {
        let size = [1.0, 1e-3, 1e3, 1e-10, 1e10][c % 5];
        let mut value = || {
            let outlier = if random.below(50) == 0 { 30.0 } else { 1.0 };
            if random.below(3) == 0 { 0.0 } else { size * outlier * random.normal() }
        };
        (0..k).map(|_| value()).collect()
    };
    (0..columns).map(column).collect()
}

/// Activation k of column c.
fn value(x: Activations<'_>, c: usize, k: usize) -> f32 {
    match x {
        Activations::Int8(x) => {
            let group = x.unit(c, k / GROUP);
            f32::from(group.codes[k % GROUP]) * group.scale
        }
        Activations::F32(x) => *x.unit(c, k),
        Activations::Bf16(x) => x.unit(c, k).to_f32(),
        Activations::Fp8(x) => x.unit(c, k / 4).value(k % 4) / Fp8Quad::FACTOR,
        Activations::Lmul(x) => x.unit(c, k / 4).value(k % 4),
    }
}

/// `W x` for the first `columns` columns, each `padded_rows` long.
fn product(
    isa: Isa,
    layout: &TileLayout,
    matrix: &mut Aligned,
    x: Activations<'_>,
    columns: usize,
) -> Vec<f32> {
    let stride = layout.padded_rows();
    let mut y = vec![f32::NAN; stride * columns];
    matmul(isa, Tiles::new(layout, matrix.bytes()), x, Output::new(&mut y, stride, columns));
    y
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|isa| *isa != Isa::scalar())
}

/// Compares every instruction set with the definition on one kind of weights.
fn against_scalar(dtype: DType, weights: Weights) {
    let mut random = Random(dtype.id().into());
    for &group in dtype.groups() {
        for cols in WIDTHS {
            let layout = layout(dtype, cols, group);
            let mut matrix = matrix(&layout, weights, &mut random);
            let most = COLUMNS[COLUMNS.len() - 1];
            let x = Inputs::new(dtype, &activations(cols, most, &mut random));
            let x = x.view(most);
            let expected = product(Isa::scalar(), &layout, &mut matrix, x, most);
            assert!(expected.iter().all(|y| y.is_finite()));
            for isa in isas() {
                let widest = product(isa, &layout, &mut matrix, x, most);
                if super::bit_exact(isa, dtype) {
                    let wrong =
                        expected.iter().zip(&widest).position(|(a, b)| a.to_bits() != b.to_bits());
                    assert_eq!(
                        wrong,
                        None,
                        "{dtype} {weights:?} group {group}, {cols} columns on {}",
                        isa.name()
                    );
                } else {
                    close(&layout, &mut matrix, x, &expected, &widest);
                }
                for columns in COLUMNS {
                    let narrow = product(isa, &layout, &mut matrix, x, columns);
                    assert_eq!(
                        bits(&narrow),
                        bits(&widest[..narrow.len()]),
                        "{dtype} group {group}, {cols} columns on {}: {columns} columns of {most}",
                        isa.name()
                    );
                }
            }
        }
    }
}

/// `abs(y − expected) ≤ PORTABLE_TOLERANCE · Σ abs(w x)` for every result.
fn close(
    layout: &TileLayout,
    matrix: &mut Aligned,
    x: Activations<'_>,
    expected: &[f32],
    y: &[f32],
) {
    let mut rows = vec![0.0; layout.tile_floats()];
    for t in 0..layout.n_tiles() {
        quant::decode_tile(layout, matrix.bytes(), t, &mut rows);
        for (r, row) in rows.chunks_exact(layout.padded_cols()).enumerate() {
            for c in 0..expected.len() / layout.padded_rows() {
                let size: f32 =
                    row.iter().enumerate().map(|(k, w)| (w * value(x, c, k)).abs()).sum();
                let at = c * layout.padded_rows() + t * TILE_ROWS + r;
                let error = (y[at] - expected[at]).abs();
                assert!(
                    error <= super::portable::TOLERANCE * size,
                    "{} {error} of {size}",
                    layout.dtype
                );
            }
        }
    }
}

macro_rules! formats {
    ($($name:ident: $dtype:ident,)*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn normal_weights() {
                against_scalar(DType::$dtype, Weights::Normal);
            }
            #[test]
            fn extreme_weights() {
                against_scalar(DType::$dtype, Weights::Extreme);
            }
            #[test]
            fn every_code() {
                against_scalar(DType::$dtype, Weights::Raw);
            }
        }
    )*};
}
formats! {
    int4: Int4, int5: Int5, int6: Int6, int4_v1: Int4V1, int8: Int8,
    fp8_e4m3: Fp8E4m3, fp8_e5m2: Fp8E5m2, lmul: Lmul,
    f16: F16, bf16: Bf16, f32: F32,
}

/// AVX-512 without `vdpbf16ps` gives the bits that it gives with it.
#[test]
#[cfg(target_arch = "x86_64")]
fn avx512_needs_no_extension() {
    use super::codes::Codes;
    use super::columns::{ColumnProduct, InColumns};
    use super::float::{Float, float};
    use super::integer::integer;
    use super::live::few;
    use super::put::{Fetch, Put};
    use super::{Kernels, Product, on_registers};
    use crate::kernels::simd::{Simd, avx512::Avx512, simd};

    /// The same, with `vdpbf16ps` and `vpermb` left aside.
    #[derive(Clone, Copy)]
    struct Without(Avx512<false>);
    impl Kernels for Without {
        fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>) {
            simd!(self.0, integer::<_, K, 12>(self.0, product));
        }
        fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>) {
            simd!(self.0, float::<_, E, N, 8>(self.0, product));
        }
        fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>) {
            simd!(self.0, few::<_, K>(self.0, product));
        }
        fn put_together<K: InColumns>(self, put: Put<'_>) {
            self.0.put_together::<K>(put);
        }
        fn fetch(self, next: &Fetch<'_>, i: usize, n: usize) {
            self.0.fetch(next, i, n);
        }
    }

    let Some(avx512) = Avx512::detect() else {
        return;
    };
    for dtype in [DType::Int4, DType::Bf16, DType::Fp8E4m3, DType::Fp8E5m2, DType::Lmul] {
        let mut random = Random(5);
        for weights in [Weights::Normal, Weights::Extreme, Weights::Raw] {
            let layout = layout(dtype, 300, dtype.default_group());
            let mut matrix = matrix(&layout, weights, &mut random);
            let x = Inputs::new(dtype, &activations(300, 17, &mut random));
            let isa = Isa::by_name("avx512").unwrap();
            let expected = product(isa, &layout, &mut matrix, x.view(17), 17);
            let mut y = vec![f32::NAN; layout.padded_rows() * 17];
            let output = Output::new(&mut y, layout.padded_rows(), 17);
            on_registers(Without(avx512), Tiles::new(&layout, matrix.bytes()), x.view(17), output);
            assert_eq!(bits(&y), bits(&expected), "{dtype} {weights:?}");
        }
    }
}

/// The definition itself agrees with decoding the matrix and multiplying in f64, within the
/// rounding of activations.
#[test]
fn the_definition_multiplies() {
    for dtype in DType::ALL {
        let mut random = Random(99);
        let layout = layout(dtype, 300, dtype.default_group());
        let mut matrix = matrix(&layout, Weights::Normal, &mut random);
        let column: Vec<f32> = (0..300).map(|_| random.normal()).collect();
        let x = Inputs::new(dtype, std::slice::from_ref(&column));
        let y = product(Isa::scalar(), &layout, &mut matrix, x.view(1), 1);
        let mut row = vec![0.0; 300];
        for (r, y) in y[..ROWS].iter().enumerate() {
            quant::decode_row(&layout, matrix.bytes(), r, &mut row);
            let terms = row.iter().zip(&column).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) =
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let tolerance = match dtype {
                _ if form(dtype) == Form::Int8 => 0.01,
                DType::Lmul => 0.08,
                DType::F32 | DType::F16 => 1e-6,
                _ => 0.004,
            };
            let error = (f64::from(*y) - sum).abs();
            assert!(error <= tolerance * size, "{dtype} row {r}: {y} instead of {sum}");
        }
    }
}

/// A part that starts at a later tile multiplies those rows, and writes no others.
#[test]
fn parts_of_a_matrix_are_independent() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let mut random = Random(7);
            let layout = layout(dtype, 100, dtype.default_group());
            let mut matrix = matrix(&layout, Weights::Normal, &mut random);
            let x = Inputs::new(dtype, &activations(100, 3, &mut random));
            let whole = product(isa, &layout, &mut matrix, x.view(3), 3);
            let (stride, start) = (layout.padded_rows(), 2 * TILE_ROWS);
            let mut y = vec![f32::NAN; stride * 3];
            // SAFETY: one tile in each of three columns of `y`, from row `start` on.
            let output = unsafe { Output::from_raw(y[start..].as_mut_ptr(), stride, 3, 1) };
            matmul(isa, Tiles::new(&layout, matrix.bytes()).part(2, 1), x.view(3), output);
            for (y, whole) in y.chunks_exact(stride).zip(whole.chunks_exact(stride)) {
                assert!(y[..start].iter().all(|v| v.is_nan()));
                assert_eq!(bits(&y[start..]), bits(&whole[start..]));
            }
        }
    }
}

/// Codes, scales and results of a matrix small enough to multiply by hand: W = [[1, −2, 0, …]], x =
/// (3, 4).
#[test]
fn a_product_by_hand() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let layout = TileLayout::new(dtype, 1, 2, dtype.default_group()).unwrap();
            let mut rows = vec![0.0; layout.tile_floats()];
            (rows[0], rows[1]) = (1.0, -2.0);
            let mut matrix = Aligned::new(layout.total_bytes());
            let mut encoded = vec![0; layout.encoded_bytes()];
            quant::encode_tile(&layout, &rows, &mut encoded).unwrap();
            quant::place_tile(&layout, &encoded, 0, matrix.bytes());
            let x = Inputs::new(dtype, &[vec![3.0, 4.0]]);
            let y = product(isa, &layout, &mut matrix, x.view(1), 1);
            let exact = match dtype {
                // L-Mul(1, 3) − L-Mul(2, 4) on scaled codes: at most 1/8 off per product.
                DType::Lmul => 11.0 / 8.0,
                // No two values of the table are 1 to −2.
                DType::Int4 => 0.2,
                _ if form(dtype) == Form::Int8 => 0.05,
                DType::Fp8E4m3 | DType::Fp8E5m2 => 0.2,
                _ => 0.0,
            };
            assert!((y[0] + 5.0).abs() <= exact, "{dtype} on {}: {}", isa.name(), y[0]);
            assert!(y[1..].iter().all(|v| *v == 0.0));
        }
    }
}
