//! `check`: what is printed, for people and for programs.

use crate::support::brooklet;

#[test]
fn lmul_beside_fp8() {
    let table = brooklet(["check", "lmul"]).ok();
    for part in ["fp8-e4m3", "fp8-e5m2", "adder", "formula", "cut off"] {
        assert!(table.contains(part), "{table}");
    }
    let report = brooklet(["check", "lmul", "--json"]).json();
    let rows = report["lmul"].as_array().expect("a list");
    let widths: Vec<_> = rows.iter().filter_map(|row| row["m"].as_u64()).collect();
    assert_eq!(widths, [2, 3, 4, 5, 6]);
    let error = |value: &serde_json::Value| value.as_f64().expect("a figure");
    assert!(error(&rows[2]["adder_cut_off"]) < error(&report["fp8"][0]["error"]));
    assert!(error(&rows[2]["formula_rounded"]) > error(&report["fp8"][0]["error"]));
}
