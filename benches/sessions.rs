//! Sessions end to end. The demo model, which every clone has: opening it, one token, a prompt. And
//! one token of a tiny model of each architecture, from the test fixtures.

use std::time::Duration;

use brooklet::{EngineOptions, Isa, Model, Session};
use brooklet_benches::demo_model;
use brooklet_formats::DType;
use brooklet_tests::{MODELS, converted, fixture, open};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Tokens of the prompt.
const PROMPT: u32 = 512;

fn open_file(c: &mut Criterion) {
    let path = demo_model();
    c.bench_function("open", |b| b.iter(|| Model::open(&path).expect("the demo model")));
}

fn tokens(c: &mut Criterion) {
    let model = Model::open(demo_model()).expect("the demo model");
    let mut group = c.benchmark_group("tokens");
    for threads in [1, 2] {
        let options = EngineOptions::new().threads(threads);
        let mut session = Session::new(&model, &options);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("decode", threads), |b| {
            b.iter(|| session.step(7).expect("a token")[0]);
        });
        let prompt: Vec<u32> = (0..PROMPT).collect();
        group.throughput(Throughput::Elements(u64::from(PROMPT)));
        group.bench_function(BenchmarkId::new("prompt", threads), |b| {
            b.iter(|| session.prefill(&prompt).expect("a prompt")[0]);
        });
    }
}

/// One token of a tiny model of each architecture: what a forward pass costs besides reading
/// weights.
fn architectures(c: &mut Criterion) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut group = c.benchmark_group("token of");
    group.throughput(Throughput::Elements(1));
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let model = open(&converted(&source, temp.path(), DType::Int8), Isa::detect());
        let options = EngineOptions::new().threads(1);
        let mut session = Session::new(&model, &options);
        group.bench_function(*name, |b| b.iter(|| session.step(7).expect("a token")[0]));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = open_file, tokens, architectures
}
criterion_main!(benches);
