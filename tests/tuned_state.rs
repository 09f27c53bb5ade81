//! RWKV state-tuning checkpoints: a tuned state begins a sequence as the tokens it was taken from
//! would, and what does not fit is refused.

use brooklet::{DType, Isa, Model, State};
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_tests::rwkv::{Tensor, Weights};
use brooklet_tests::write::safetensors;
use brooklet_tests::{converted, fixture, open_for, run, some_tokens};
use std::path::Path;

fn model(name: &str, folder: &Path, state: DType) -> Model {
    let source = fixture(&format!("fixtures/{name}")).expect("the repository has it");
    open_for(&converted(&source, folder, DType::F32), Isa::detect(), state)
}

/// The states of `state` as a trainer keeps them: (head, value, key).
fn tuned(state: &State) -> Weights {
    let mut weights = Weights::new();
    let slots = state.layout().slots().iter().enumerate();
    for (i, slot) in slots.filter(|(_, slot)| slot.name == "att.wkv") {
        let values = state.get(i);
        let n = slot.shape[2];
        let transposed =
            (0..values.len()).map(|i| values[i / (n * n) * n * n + i % n * n + i / n % n]);
        let tensor = Tensor { shape: slot.shape.clone(), values: transposed.collect() };
        weights.insert(format!("blocks.{}.att.time_state", slot.layer), tensor);
    }
    weights
}

fn import(model: &Model, weights: &Weights, folder: &Path) -> Result<State, String> {
    let path = folder.join("tuned.safetensors");
    safetensors(&path, weights);
    let checkpoint = Checkpoint::open(&path).map_err(|error| error.to_string())?;
    State::from_tuned(model, &checkpoint).map_err(|error| error.to_string())
}

#[test]
fn heads_are_transposed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = ["rwkv5.2-a/model.pth", "rwkv6-a/model.pth", "rwkv7-bf16/model.pth"];
    for (name, state) in names.into_iter().flat_map(|name| [(name, DType::F32), (name, DType::F16)])
    {
        let model = model(name, folder.path(), state);
        let (_, state) = run(&model, &some_tokens(&model, 20, 1), 64, 1);
        let imported = import(&model, &tuned(&state), folder.path()).expect("imported");
        assert_eq!(imported.position(), 0);
        for (i, slot) in state.layout().slots().iter().enumerate() {
            let (found, given) = (imported.get(i), state.get(i));
            assert!(given.iter().any(|x| *x != 0.0));
            if slot.name == "att.wkv" {
                assert_eq!(found, given, "{name}");
            } else {
                assert!(found.iter().all(|x| *x == 0.0), "{name}: {}", slot.name);
            }
        }
    }
}

/// web-rwkv's converter transposes states; trainers put theirs beside the weights, or a word before
/// all names.
#[test]
fn states_of_other_programs() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model("rwkv6-a/model.pth", folder.path(), DType::F32);
    let (_, state) = run(&model, &some_tokens(&model, 20, 1), 64, 1);
    let good = tuned(&state);
    let expected = import(&model, &good, folder.path()).expect("imported");
    let same = |found: &State| {
        (0..state.layout().slots().len()).all(|slot| found.get(slot) == expected.get(slot))
    };
    let turned = good.iter().map(|(name, tensor)| {
        let n = tensor.shape[2];
        let at = |i: usize| tensor.values[i / (n * n) * n * n + i % n * n + i / n % n];
        let values = (0..tensor.values.len()).map(at).collect();
        (name.clone(), Tensor { shape: tensor.shape.clone(), values })
    });
    let turned: Weights = turned.collect();
    let path = folder.path().join("tuned.st");
    safetensors(&path, &turned);
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    assert!(same(&State::from_tuned(&model, &checkpoint).expect("imported")));
    for before in ["module.", "_orig_mod.", "model._forward_module."] {
        let wrapped = good.iter().map(|(name, tensor)| (format!("{before}{name}"), tensor.clone()));
        let found = import(&model, &wrapped.collect(), folder.path()).expect("imported");
        assert!(same(&found), "{before}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let seven = model("rwkv7-bf16/model.pth", folder.path(), DType::F32);
    let good = tuned(&seven.new_state());
    let refused = |change: &dyn Fn(&mut Weights)| {
        let mut weights = good.clone();
        change(&mut weights);
        import(&seven, &weights, folder.path()).expect_err("refused")
    };
    let last = format!("blocks.{}.att.time_state", seven.n_layer() - 1);
    let line = refused(&|w| drop(w.remove(&last)));
    assert!(line.contains(&last) && line.contains("missing"), "{line}");
    let line = refused(&|w| {
        let state = w[&last].clone();
        w.insert("blocks.99.att.time_state".to_owned(), state);
    });
    assert!(
        line.contains("blocks.99.att.time_state") && line.contains("the layer must be"),
        "{line}"
    );
    let odd = Tensor { shape: vec![1, 2, 2], values: vec![0.0; 4] };
    let line = refused(&|w| drop(w.insert(last.clone(), odd.clone())));
    assert!(line.contains("the shape must be") && line.contains("found [1, 2, 2]"), "{line}");
    let line = refused(&|w| {
        w.clear();
        w.insert("emb.weight".to_owned(), odd.clone());
    });
    assert!(line.contains("no tuned state") && line.contains("emb.weight"), "{line}");
    for name in ["rwkv4_hf-a/model.safetensors", "mamba2-a"] {
        let other = model(name, folder.path(), DType::F32);
        let line = import(&other, &good, folder.path()).expect_err("refused");
        assert!(line.contains("tuned states are for rwkv5, rwkv6 and rwkv7"), "{line}");
    }
}
