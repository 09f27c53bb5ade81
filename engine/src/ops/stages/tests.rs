//! Stages of small lists.

use super::super::{of, rows};
use super::*;

/// Which operations stand in which chain, and how many pieces it has.
fn chains(stage: &Stage) -> Vec<(&[usize], usize)> {
    stage.chains.iter().map(|chain| (&chain.ops[..], chain.pieces)).collect()
}

#[test]
fn own_rows_stay_in_a_chain_and_all_rows_end_a_stage() {
    let mut list = List::default();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| list.values(name, 64));
    list.map(b, of(a) * 2.0); // 0
    list.map(c, of(a) + 1.0); // 1
    let s = list.sum("s", of(b) * b, (64, 16)); // 2: joins 0
    list.map(d, of(b) * super::super::of_head(s, 16)); // 3: joins both
    list.map(a, rows(d, 0)); // 4: joins, too; 1 reads a, so that it may not
    let stages = list.stages(&Plan::many(1));
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert_eq!(chains(&stages[0]), [(&[1][..], 1), (&[0, 2, 3], 1)]);
    assert_eq!(chains(&stages[1]), [(&[4][..], 1)]);
}

#[test]
fn small_operations_are_repeated_unless_that_changes_something() {
    let mut list = List::default();
    let [a, b] = ["a", "b"].map(|name| list.values(name, 64));
    list.map(b, of(a) * 2.0);
    list.map(b, of(b) * 2.0);
    list.map(a, of(b));
    let stages = list.stages(&Plan::one(132));
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert_eq!((&stages[0].prelude[..], chains(&stages[0])), (&[0][..], vec![]));
    assert_eq!((&stages[1].prelude[..], chains(&stages[1])), (&[][..], vec![(&[1, 2][..], 1)]));
}

#[test]
fn work_is_not_gathered_in_few_pieces() {
    let mut list = List::default();
    let [a, b, c] = ["a", "b", "c"].map(|name| list.values(name, 1 << 16));
    list.map(b, of(a) * 2.0);
    let weight = &[1.0; 1 << 16];
    list.norm(c, b, super::super::NormOp::Rms { weight, eps: 0.1 }, 1 << 16);
    let stages = list.stages(&Plan::many(132));
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert_eq!(chains(&stages[0]), [(&[0][..], 1024)]);
}

#[test]
fn products_of_many_columns_keep_their_blocks() {
    let mut list = List::default();
    let [y, of_heads] = ["y", "of heads"].map(|name| Thing::Values(list.values(name, 2048)));
    let product = || Access { writes: vec![y], pieces: 128, is_product: true, ..Access::default() };
    let by_heads = |pieces| Access {
        reads: vec![(y, true)],
        writes: vec![of_heads],
        pieces,
        ..Access::default()
    };
    let joins = |plan: Plan, pieces| {
        let access = [product(), by_heads(pieces)];
        let mut stage = Stage::default();
        assert!(place(&mut stage, 0, &access, &plan));
        place(&mut stage, 1, &access, &plan)
    };
    assert!(joins(Plan::many(132), 128), "as many pieces");
    assert!(!joins(Plan::many(132), 32), "a quarter of the blocks would multiply");
    assert!(joins(Plan::many(16), 32), "there are no more blocks");
    assert!(joins(Plan::one(132), 32), "one column is little to multiply");
}
