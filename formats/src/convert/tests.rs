//! The language of the tables, on an architecture that uses all of it.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;

use super::place::Place;
use super::plan::{Plan, Storage, plan, recognise};
use super::table::Kind::{Flag, Inner, Limits, Number, OneOf, Size};
use super::table::Shape::{Adapter, Blocked, Channels, Embedding, Head, Matrix, PerHead, Vector};
use super::table::{Architecture, Layers, Layout, Param, Role, Row};
use crate::checkpoint::Checkpoint;

static TOY: Architecture = Architecture {
    name: "toy",
    title: "Toy-1",
    model_types: &[],
    layouts: &[Layout::new(&["l.0.m"], "l.", 0), Layout::new(&["blk.0.m"], "blk.", 1)],
    hyper: HYPER,
    checks: &["d % d_head = 0"],
    trunk: &[
        Row("embed", Embedding("n_vocab", "d"), &["emb | layer_norm(emb2, w, b, {eps})"]),
        Row("head", Head("n_vocab", "d"), &["head?"]),
    ],
    layers: &[(Layers::All, LAYER), (Layers::AfterFirst, LATER), (Layers::If("twice"), TWICE)],
    pairs: &[],
    ignored: &["l.0.unused"],
};

const HYPER: &[Param] = &[
    Param("activation", "the activation", OneOf(&["silu"]), &["config.act?"]),
    Param("n_layer", "the number of layers", Size, &["config.n_layer | layers()"]),
    Param("n_vocab", "rows", Size, &[]),
    Param("d", "the width", Size, &[]),
    Param("d_ff", "the inner width", Size, &["first(l) // 2 | 7"]),
    Param("d_head", "the head size", Size, &["config.ssm_cfg.d | 2 if config.kind=two | 1"]),
    Param("eps", "the epsilon", Number, &["config.eps | 1e-5"]),
    Param("every", "layers between halvings", Inner, &["config.every | 0"]),
    Param("twice", "whether there is more", Flag, &["has(more, more2)"]),
    Param("x", "the limits", Limits, &["config.limits?"]),
];

const LAYER: &[Row] = &[
    Row("whole", Matrix("d", "3"), &["m"]),
    Row("turned", Matrix("3", "d"), &["m^T", "m"]),
    Row("lower", Matrix("d // 2", "3"), &["m[1/2]"]),
    Row("scaled", Matrix("d", "3"), &["m * {2^(layer // every)}"]),
    Row("column", Vector("d"), &["m^T[2/3]"]),
    Row("second", Adapter("2", "3"), &["t[1/2]"]),
    Row("second turned", Adapter("3", "2"), &["t[1/2]^T"]),
    Row("stacked", Matrix("2*d", "3"), &["m; 0.5*m"]),
    Row("heads", Matrix("d", "3"), &["fused[1 of 1, 2, 1 each d // 2]"]),
    Row(
        "rest",
        Matrix("d", "3"),
        &["fused[2 of 1, 2, 1 each d // 2]; fused[0 of 1, 2, 1 each d // 2]"],
    ),
    Row("diagonal", Matrix("2", "6"), &["diagonal(t, {0}, {1})"]),
    Row("shifted", Matrix("d", "3"), &["shifted(m, v, v)"]),
    Row("norm", Vector("3"), &["1 + v"]),
    Row("decay", Vector("3"), &["exp(-exp(v))"]),
    Row("minus", Vector("3"), &["-exp(v)"]),
    Row("sum", Vector("3"), &["v + bias[1 of 1, 3] | v"]),
    Row("default", Channels("3"), &["nothing | 0"]),
    Row("optional", Vector("3"), &["nothing?"]),
    Row("guarded", Vector("3"), &["u | 0 if config.without_u"]),
    Row("blocks", Blocked("d", "3"), &["m"]),
    Row("per head", PerHead("d", "d_head"), &["h"]),
];
const LATER: &[Row] = &[Row("later", Vector("3"), &["v"])];
const TWICE: &[Row] = &[Row("more", Vector("3"), &["more"])];

/// The tensors of one layer, and the embedding.
const TENSORS: [(&str, &[usize]); 10] = [
    ("emb", &[5, 4]),
    ("l.0.m", &[4, 3]),
    ("l.0.t", &[2, 2, 3]),
    ("l.0.fused", &[8, 3]),
    ("l.0.v", &[1, 1, 3]),
    ("l.0.bias", &[4]),
    ("l.0.u", &[3]),
    ("l.0.h", &[2, 1]),
    ("l.0.unused", &[9]),
    ("l.0.l", &[6]),
];

/// A checkpoint of f32 tensors with the values 0, 1, 2, …
fn counting(folder: &Path, tensors: &[(&str, &[usize])], config: &serde_json::Value) -> Checkpoint {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            (0..shape.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    Checkpoint::open(folder).unwrap()
}

/// `TENSORS` with another tensor instead of the one of its name.
fn with(name: &'static str, shape: &'static [usize]) -> Vec<(&'static str, &'static [usize])> {
    let others = TENSORS.into_iter().filter(|(other, _)| *other != name);
    others.chain([(name, shape)]).collect()
}

fn planned<T>(
    tensors: &[(&str, &[usize])],
    config: serde_json::Value,
    then: impl FnOnce(Result<Plan<'_>, crate::FormatError>) -> T,
) -> T {
    planned_as(false, tensors, config, then)
}

fn planned_as<T>(
    untied: bool,
    tensors: &[(&str, &[usize])],
    config: serde_json::Value,
    then: impl FnOnce(Result<Plan<'_>, crate::FormatError>) -> T,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = counting(folder.path(), tensors, &config);
    let (architecture, place) = recognise(&[&TOY], &checkpoint).unwrap();
    then(plan(architecture, place, untied))
}

fn values(plan: &Plan<'_>, name: &str) -> Option<Vec<f32>> {
    let tensor = plan.tensors.iter().find(|tensor| tensor.name == name)?;
    Some(tensor.read().unwrap())
}

/// Two heads; `l` is not placed by any row, so it must go.
fn tensors() -> Vec<(&'static str, &'static [usize])> {
    TENSORS[..9].to_vec()
}

#[test]
fn cells_of_every_kind() {
    planned(&tensors(), json!({"kind": "two"}), |plan| {
        let plan = plan.unwrap();
        let m: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let rows = |rows: &[usize]| -> Vec<f32> {
            rows.iter().flat_map(|r| (0..3).map(move |c| (r * 3 + c) as f32)).collect()
        };
        let halves: Vec<f32> = m.iter().map(|v| v / 2.0).collect();
        let exp = |x: f64| x.exp();
        let v = [0.0f64, 1.0, 2.0];
        for (name, expected) in [
            ("whole", m.clone()),
            ("turned", vec![0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0]),
            ("lower", m[6..].to_vec()),
            ("scaled", m.clone()),
            ("column", vec![2.0, 5.0, 8.0, 11.0]),
            ("second", vec![6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
            ("second turned", vec![6.0, 9.0, 7.0, 10.0, 8.0, 11.0]),
            ("stacked", [&m[..], &halves].concat()),
            ("heads", rows(&[1, 2, 5, 6])),
            ("rest", rows(&[3, 7, 0, 4])),
            ("diagonal", vec![0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 6.0, 7.0, 8.0]),
            ("shifted", vec![0.0, 2.0, 8.0, 0.0, 5.0, 14.0, 0.0, 8.0, 20.0, 0.0, 11.0, 26.0]),
            ("norm", vec![1.0, 2.0, 3.0]),
            ("decay", v.map(|x| exp(-exp(x)) as f32).to_vec()),
            ("minus", v.map(|x| -exp(x) as f32).to_vec()),
            ("sum", vec![1.0, 3.0, 5.0]),
            ("default", vec![0.0; 16]),
            ("guarded", vec![0.0, 1.0, 2.0]),
            ("per head", vec![0.0, 0.0, 1.0, 1.0]),
        ] {
            assert_eq!(values(&plan, &format!("layers.0.{name}")), Some(expected), "{name}");
        }
        assert_eq!(values(&plan, "layers.0.optional"), None);
        assert_eq!(values(&plan, "layers.0.later"), None);
        let blocks = plan.tensors.iter().find(|t| t.name == "layers.0.blocks").unwrap();
        assert_eq!(blocks.shape(), [1, 3, 16]);
        let values = blocks.read().unwrap();
        assert_eq!([values[0], values[1], values[3], values[4]], [0.0, 3.0, 9.0, 0.0]);
        assert_eq!([values[16], values[17], values[35]], [1.0, 4.0, 11.0]);
        let sizes = ["n_layer", "n_vocab", "d", "d_head"].map(|name| plan.config[name].as_u64());
        assert_eq!(sizes, [1, 5, 4, 2].map(Some));
        assert!(!plan.config.contains_key("every") && !plan.config.contains_key("activation"));
    });
}

/// A block of rows in the middle of each matrix is what reading all of it gives there, and is
/// appended.
#[test]
fn rows_in_the_middle() {
    planned(&tensors(), json!({"kind": "two"}), |plan| {
        for tensor in plan.unwrap().tensors {
            let Storage::Matrix { rows, cols, .. } = tensor.form else { continue };
            let all = tensor.read().unwrap();
            for range in [0..rows, 1..rows, 0..rows - 1, rows / 2..rows / 2] {
                let mut out = vec![-1.0];
                tensor.read_rows(range.clone(), cols, &mut out).unwrap();
                assert_eq!(out[1..], all[range.start * cols..range.end * cols], "{}", tensor.name);
                assert_eq!(out[0], -1.0);
            }
        }
    });
}

#[test]
fn layers_that_have_more() {
    let mut all = tensors();
    all.extend([("l.1.m", &[4, 3][..]), ("l.1.t", &[2, 2, 3]), ("l.1.fused", &[8, 3])]);
    all.extend([("l.1.v", &[3][..]), ("l.1.h", &[4]), ("l.0.more", &[3]), ("l.1.more", &[3])]);
    let config = json!({"kind": "two", "without_u": true, "every": 1, "limits": [0, 0.5]});
    planned(&all, config, |plan| {
        let plan = plan.unwrap();
        assert_eq!(values(&plan, "layers.1.later"), Some(vec![0.0, 1.0, 2.0]));
        assert_eq!(values(&plan, "layers.1.more"), Some(vec![0.0, 1.0, 2.0]));
        assert_eq!(values(&plan, "layers.1.sum"), Some(vec![0.0, 1.0, 2.0]));
        assert_eq!(values(&plan, "layers.1.guarded"), Some(vec![0.0; 3]));
        assert_eq!(values(&plan, "layers.1.per head"), Some(vec![0.0, 1.0, 2.0, 3.0]));
        let scaled = values(&plan, "layers.1.scaled").unwrap();
        assert_eq!(scaled, (0..12).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
        assert_eq!(plan.config["x_max"], 0.5);
        assert!(!plan.config.contains_key("x_min"));
    });
}

#[test]
fn heads_and_embeddings() {
    let role = |plan: &Plan<'_>| match plan.tensors[0].form {
        Storage::Matrix { role, .. } => role,
        _ => panic!("the embedding"),
    };
    for (head, expected) in [(&[5, 4][..], Role::Big), (&[5, 4, 1], Role::Big)] {
        planned(&[&tensors()[..], &[("head", head)]].concat(), json!({"kind": "two"}), |plan| {
            let plan = plan.unwrap();
            assert_eq!(role(&plan), expected, "a head with the embedding's values");
            assert_eq!(values(&plan, "head"), None);
        });
    }
    for more in [&[][..], &[("head", &[5, 4][..])]] {
        let tensors = [&tensors()[..], more].concat();
        planned_as(true, &tensors, json!({"kind": "two"}), |plan| {
            let plan = plan.unwrap();
            assert_eq!(role(&plan), Role::Embedding, "a head of its own");
            assert_eq!(values(&plan, "head"), values(&plan, "embed"));
        });
    }
    let mut normed = with("emb2", &[5, 4]);
    normed.retain(|(name, _)| !["emb", "l.0.l"].contains(name));
    normed.extend([("w", &[4][..]), ("b", &[4]), ("head", &[5, 4])]);
    planned(&normed, json!({"kind": "two", "eps": 0.25}), |plan| {
        let plan = plan.unwrap();
        assert_eq!(role(&plan), Role::Embedding);
        let embed = values(&plan, "embed").unwrap();
        // The deviations −1.5 … 1.5 over √(1.25 + 0.25), with weights and biases 0 … 3.
        let expected = [-1.5f64, -0.5, 0.5, 1.5].map(|x| x / 1.5f64.sqrt());
        for (i, value) in embed.iter().enumerate() {
            let weight = (i % 4) as f64;
            assert_eq!(*value, (expected[i % 4] * weight + weight) as f32, "{i}");
        }
        assert!(values(&plan, "head").is_some());
    });
}

#[test]
fn what_does_not_fit_is_named() {
    let two = || json!({"kind": "two"});
    let keys = |key: &str, value: serde_json::Value| {
        let mut config = json!({"kind": "two"});
        config[key] = value;
        config
    };
    let of = |name, shape| {
        let mut all = with(name, shape);
        all.retain(|(name, _)| *name != "l.0.l");
        all
    };
    for (tensors, config, words) in [
        (of("l.0.t", &[3, 2, 3]), two(), "\"l.0.t\": the shape must be one of 2 equal parts"),
        (of("l.0.m", &[4]), two(), "\"l.0.m\": the shape must be [d = 4, 3]"),
        (of("l.0.fused", &[9, 3]), two(), "one of 2 times [1, 2, 1] rows"),
        (of("l.0.bias", &[5]), two(), "one of 1 times [1, 3] rows"),
        (of("l.0.v", &[4]), two(), "\"l.0.v\": the shape must be [3]"),
        (of("l.0.h", &[3]), two(), "\"l.0.h\": the shape must be [d = 4]"),
        (of("l.0.what", &[1]), two(), "of toy with 1 layers, found one without a place there"),
        (of("w", &[1]), two(), "\"w\": the name"),
        (of("l.1.m", &[4, 3]), two(), "\"l.1.t\" is missing"),
        (
            of("l.0.h", &[4]),
            keys("ssm_cfg", json!({"d": 3})),
            "d % d_head = 0, found d = 4 (\"emb\"), d_head = 3 (config.ssm_cfg.d)",
        ),
        (tensors(), keys("n_layer", json!("x")), "n_layer must be the number of layers, a whole"),
        (tensors(), keys("n_layer", json!(0)), "from 1 to 16777216, found 0"),
        (tensors(), keys("eps", json!([])), "eps must be the epsilon, a number, found []"),
        (tensors(), keys("act", json!("gelu")), "act must be the activation, silu, found \"gelu\""),
        (tensors(), keys("limits", json!([2, 1])), "two ascending numbers, found [2,1]"),
        (tensors(), keys("ssm_cfg", json!({"d": 0})), "ssm_cfg.d must be the head size"),
    ] {
        planned(&tensors, config, |plan| {
            let message = plan.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(words), "{message:?} lacks {words:?}");
        });
    }
}

#[test]
fn layouts_and_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("l.0.m", Some(("", 0))),
        ("a.b.l.0.m", Some(("a.b.", 0))),
        ("x.blk.0.m", Some(("x.", 1))),
        ("model.0.m", None),
        ("xl.0.m", None),
    ] {
        let checkpoint = counting(folder.path(), &[(name, &[1])], &json!({}));
        let place = Place::find(&TOY, &checkpoint);
        assert_eq!(place.map(|place| (place.prefix, place.layout.column)), expected, "{name}");
    }
    let checkpoint = counting(folder.path(), &[("model.0.m", &[1])], &json!({}));
    let message = recognise(&[&TOY], &checkpoint).err().unwrap().to_string();
    assert!(message.contains("expected one of Toy-1"), "{message}");
}
