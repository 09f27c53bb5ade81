//! The same bits everywhere: with int4 and int8 weights, and states in f32 and smaller, logits and
//! states do not depend on the chunk length, the number of threads, the instruction set, or on what
//! else is in a batch. Every architecture has its row in `MODELS`.

use brooklet::{Engine, EngineOptions, Isa, Model, Run, State, Want};
use brooklet_formats::DType;
use brooklet_tests::random_rwkv::{rwkv4, rwkv5, rwkv6, rwkv7};
use brooklet_tests::rwkv::Weights;
use brooklet_tests::write::safetensors;
use brooklet_tests::{
    MODELS, bits, converted, fixture, open_for, run, smallest_state, some_tokens,
};

/// Models of shapes that fit no tile, group or vector.
fn odd_models() -> [(&'static str, Weights); 4] {
    [
        ("odd rwkv4", rwkv4(33, 17, 7)),
        ("odd rwkv5", rwkv5(1, 24, [3, 10], 50)),
        ("odd rwkv6", rwkv6(40, [2, 23], 33, [5, 7])),
        ("odd rwkv7", rwkv7([3, 7], 45, [3, 5, 2, 9], false)),
    ]
}

/// Calls `test` for each model in both formats, one of them with small states too, opened on every
/// instruction set of this machine.
fn each(test: impl Fn(&str, &[Model])) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let fixtures =
        MODELS.iter().filter_map(|name| Some((*name, fixture(&format!("fixtures/{name}"))?)));
    let odd = odd_models().map(|(name, weights)| {
        let path = temp.path().join(format!("{name}.safetensors"));
        safetensors(&path, &weights);
        (name, path)
    });
    for (name, source) in fixtures.chain(odd) {
        for dtype in [DType::Int4, DType::Int8] {
            let file = converted(&source, temp.path(), dtype);
            let small = (dtype == DType::Int8).then(|| smallest_state(&file));
            for state in [DType::F32].into_iter().chain(small) {
                let models: Vec<Model> =
                    Isa::available().map(|isa| open_for(&file, isa, state)).collect();
                test(&format!("{name} {dtype}, state {state}"), &models);
            }
        }
    }
}

#[test]
fn chunks_threads_and_instruction_sets() {
    each(|name, models| {
        let tokens = some_tokens(&models[0], 40, 0);
        let (expected, state) = run(&models[0], &tokens, 1, 1);
        assert!(expected.iter().all(|v| v.is_finite()));
        for model in models {
            for (chunk, threads) in [(1, 2), (7, 1), (7, 3), (64, 1), (64, 2)] {
                let (found, end) = run(model, &tokens, chunk, threads);
                let what =
                    format!("{name}, {}, chunk {chunk}, {threads} threads", model.isa().name());
                assert!(bits(&found) == bits(&expected), "logits of {what}");
                assert!(end == state, "state of {what}");
            }
        }
    });
}

#[test]
fn ragged_batches() {
    each(|name, models| {
        let model = models.last().expect("an instruction set");
        let sequences: Vec<Vec<u32>> = [1, 13, 5, 30].map(|n| some_tokens(model, n, n)).into();
        let alone: Vec<(Vec<f32>, State)> =
            sequences.iter().map(|s| run(model, s, 64, 1)).collect();
        // Two forward passes: each sequence is cut somewhere else, and not every one goes on in the
        // second.
        let cuts = [1, 4, 5, 17];
        for threads in [1, 2] {
            let options = EngineOptions::new().threads(threads).chunk(64).logits(64);
            let mut engine = Engine::new(model, &options);
            let mut states: Vec<State> = sequences.iter().map(|_| model.new_state()).collect();
            let mut found = vec![Vec::new(); sequences.len()];
            for pass in 0..2 {
                let spans = sequences
                    .iter()
                    .zip(cuts)
                    .map(|(s, cut)| if pass == 0 { &s[..cut] } else { &s[cut..] });
                let parts: Vec<(usize, &[u32])> =
                    spans.enumerate().filter(|(_, part)| !part.is_empty()).collect();
                let mut runs: Vec<Run<'_>> = states
                    .iter_mut()
                    .enumerate()
                    .filter_map(|(i, state)| {
                        let (_, tokens) = parts.iter().find(|(part, _)| *part == i)?;
                        Some(Run { state, tokens, want: Want::All })
                    })
                    .collect();
                engine.forward(&mut runs).expect("a forward pass");
                let mut row = 0;
                for (i, part) in &parts {
                    for _ in *part {
                        found[*i].extend_from_slice(engine.logits(row));
                        row += 1;
                    }
                }
            }
            for (i, (logits, state)) in alone.iter().enumerate() {
                assert!(
                    bits(&found[i]) == bits(logits),
                    "logits of {name}, sequence {i}, {threads} threads"
                );
                assert!(states[i] == *state, "state of {name}, sequence {i}, {threads} threads");
            }
        }
    });
}
