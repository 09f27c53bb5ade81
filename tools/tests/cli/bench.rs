//! `bench`: fields of its report, and one synthetic model of each family.

use crate::support::{arg, brooklet, command, finish, folder, model, names_in};

#[test]
fn the_report_has_its_fields() {
    let report = brooklet([
        "bench",
        &arg(&model()),
        "-p",
        "20",
        "-n",
        "4",
        "-b",
        "3",
        "--repeat",
        "2",
        "--json",
    ])
    .json();
    for field in [
        "prefill_tps",
        "decode_tps",
        "decode_gbps",
        "prefill_gmacs",
        "open_ms",
        "first_token_ms",
        "file_mb",
    ] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
    let shares = ["decode_of_limit", "read_limit_gbps", "skipped_share"];
    assert!(shares.iter().all(|share| report[share].is_f64()), "{report}");
    assert!(
        ["mac_limit_gmacs", "prefill_of_limit"].iter().all(|share| report.get(share).is_some()),
        "{report}"
    );
    assert_eq!((&report["sequences"], &report["device"]), (&3.into(), &"cpu".into()));
    assert!(report["card_mb"].is_null() && report["limits"]["threads"].is_u64(), "{report}");
    assert_eq!(report["decode_tps_all"].as_array().map(Vec::len), Some(2));
    if cfg!(target_os = "linux") {
        let file = report["file_mb"].as_f64().expect("a size");
        assert!(
            report["peak_rss_mb"].as_f64().is_some_and(|peak| peak > file && peak < 200.0),
            "{report}"
        );
        let (private, huge) = (&report["private_mb"], &report["huge_share"]);
        assert!(private.as_f64().is_some_and(|mb| mb > 0.1 && mb < 200.0), "{report}");
        assert!(huge.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{report}");
    }
    let only_decode =
        brooklet(["bench", &arg(&model()), "-p", "0", "-n", "2", "--repeat", "1"]).ok();
    assert!(only_decode.contains("decode") && !only_decode.contains("prefill"), "{only_decode}");
}

#[test]
fn it_says_what_it_does_unless_it_is_to_be_quiet() {
    let model = arg(&model());
    let bench = |more: &[&str]| {
        brooklet([&["bench", &model, "--repeat", "1", "--threads", "1"], more].concat())
    };
    let done = bench(&["-p", "20", "-n", "4"]);
    let said = "1 times a prompt of 20 tokens, 4 tokens decoded, the machine's limits\n";
    assert!(done.err.starts_with(&model) && done.err.ends_with(said), "{done:?}");
    assert_eq!(bench(&["-p", "0", "-n", "1", "--quiet"]).err, "");
    let limits = brooklet(["bench", "--limits", "--threads", "1", "--repeat", "1"]);
    assert!(limits.err.contains("limits on up to 1 threads"), "{limits:?}");
}

#[test]
fn states_are_counted_in_their_format() {
    for (state, bytes) in
        [("f32", 2 * (2 * 48 + 3 * 16 * 16) * 4), ("f16", 2 * (2 * 48 * 4 + 3 * 16 * 16 * 2))]
    {
        let args = ["-p", "0", "-n", "2", "-b", "3", "--repeat", "1", "--live-state", state];
        let bench = |more: &[&str]| {
            let model = arg(&model());
            brooklet(["bench", &model].into_iter().chain(args).chain(more.iter().copied()))
        };
        let report = bench(&["--json"]).json();
        let figure =
            |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
        assert_eq!(report["state"], state);
        assert!((figure("state_mb") * 1e6 - f64::from(bytes)).abs() < 1e-3, "{report}");
        let step = figure("weights_mb") + 2.0 * 3.0 * figure("state_mb");
        let expected = figure("decode_tps") / 3.0 * step / 1e3;
        assert!((figure("decode_gbps") / expected - 1.0).abs() < 1e-9, "{report}");
        let table = bench(&[]).ok();
        assert!(table.contains(&format!("of {state} state × 3")), "{table}");
    }
}

#[test]
fn limits_alone_need_no_model() {
    let all = brooklet(["bench", "--limits", "--threads", "2", "--repeat", "1", "--json"]).json();
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), 2);
    assert!(
        all.iter().all(|limits| limits["read_gbps"].as_f64().is_some_and(|rate| rate > 0.1)),
        "{all:?}"
    );
    let table = brooklet(["bench", "--limits", "--threads", "1", "--repeat", "1"]).ok();
    assert!(table.contains("1 thread ") && table.contains("read GB/s"), "{table}");
}

#[test]
fn the_limits_of_a_card_are_its_own() {
    let args = ["bench", "--limits", "--device", "cuda", "--repeat", "1", "--threads", "1"];
    let done = brooklet(args.into_iter().chain(["--json"]));
    if done.code != Some(0) {
        println!("skipped: no card");
        let is_said = done.err.contains("driver") || done.err.contains("card");
        assert!(is_said && done.out.is_empty(), "{done:?}");
        return;
    }
    let all = done.json();
    let limits = &all[0];
    assert!(limits["read_gbps"].as_f64().is_none_or(|rate| rate > 10.0), "{all}");
    assert!(limits["int8_tops"].as_f64().is_none_or(|rate| rate > 1.0), "{all}");
    assert!(limits.get("threads").is_none(), "{all}");
    let table = brooklet(args).ok();
    assert!(table.starts_with("cuda:0") && table.contains("int8 TOP/s"), "{table}");
    let model = arg(&model());
    let args = ["bench", &model, "--device", "cuda", "-p", "20", "-n", "4", "--repeat", "1"];
    let report = brooklet(args.into_iter().chain(["--json"])).json();
    assert_eq!(report["device"], "cuda:0");
    assert!(report["card_mb"].as_f64().is_some_and(|mb| mb > 1.0), "{report}");
    assert_eq!(report["read_limit_gbps"].is_null(), report["decode_of_limit"].is_null());
    let (limit, tops) = (&report["mac_limit_gmacs"], &report["limits"]["int8_tops"]);
    let is_twice = |limit: f64, tops: f64| (limit * 2.0 / 1e3 / tops - 1.0).abs() < 1e-9;
    match (limit.as_f64(), tops.as_f64()) {
        (Some(limit), Some(tops)) => assert!(is_twice(limit, tops), "{report}"),
        (limit, tops) => assert_eq!(limit, tops, "{report}"),
    }
}

#[test]
fn texts_are_written_by_several_samplers() {
    let args = ["bench", &arg(&model()), "--write", "-n", "9", "--repeat", "1", "--threads", "1"];
    let report = brooklet(args.into_iter().chain(["--json", "--device", "cpu"])).json();
    assert_eq!((&report["tokens"], &report["device"]), (&9.into(), &"cpu".into()));
    let rows = report["rows"].as_array().expect("a list");
    let is_timed = |row: &serde_json::Value| row["by_host_tps"].as_f64().is_some_and(|t| t > 1.0);
    assert!(rows.len() == 4 && rows.iter().all(is_timed), "{report}");
    // The processor is the host.
    assert!(rows.iter().all(|row| row["alone_share"] == 0.0), "{report}");
    let table = brooklet(args.into_iter().chain(["--device", "cpu"])).ok();
    assert!(table.contains("temperature, top-p ") && table.contains(" -\n"), "{table}");
}

#[test]
fn sequences_are_shared_among_devices() {
    let model = arg(&model());
    let args = ["bench", &model, "-n", "3", "--repeat", "2", "--threads", "1", "-b", "5"];
    let on = |devices: &'static str| args.into_iter().chain(["--devices", devices]);
    let report = brooklet(on("cpu,cpu").chain(["--json"])).json();
    let rows = report["devices"].as_array().expect("a list");
    let of = |row: &serde_json::Value| (row["device"].clone(), row["sequences"].clone());
    let expected = [3, 2].map(|n| ("cpu".into(), n.into()));
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected, "{report}");
    // Each has been timed.
    let tps = |of: &serde_json::Value| of["decode_tps"].as_f64().expect("a rate");
    assert!(rows.iter().all(|row| tps(row) > 1.0) && tps(&report) > 1.0, "{report}");
    assert_eq!(report["decode_tps_all"].as_array().map(Vec::len), Some(2));
    let table = brooklet(on("cpu,cpu")).ok();
    assert!(table.contains("together              5"), "{table}");
    let few = brooklet(on("cpu,cpu,cpu,cpu,cpu,cpu")).fails(2);
    assert!(few.contains("5 sequences for 6 devices") && few.contains("-b 6"), "{few}");
    brooklet(on("cpu,tpu")).fails(2);
    brooklet(on("cpu").chain(["--device", "cpu"])).fails(2);
}

#[test]
fn synthetic_models_run_and_stay_in_the_cache() {
    let cache = folder();
    let bench = |name: &str, dtype: &str| {
        let args = [
            "bench",
            "--synthetic",
            name,
            "--type",
            dtype,
            "-p",
            "0",
            "-n",
            "1",
            "--repeat",
            "1",
            "--json",
        ];
        finish(command(args).env("XDG_CACHE_HOME", cache.path()), b"").json()
    };
    let report = bench("rwkv7-0.1b", "int4");
    assert_eq!(report["architecture"], "rwkv7");
    assert!(
        report["weights_mb"].as_f64().is_some_and(|mb| (60.0..130.0).contains(&mb)),
        "{report}"
    );
    let files = names_in(&cache.path().join("brooklet"));
    assert!(files.len() == 1 && files[0].starts_with("rwkv7-0.1b-int4-"), "{files:?}");
    let file = arg(&cache.path().join("brooklet").join(&files[0]));
    brooklet(["verify", &file, "-q"]).ok();
    bench("rwkv7-0.1b", "int4");
    assert_eq!(names_in(&cache.path().join("brooklet")), files);
    for family in ["mamba1", "mamba2"] {
        let report = bench(&format!("{family}-130m"), "int4");
        assert_eq!(report["architecture"], *family);
        if cfg!(target_os = "linux") {
            // Models of 0.1B weights run in 150 MB of address space, of which the program as tests
            // have it takes 38, a tenth of it a card's kernels.
            let script =
                "ulimit -v 153600; exec \"$0\" logits \"$1\" --ids - --out \"$2\" --threads 2";
            let name = report["model"].as_str().expect("a name");
            let file = arg(&cache.path().join("brooklet").join(name));
            let out = arg(&cache.path().join("logits.npy"));
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", script, env!("CARGO_BIN_EXE_brooklet"), &file, &out]);
            let done = finish(&mut shell, b"1 2 3");
            assert_eq!(done.code, Some(0), "{done:?}");
        }
    }
}

#[test]
fn endurance_compares_the_last_tokens_with_the_first() {
    let model = arg(&model());
    let report =
        brooklet(["bench", &model, "--endurance", "300", "--threads", "1", "--json"]).json();
    assert_eq!((&report["tokens"], &report["window"]), (&300.into(), &150.into()));
    for window in ["first", "last"] {
        let at = |field: &str| report[window][field].as_f64().expect("a number");
        assert!(at("p50_us") > 0.0 && at("p50_us") <= at("p99_us"), "{report}");
        assert!(!cfg!(target_os = "linux") || at("private_bytes") > 1e5, "{report}");
    }
    let table = brooklet(["bench", &model, "--endurance", "3", "--threads", "1"]).ok();
    assert!(table.contains("all logits finite") && table.contains("last"), "{table}");
}
