//! A real model end to end: opening it, one token, a prompt. The demo model, so that every clone can run it.

use std::time::Duration;

use brooklet::{EngineOptions, Model, Session};
use brooklet_benches::demo_model;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Tokens of the prompt.
const PROMPT: u32 = 512;

fn open(c: &mut Criterion) {
    let path = demo_model();
    c.bench_function("open", |b| b.iter(|| Model::open(&path).expect("the demo model")));
}

fn tokens(c: &mut Criterion) {
    let model = Model::open(demo_model()).expect("the demo model");
    let mut group = c.benchmark_group("tokens");
    for threads in [1, 2] {
        let options = EngineOptions { threads, ..EngineOptions::default() };
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

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = open, tokens
}
criterion_main!(benches);
