//! Sums of states.

use serde_json::Value;

use crate::support::{arg, brooklet, folder, model, names_in};

#[test]
fn states_are_averaged_compared_and_merged() {
    let (model, folder) = (arg(&model()), folder());
    let file = |name: &str| arg(&folder.path().join(name));
    let (a, b, c, d) = (file("a.brks"), file("b.brks"), file("c.brks"), file("d.brks"));
    for (text, path) in [("ab", &a), ("xy", &b)] {
        brooklet(["run", &model, "-p", text, "-n", "0", "--save-state", path, "-q"]).ok();
    }
    let apart = |first: &str, second: &str| {
        let slots = brooklet(["state", "diff", first, second, "--json"]).json();
        let slots = slots.as_array().expect("slots").clone();
        slots.iter().map(|slot| slot["max"].as_f64().expect("a number")).fold(0.0, f64::max)
    };
    let whole = apart(&a, &b);
    assert!(whole > 1e-3 && apart(&a, &a) == 0.0);
    brooklet(["state", "average", &a, &b, "-o", &c]).ok();
    assert!((apart(&a, &c) - whole / 2.0).abs() < 1e-5 * whole);
    brooklet(["state", "average", &a, &b, "--weights", "3,1", "-o", &c]).ok();
    assert!((apart(&a, &c) - whole / 4.0).abs() < 1e-5 * whole);
    brooklet(["state", "average", &a, &b, "--weights", "2,0", "-o", &c]).ok();
    assert_eq!(apart(&a, &c), 0.0);
    brooklet(["state", "merge", &a, &b, "-o", &c]).ok();
    assert!(apart(&b, &c) < 1e-6 * whole.max(1.0));
    brooklet(["state", "merge", &a, &b, &c, "--scale", "0.5,-0.5", "-o", &d]).ok();
    assert!(apart(&a, &d) < 1e-6 * whole.max(1.0));
    // What comes out begins a text.
    let text = brooklet(["run", &model, "--state", &c, "-p", "z", "-n", "5", "--temp", "0", "-q"]);
    assert_eq!(text.code, Some(0), "{}", text.err);
    let table = brooklet(["state", "diff", &a, &b]).ok();
    assert!(table.starts_with("layer"), "{table}");
    for (args, code) in [
        (&["average", &a, "-o", &d][..], 2),
        (&["average", &a, &b, "--weights", "1", "-o", &d], 2),
        (&["average", &a, &b, "--weights", "1,-1", "-o", &d], 2),
        (&["average", &a, &b, "-o", &a], 2),
        (&["merge", &a, &b, "--scale", "1,2,3", "-o", &d], 2),
        (&["average", &a, &model, "-o", &d], 1),
        (&["merge", &a, &b, "--scale", "1e300", "-o", &d], 1),
    ] {
        let done = brooklet([&["state"][..], args].concat());
        assert_eq!(done.code, Some(code), "{args:?}: {}", done.err);
    }
    let inspected: Value = brooklet(["state", "inspect", &c, "--json"]).json();
    assert_eq!((&inspected["logits"], &inspected["unread"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(names_in(folder.path()), ["a.brks", "b.brks", "c.brks", "d.brks"]);
}
