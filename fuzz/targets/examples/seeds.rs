//! Writes the seeds of the corpora: the smallest models of every family, in every kind of file, and
//! vocabularies.
//!
//! `cargo run -p brooklet-fuzz-targets --example seeds` from the root of the repository. What
//! fuzzing added to `fuzz/corpus` later is not written here, and stays.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use brooklet::{EngineOptions, Model, Session};
use brooklet_formats::DType;
use brooklet_tests::random_rwkv::{rwkv4, rwkv5, rwkv6, rwkv7};
use brooklet_tests::rwkv::{Tensor, Weights};
use brooklet_tests::rwkv_layouts::{as_fla, as_gguf, as_rwkv_cpp};
use brooklet_tests::write::{self, GgufValue};
use serde_json::{Value, json};

/// One layer and eleven tokens of a random model, which has more.
fn first_layer(mut weights: Weights) -> Weights {
    weights.retain(|name, _| {
        !["blocks.1.", "blocks.2.", "blk.1.", "blk.2."].iter().any(|at| name.starts_with(at))
    });
    for (name, tensor) in &mut weights {
        if ["emb.weight", "head.weight", "token_embd.weight", "output.weight"]
            .contains(&name.as_str())
        {
            tensor.values.truncate(11 * tensor.shape[1]);
            tensor.shape[0] = 11;
        }
    }
    weights
}

/// Tensors of these shapes, with some values.
fn some(shapes: &[(&str, &[usize])]) -> Weights {
    let values = |n: usize| (0..n).map(|i| (i * 37 % 19) as f32 / 16.0 - 0.5).collect();
    let tensor =
        |shape: &[usize]| Tensor { shape: shape.to_vec(), values: values(shape.iter().product()) };
    shapes.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape))).collect()
}

fn mamba1() -> Weights {
    some(&[
        ("backbone.embeddings.weight", &[11, 4]),
        ("backbone.norm_f.weight", &[4]),
        ("backbone.layers.0.norm.weight", &[4]),
        ("backbone.layers.0.mixer.in_proj.weight", &[16, 4]),
        ("backbone.layers.0.mixer.conv1d.weight", &[8, 1, 2]),
        ("backbone.layers.0.mixer.conv1d.bias", &[8]),
        ("backbone.layers.0.mixer.x_proj.weight", &[5, 8]),
        ("backbone.layers.0.mixer.dt_proj.weight", &[8, 1]),
        ("backbone.layers.0.mixer.dt_proj.bias", &[8]),
        ("backbone.layers.0.mixer.A_log", &[8, 2]),
        ("backbone.layers.0.mixer.D", &[8]),
        ("backbone.layers.0.mixer.out_proj.weight", &[4, 8]),
    ])
}

fn mamba2() -> Weights {
    some(&[
        ("backbone.embeddings.weight", &[11, 4]),
        ("backbone.norm_f.weight", &[4]),
        ("lm_head.weight", &[11, 4]),
        ("backbone.layers.0.norm.weight", &[4]),
        // z and x of two heads of four, B and C of one group of two, dt.
        ("backbone.layers.0.mixer.in_proj.weight", &[22, 4]),
        ("backbone.layers.0.mixer.conv1d.weight", &[12, 1, 2]),
        ("backbone.layers.0.mixer.conv1d.bias", &[12]),
        ("backbone.layers.0.mixer.dt_bias", &[2]),
        ("backbone.layers.0.mixer.A_log", &[2]),
        ("backbone.layers.0.mixer.D", &[2]),
        ("backbone.layers.0.mixer.norm.weight", &[8]),
        ("backbone.layers.0.mixer.out_proj.weight", &[4, 8]),
    ])
}

/// PyTorch's archive, as `torch.save` writes it, and its pickle beside it.
fn torch(path: &Path, weights: &Weights) {
    let mut pickle = b"\x80\x02}(".to_vec();
    let text =
        |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let number = |n: usize| [&b"J"[..], &(n as u32).to_le_bytes()].concat();
    for (i, (name, tensor)) in weights.iter().enumerate() {
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(
            [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text(&i.to_string())].concat(),
        );
        pickle.extend([text("cpu"), number(tensor.values.len()), b"tQK\0(".to_vec()].concat());
        tensor.shape.iter().for_each(|n| pickle.extend(number(*n)));
        pickle.extend(b"t(");
        let strides = (0..tensor.shape.len()).map(|i| tensor.shape[i + 1..].iter().product());
        strides.for_each(|n: usize| pickle.extend(number(n)));
        pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    fs::write(path.with_extension("pkl"), &pickle).expect("a file");
    let mut zip = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let deflated = stored.compression_method(zip::CompressionMethod::Deflated);
    let mut put = |name: &str, bytes: &[u8], options| {
        zip.start_file(format!("m/{name}"), options).expect("an entry");
        zip.write_all(bytes).expect("an entry");
    };
    put("data.pkl", &pickle, stored);
    put("byteorder", b"little", stored);
    for (i, tensor) in weights.values().enumerate() {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        put(&format!("data/{i}"), &bytes, if i % 3 == 0 { deflated } else { stored });
    }
    zip.finish().expect("an archive");
}

/// Our file of it, each family in a number format of its own.
fn ours(corpus: &Path, name: &str, source: &Path) {
    let dtype = match name {
        "rwkv4" => DType::F32,
        "rwkv5.2" => DType::Fp8E4m3,
        "rwkv6" => DType::F16,
        "rwkv7" => DType::Int4,
        _ => DType::Int8,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = brooklet_tests::converted(source, folder.path(), dtype);
    fs::copy(&made, corpus.join(format!("brk/{name}-{}.brk", dtype.name()))).expect("a copy");
}

fn states(corpus: &Path) {
    let model = Model::open("engine/capi/tests/fixtures/tiny-mamba1.brk").expect("the fixture");
    let mut session = Session::new(&model, &EngineOptions::default());
    session.prefill(&[1, 2, 3]).expect("tokens of the vocabulary");
    for dtype in [DType::F32, DType::F16, DType::Int8] {
        let bytes = session.snapshot().to_bytes(dtype).expect("a snapshot");
        fs::write(corpus.join(format!("brks/snapshot-{}.brks", dtype.name())), bytes)
            .expect("a file");
    }
    let bytes = session.state().to_bytes(DType::Int8).expect("a state");
    fs::write(corpus.join("brks/state.brks"), bytes).expect("a file");
}

fn vocabularies(corpus: &Path) {
    let mut text: String =
        (0..256).map(|byte| format!("{} b'\\x{byte:02x}' 1\n", byte + 1)).collect();
    text += "257 'ab c' 4\n258 \"it's\" 4\n260 '\u{6c34}' 3\n270 '\\u6c34\\n' 4\n";
    fs::write(corpus.join("world/bytes.txt"), &text).expect("a file");
    let few = "1 'a' 1\r\n2 b'\\xff\\'' 2\r\n3 '\\t ' 2\n900 'aa' 2\n";
    fs::write(corpus.join("world/few.txt"), few).expect("a file");
    for (name, text) in [("bytes", text.as_bytes()), ("few", few.as_bytes())] {
        let world =
            brooklet::tokenizer::Tokenizer::world_from_vocab_text(text).expect("a vocabulary");
        let packed = world.world_packed().expect("a packed form");
        fs::write(corpus.join(format!("world/{name}.bin")), packed).expect("a file");
    }

    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let vocab: BTreeMap<_, _> = ["<s>", "a", "b", "c", "\u{120}a", "ab", "<0x0A>", "\u{2581}"]
        .into_iter()
        .zip(0..)
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"}, "behavior": "Isolated",
            "invert": false},
        byte_level]});
    let bpe = json!({"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
        "byte_fallback": true, "vocab": vocab, "merges": [["a", "b"]]});
    let whole = |pre: &Value, normalizer: Value, decoder: Value, model: &Value| {
        json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0, "<s>")],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": null,
            "decoder": decoder, "model": model})
    };
    let pieces = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    let prepend = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}, {"type": "NFC"}]});
    let list: Vec<Value> = vocab.keys().map(|word| json!([word, -1.5])).collect();
    for (name, json) in [
        ("bytes", whole(&byte_level, Value::Null, byte_level.clone(), &bpe)),
        ("split", whole(&split, json!({"type": "NFC"}), byte_level.clone(), &bpe)),
        ("pieces", whole(&Value::Null, prepend, pieces, &bpe)),
        (
            "unigram",
            whole(
                &Value::Null,
                Value::Null,
                Value::Null,
                &json!({"type": "Unigram", "unk_id": 0, "vocab": list}),
            ),
        ),
        (
            "words",
            whole(
                &json!({"type": "Whitespace"}),
                Value::Null,
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                &json!({"type": "WordPiece", "unk_token": "<s>", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100, "vocab": vocab}),
            ),
        ),
    ] {
        fs::write(corpus.join(format!("huggingface/{name}.json")), json.to_string())
            .expect("a file");
    }
}

fn main() {
    let corpus = Path::new("fuzz/corpus");
    for (target, _) in brooklet_fuzz_targets::TARGETS {
        fs::create_dir_all(corpus.join(target)).expect("a folder");
    }
    let (four, six) = (rwkv4(4, 4, 6), rwkv6(4, [2, 2], 6, [1, 2]));
    let seven = rwkv7([1, 4], 8, [1, 1, 1, 2], true);
    let five = |version| first_layer(rwkv5(version, 4, [2, 2], 6));
    let families = [
        ("rwkv7", first_layer(seven.clone()), None),
        ("rwkv6", first_layer(six.clone()), None),
        ("rwkv5.2", five(2), None),
        ("rwkv5.0", five(0), None),
        ("rwkv4", first_layer(four.clone()), None),
        (
            "mamba1",
            mamba1(),
            Some(
                json!({"model_type": "mamba", "num_hidden_layers": 1, "layer_norm_epsilon": 1e-5}),
            ),
        ),
        (
            "mamba2",
            mamba2(),
            Some(
                json!({"model_type": "mamba2", "num_hidden_layers": 1, "layer_norm_epsilon": 1e-5,
            "state_size": 2, "n_groups": 1, "num_heads": 2, "norm_before_gate": false}),
            ),
        ),
        (
            "rwkv7-fla",
            as_fla(&first_layer(seven.clone()), false),
            Some(json!({"model_type": "rwkv7", "num_hidden_layers": 1, "head_dim": 4,
                    "norm_eps": 1e-5})),
        ),
    ];
    for (name, weights, config) in &families {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        write::safetensors(&path, weights);
        let mut bytes = fs::read(&path).expect("a file");
        if let Some(config) = config {
            fs::write(folder.path().join("config.json"), config.to_string()).expect("a file");
            bytes.extend([brooklet_fuzz_targets::CONFIG, config.to_string().as_bytes()].concat());
        }
        fs::write(corpus.join(format!("safetensors/{name}.bin")), bytes).expect("a file");
        if !["rwkv7-fla", "rwkv5.0"].contains(name) {
            ours(corpus, name, &path);
        }
        if ["rwkv4", "rwkv7"].contains(name) {
            torch(&corpus.join(format!("torch/{name}.pth")), weights);
        }
    }
    write::rwkv_cpp(&corpus.join("rwkv_cpp/rwkv7.bin"), &first_layer(as_rwkv_cpp(&seven)));
    write::rwkv_cpp(&corpus.join("rwkv_cpp/rwkv6.bin"), &first_layer(as_rwkv_cpp(&six)));
    write::rwkv_cpp(&corpus.join("rwkv_cpp/rwkv4.bin"), &first_layer(as_rwkv_cpp(&four)));
    let metadata = |architecture| {
        let key = |name: &str| -> &'static str { format!("{architecture}.{name}").leak() };
        [
            ("general.architecture", GgufValue::Text(architecture)),
            (key("block_count"), GgufValue::U32(1)),
            (key("attention.layer_norm_epsilon"), GgufValue::F32(1e-5)),
            (key("wkv.head_size"), GgufValue::U32(4)),
            (key("rescale_every_n_layers"), GgufValue::U32(0)),
        ]
    };
    write::gguf(
        &corpus.join("gguf/rwkv7.gguf"),
        &metadata("rwkv7"),
        &first_layer(as_gguf(&seven, 0)),
    );
    write::gguf(
        &corpus.join("gguf/rwkv6.gguf"),
        &metadata("rwkv6"),
        &first_layer(as_gguf(&six, 0)),
    );
    write::gguf(
        &corpus.join("gguf/some.gguf"),
        &metadata("mamba"),
        &some(&[("a", &[2, 3]), ("b", &[32])]),
    );
    for name in ["legacy", "module-protocol4", "views"] {
        let fixture = format!("formats/tests/fixtures/torch-{name}.pth");
        fs::copy(fixture, corpus.join(format!("torch/fixture-{name}.pth"))).expect("a copy");
    }
    states(corpus);
    vocabularies(corpus);
    for seed in 0..6_u64 {
        let mut state = seed + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u8
        };
        let bytes: Vec<u8> = (0..600).map(|_| next()).collect();
        fs::write(corpus.join(format!("capi/random-{seed}")), bytes).expect("a file");
    }
}
