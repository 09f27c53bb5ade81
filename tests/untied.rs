//! `ConvertOptions::untie`: the same function, the embedding at 8 bits beside a head at 4.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::{MODELS, bits, fixture, logits, open, some_tokens};

#[test]
fn a_head_of_its_own_changes_nothing_but_what_it_is_rounded_to() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let target = temp.path().join("model.brk");
    let (mut tied, mut found) = (0, 0);
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        found += 1;
        let converted = |options: &ConvertOptions| {
            convert(&source, &target, options, &mut |_| ControlFlow::Continue(())).expect(name);
            BrkFile::open(&target).expect("a file")
        };
        let logits_of = |path: &Path| {
            let model = open(path, Isa::detect());
            logits(&model, &some_tokens(&model, 9, 0), 4, 1)
        };
        let mut options = ConvertOptions::new(DType::F32);
        let tensors = converted(&options).tensors().len();
        let has_head = BrkFile::open(&target).expect("a file").tensor("head").is_some();
        let expected = logits_of(&target);
        options.untie = true;
        let file = converted(&options);
        assert!(file.meta().provenance.recipe.contains("--untie"), "{name}");
        assert_eq!(file.tensors().len(), tensors + usize::from(!has_head), "{name}");
        assert!(bits(&logits_of(&target)) == bits(&expected), "{name}");
        if !has_head {
            tied += 1;
            options.dtype = DType::Int4;
            let file = converted(&options);
            let dtype = |name: &str| file.tensor(name).expect("a tensor").info.dtype;
            assert_eq!((dtype("embed"), dtype("head")), (DType::Int8, DType::Int4), "{name}");
            assert!(logits_of(&target).iter().all(|v| v.is_finite()), "{name}");
        }
    }
    assert!(found == 0 || tied > 1, "{tied} of {found}");
}
