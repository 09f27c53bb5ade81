//! Matrix products of every number format on every instruction set of this machine, beside the
//! machine's own limits.
//!
//! `one column` reads 150 MB of weights per product: compare its GB/s with `limit/read`.
//! `64 columns` is a prompt's chunk: compare its multiply-adds per second with `limit/int8` or
//! `limit/f32`. `8 columns`, eight sequences decoded together, does both at once. One thread.

use std::hint::black_box;
use std::time::Duration;

use brooklet::Isa;
use brooklet::bench::{Product, limits};
use brooklet_formats::DType;
use brooklet_formats::zeroed::Zeroed;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Columns of the matrices.
const COLS: usize = 2048;
/// Weights' bytes of a one-column product: far more than a cache holds.
const BYTES: usize = 150_000_000;
/// Those of a prompt's: what a second-level cache holds.
const CACHED: usize = 500_000;

fn instruction_sets() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|isa| *isa != Isa::scalar())
}

fn limit(c: &mut Criterion) {
    let isa = Isa::detect();
    let mut group = c.benchmark_group("limit");
    let mut buffer = Zeroed::<u8>::new(BYTES);
    buffer.fill(1);
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.bench_function("read", |b| b.iter(|| limits::read(isa, black_box(&buffer))));
    group.throughput(Throughput::Elements(limits::int8_multiply_adds(isa, 1000) as u64));
    group.bench_function("int8", |b| b.iter(|| limits::int8_multiply_adds(isa, black_box(1000))));
    group.throughput(Throughput::Elements(limits::f32_multiply_adds(isa, 1000) as u64));
    group.bench_function("f32", |b| b.iter(|| limits::f32_multiply_adds(isa, black_box(1000))));
}

/// Products with `columns` columns in every format on every instruction set; the matrices have
/// `bytes` bytes.
fn products(
    c: &mut Criterion,
    name: &str,
    columns: usize,
    bytes: usize,
    throughput: fn(&Product) -> Throughput,
) {
    let mut group = c.benchmark_group(name);
    for dtype in DType::ALL {
        let rows = bytes * 8 / dtype.element_bits() / COLS;
        for isa in instruction_sets() {
            let mut product =
                Product::new(isa, dtype, rows, COLS, columns).expect("a matrix of that size");
            group.throughput(throughput(&product));
            group.bench_function(BenchmarkId::new(dtype.name(), isa.name()), |b| {
                b.iter(|| product.run())
            });
        }
    }
}

fn bytes_read(product: &Product) -> Throughput {
    Throughput::Bytes(product.weights().len() as u64)
}

fn multiply_adds(product: &Product) -> Throughput {
    Throughput::Elements(product.multiply_adds() as u64)
}

fn one_column(c: &mut Criterion) {
    products(c, "one column", 1, BYTES, bytes_read);
}

fn eight_columns(c: &mut Criterion) {
    products(c, "8 columns", 8, BYTES, multiply_adds);
}

fn many_columns(c: &mut Criterion) {
    products(c, "64 columns", 64, CACHED, multiply_adds);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2));
    targets = limit, one_column, eight_columns, many_columns
}
criterion_main!(benches);
