//! Weights quantized by others: every code and scale, every place of a scale, shapes that do not
//! fit. The files are written here; `compressed-tensors` and torch have the same numbers.

use std::fs;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use super::super::{Checkpoint, SourceDType};
use super::survives_every_cut_and_flip;

/// Name, number format, shape, bytes.
type Stored<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

fn write(tensors: &[Stored<'_>], config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    if !config.is_empty() {
        fs::write(folder.path().join("config.json"), config).unwrap();
    }
    folder
}

fn open(tensors: &[Stored<'_>]) -> Result<Checkpoint, String> {
    Checkpoint::open(write(tensors, "").path()).map_err(|e| e.to_string())
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// `n` bytes that differ.
fn counted(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 37 + i / 256 * 11) as u8).collect()
}

const E2M1: [f32; 16] =
    [0., 0.5, 1., 1.5, 2., 3., 4., 6., -0., -0.5, -1., -1.5, -2., -3., -4., -6.];

/// The E2M1 value of element `i` of packed codes.
fn e2m1(bytes: &[u8], i: usize) -> f32 {
    E2M1[usize::from(bytes[i / 2] >> (i % 2 * 4) & 15)]
}

fn e4m3(code: u8) -> f32 {
    crate::quant::fp8::e4m3_to_f32(code)
}

#[track_caller]
fn same(found: &[f32], expected: impl Fn(usize) -> f32) {
    for (i, x) in found.iter().enumerate() {
        let y = expected(i);
        assert!(x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()), "{i}: {x} {y}");
    }
}

/// All codes under all scales; 0xff is not a number.
#[test]
fn mxfp4() {
    let (codes, scales): (Vec<u8>, Vec<u8>) = (counted(256 * 16), (0..=255).collect());
    let value = |i: usize| match i / 32 {
        255 => f32::NAN,
        scale => (f64::from(e2m1(&codes, i)) * 2f64.powi(scale as i32 - 127)) as f32,
    };
    let packed: [Stored<'_>; 3] = [
        ("a.weight_packed", Dtype::U8, &[64, 64], codes.clone()),
        ("a.weight_scale", Dtype::U8, &[64, 4], scales.clone()),
        ("b.weight", Dtype::F32, &[1], f32s(&[7.0])),
    ];
    let checkpoint = open(&packed).unwrap();
    let tensor = checkpoint.get("a.weight").unwrap();
    assert_eq!((&tensor.shape[..], tensor.dtype), (&[64, 128][..], SourceDType::F4));
    assert_eq!(checkpoint.tensors().len(), 2);
    assert!(checkpoint.notes()[0].contains("F4"), "{:?}", checkpoint.notes());
    same(&checkpoint.read("a.weight").unwrap(), value);
    // gpt-oss: two experts of 32 rows.
    let blocks: [Stored<'_>; 2] = [
        ("a.down_proj_blocks", Dtype::U8, &[2, 32, 4, 16], codes.clone()),
        ("a.down_proj_scales", Dtype::U8, &[2, 32, 4], scales.clone()),
    ];
    let checkpoint = open(&blocks).unwrap();
    assert_eq!(checkpoint.tensors()[0].shape, [2, 32, 128]);
    same(&checkpoint.read("a.down_proj").unwrap(), value);
    // Any rows, any lines: parts of rows of experts.
    let mut part = Vec::new();
    checkpoint.read_rows("a.down_proj", 1..2, &mut part).unwrap();
    same(&part, |i| value(32 * 128 + i));
    part.clear();
    checkpoint.read_lines("a.down_proj", 31..34, &mut part).unwrap();
    same(&part, |i| value(31 * 128 + i));
}

#[test]
fn nvfp4_of_both_writers() {
    let (codes, scales) = (counted(256 * 8), (0..=255).collect::<Vec<u8>>());
    let global = 0.37f32;
    let names = [
        ["a.weight_packed", "a.weight_global_scale", "a.input_global_scale"],
        ["a.weight", "a.weight_scale_2", "a.input_scale"],
    ];
    for (over, [packed, whole, of_inputs]) in [true, false].into_iter().zip(names) {
        let tensors: [Stored<'_>; 4] = [
            (packed, Dtype::U8, &[32, 64], codes.clone()),
            ("a.weight_scale", Dtype::F8_E4M3, &[32, 8], scales.clone()),
            (whole, Dtype::F32, &[1], f32s(&[global])),
            (of_inputs, Dtype::F32, &[], f32s(&[3.0])),
        ];
        let checkpoint = open(&tensors).unwrap();
        assert_eq!(checkpoint.tensors().len(), 1, "nothing of the scales is left");
        assert_eq!(checkpoint.tensors()[0].shape, [32, 128]);
        same(&checkpoint.read("a.weight").unwrap(), |i| {
            let scaled = e2m1(&codes, i) * e4m3(scales[i / 16]);
            if over { scaled / global } else { scaled * global }
        });
    }
}

/// FP8 with every form of scales.
#[test]
fn fp8_by_tensor_row_group_and_block() {
    let (rows, cols) = (6, 8);
    let codes = counted(rows * cols);
    let scales: Vec<f32> = (0..rows * cols).map(|i| 0.3 + i as f32 * 0.11).collect();
    let block = r#"{"quantization_config": {"weight_block_size": [4, 3]}}"#;
    let structure = r#"{"quantization_config": {"config_groups": {"group_0":
        {"weights": {"block_structure": [4, 3]}}}}}"#;
    let of =
        |end: &'static str, shape: &[usize], config: &str, index: fn(usize, usize) -> usize| {
            let n = shape.iter().product();
            let tensors: [Stored<'_>; 2] = [
                ("a.weight", Dtype::F8_E4M3, &[rows, cols], codes.clone()),
                (end, Dtype::F32, shape, f32s(&scales[..n])),
            ];
            let checkpoint = Checkpoint::open(write(&tensors, config).path()).unwrap();
            assert_eq!(checkpoint.tensors().len(), 1);
            let value = |i: usize| e4m3(codes[i]) * scales[index(i / cols, i % cols)];
            same(&checkpoint.read("a.weight").unwrap(), value);
            let mut part = Vec::new();
            checkpoint.read_rows("a.weight", 3..5, &mut part).unwrap();
            same(&part, |i| value(3 * cols + i));
        };
    let scale = "a.weight_scale";
    of(scale, &[], "", |_, _| 0);
    of(scale, &[1], "", |_, _| 0);
    of(scale, &[1, 1], "", |_, _| 0);
    of(scale, &[6], "", |row, _| row);
    of(scale, &[6, 1], "", |row, _| row);
    of(scale, &[6, 2], "", |row, col| row * 2 + col / 4);
    of("a.weight_scale_inv", &[1, 1], "", |_, _| 0);
    of("a.weight_scale_inv", &[2, 3], block, |row, col| row / 4 * 3 + col / 3);
    of(scale, &[2, 3], structure, |row, col| row / 4 * 3 + col / 3);
}

#[test]
fn whole_numbers() {
    let (rows, cols) = (9, 16);
    let codes = counted(rows * cols);
    let (four, zeros) = (counted(rows * cols / 2), counted(2 * 2 * 4));
    let scales: Vec<f32> = (0..rows * 2).map(|i| 0.01 + i as f32 * 0.003).collect();
    let shape: Vec<u8> = [9i64, 16].iter().flat_map(|n| n.to_le_bytes()).collect();
    let plain: [Stored<'_>; 6] = [
        ("a.weight", Dtype::I8, &[9, 16], codes.clone()),
        ("a.weight_scale", Dtype::F32, &[9, 2], f32s(&scales)),
        ("a.weight_zero_point", Dtype::I8, &[9, 2], counted(18)),
        ("b.weight_packed", Dtype::I32, &[9, 4], codes.clone()),
        ("b.weight_scale", Dtype::F32, &[9, 2], f32s(&scales)),
        ("b.weight_shape", Dtype::I64, &[2], shape.clone()),
    ];
    let checkpoint = open(&plain).unwrap();
    assert_eq!(checkpoint.tensors().len(), 2);
    let scale = |i: usize| scales[i / 8];
    let signed = |i: usize| f32::from(codes[i] as i8) - f32::from(counted(18)[i / 8] as i8);
    same(&checkpoint.read("a.weight").unwrap(), |i| signed(i) * scale(i));
    let packed = |i: usize| (f32::from(codes[i]) - 128.0) * scale(i);
    same(&checkpoint.read("b.weight").unwrap(), packed);
    let tensors: [Stored<'_>; 4] = [
        ("c.weight_packed", Dtype::I32, &[9, 2], four.clone()),
        ("c.weight_scale", Dtype::F32, &[9, 2], f32s(&scales)),
        ("c.weight_shape", Dtype::I64, &[2], shape.clone()),
        ("c.weight_zero_point", Dtype::I32, &[2, 2], zeros.clone()),
    ];
    let nibble = |bytes: &[u8], i: usize| f32::from(bytes[i / 2] >> (i % 2 * 4) & 15);
    same(&open(&tensors[..3]).unwrap().read("c.weight").unwrap(), |i| {
        (nibble(&four, i) - 8.0) * scale(i)
    });
    // The zero point of a row is in the word of its eight, in the group's column.
    same(&open(&tensors).unwrap().read("c.weight").unwrap(), |i| {
        let (row, group) = (i / 16, i % 16 / 8);
        let word = row / 8 * 2 + group;
        (nibble(&four, i) - nibble(&zeros, word * 8 + row % 8)) * scale(i)
    });
}

/// Shapes that do not fit are errors that name the tensor; what is not known stays as it is.
#[test]
fn misfits() {
    let codes: Stored<'_> = ("a.weight_packed", Dtype::U8, &[2, 32], counted(64));
    for (dtype, shape) in [
        (Dtype::U8, &[2, 1][..]),
        (Dtype::U8, &[1, 2]),
        (Dtype::U8, &[4]),
        (Dtype::U8, &[0]),
        (Dtype::F8_E4M3, &[2, 2]),
        (Dtype::F8_E4M3, &[]),
    ] {
        let bytes = counted(shape.iter().product());
        let message = open(&[codes.clone(), ("a.weight_scale", dtype, shape, bytes)]).unwrap_err();
        assert!(message.contains("a.weight_scale") && message.contains("fits"), "{message}");
    }
    let scale: Stored<'_> = ("a.weight_scale", Dtype::F8_E4M3, &[2, 4], counted(8));
    let global: Stored<'_> = ("a.weight_global_scale", Dtype::F32, &[2], f32s(&[1.0, 2.0]));
    let message = open(&[codes.clone(), scale, global]).unwrap_err();
    assert!(message.contains("a.weight_global_scale"), "{message}");
    for shape in [[2i64, 63], [-2, 64], [i64::MAX, 8], [2, i64::MAX], [1, 64], [2, 256]] {
        let bytes = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        let tensors: [Stored<'_>; 3] = [
            ("a.weight_packed", Dtype::I32, &[2, 8], counted(64)),
            ("a.weight_scale", Dtype::F32, &[2, 1], f32s(&[1.0, 2.0])),
            ("a.weight_shape", Dtype::I64, &[2], bytes),
        ];
        let message = open(&tensors).unwrap_err();
        assert!(message.contains("a.weight_shape"), "{message}");
    }
    let fp8: Stored<'_> = ("a.weight", Dtype::F8_E4M3, &[6, 8], counted(48));
    for shape in [&[5][..], &[6, 3], &[2, 2], &[1, 1, 2], &[0, 8]] {
        let bytes = f32s(&vec![1.0; shape.iter().product()]);
        let tensors = [fp8.clone(), ("a.weight_scale", Dtype::F32, shape, bytes)];
        assert!(open(&tensors).unwrap_err().contains("a.weight_scale"), "{shape:?}");
    }
    // Rotated weights, and codes in an order of their own, are none of these.
    let mxfp4 = [codes, ("a.weight_scale", Dtype::U8, &[2, 2], counted(4))];
    let rotated = r#"{"quantization_config": {"transform_config": {"config_groups": {"u": {}}}}}"#;
    let checkpoint = Checkpoint::open(write(&mxfp4, rotated).path()).unwrap();
    assert!(checkpoint.get("a.weight").is_none() && checkpoint.tensors().len() == 2);
    assert!(open(&mxfp4).unwrap().get("a.weight").is_some());
}

#[test]
fn cut_and_flipped() {
    let tensors: [Stored<'_>; 7] = [
        ("a.weight_packed", Dtype::U8, &[2, 16], vec![0; 32]),
        ("a.weight_scale", Dtype::U8, &[2, 1], vec![127; 2]),
        ("b.weight_packed", Dtype::I32, &[2, 1], vec![0; 8]),
        ("b.weight_scale", Dtype::F32, &[2, 1], f32s(&[1.0, 1.0])),
        (
            "b.weight_shape",
            Dtype::I64,
            &[2],
            [2i64, 8].iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
        ("b.weight_zero_point", Dtype::I32, &[1, 1], vec![0; 4]),
        ("c.weight_scale_inv", Dtype::F32, &[1, 1], f32s(&[1.0])),
    ];
    let folder = write(&tensors, "");
    survives_every_cut_and_flip(&fs::read(folder.path().join("model.safetensors")).unwrap());
}
