//! Models that other programs have quantized convert as the models of the numbers that they stand
//! for.

#![cfg(feature = "convert")]

mod support;

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use support::{Tensors, converted, folder, mamba, put};

const CONFIG: &str = r#"{"model_type": "mamba"}"#;

/// Rewrites the model in `folder` with `tensors` and others that are no f32.
fn rewrite(folder: &Path, tensors: &Tensors, others: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let plain = tensors.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        (&**name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    let others = others.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    let path = folder.join("model.safetensors");
    serialize_to_file(plain.chain(others), None, &path).expect("a file");
}

#[test]
fn fp8_with_scales_of_rows_is_the_model_of_its_numbers() {
    let name = "backbone.layers.0.mixer.in_proj.weight";
    // E4M3: 1.0, 1.5, −2.0, 0.
    let (codes, values) = ([0x38, 0x3c, 0xc0, 0x00], [1.0, 1.5, -2.0, 0.0]);
    let scale = |row: usize| 0.25 + row as f32;
    let mut plain = mamba();
    put(&mut plain, name, &[16, 4], |i| values[i % 4] * scale(i / 4));
    let expected = folder(&plain, CONFIG);
    let (_, fingerprint, _) = converted(expected.path(), |_| ()).expect("a model");

    let folder = folder(&mamba(), CONFIG);
    let mut rest = plain.clone();
    rest.remove(name);
    put(&mut rest, &format!("{name}_scale"), &[16, 1], scale);
    put(&mut rest, "backbone.layers.0.mixer.in_proj.input_scale", &[1], |_| 0.5);
    let stored = |codes: Vec<u8>| [(name, Dtype::F8_E4M3, vec![16, 4], codes)];
    rewrite(folder.path(), &rest, &stored(codes.repeat(16)));
    let (summary, own, _) = converted(folder.path(), |_| ()).expect("a model");
    assert_eq!(own, fingerprint);
    assert!(summary.notes.iter().any(|note| note.contains("F8_E4M3")), "{:?}", summary.notes);

    // NaN is refused by name, as in every checkpoint.
    let mut broken = codes.repeat(16);
    broken[17] = 0x7f;
    rewrite(folder.path(), &rest, &stored(broken));
    let message = converted(folder.path(), |_| ()).expect_err("refused");
    assert!(message.contains("in_proj") && message.contains("row 4, column 1 is NaN"), "{message}");

    // Without its scales the matrix would be another one.
    rest.remove(&format!("{name}_scale"));
    put(&mut rest, "backbone.layers.0.mixer.out_proj.weight_scale", &[4, 1], |_| 1.0);
    rewrite(folder.path(), &rest, &stored(codes.repeat(16)));
    let message = converted(folder.path(), |_| ()).expect_err("refused");
    assert!(message.contains("quantized by"), "{message}");
}
