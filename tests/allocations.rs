//! After its first forward passes a session allocates nothing: the sizes of everything are known
//! when it is made.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::{EngineOptions, Isa, Session};
use brooklet_formats::DType;
use brooklet_tests::{MODELS, converted, fixture, open};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_token_allocates_nothing() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for model in MODELS {
        let Some(source) = fixture(&format!("fixtures/{model}")) else { continue };
        for dtype in [DType::Int4, DType::F16] {
            let model = open(&converted(&source, temp.path(), dtype), Isa::detect());
            let mut session = Session::new(&model, &EngineOptions::new().threads(2));
            let options = SamplerOptions::new()
                .temperature(0.7)
                .top_k(20)
                .top_p(0.9)
                .typical_p(0.95)
                .top_n_sigma(3.0)
                .xtc_probability(0.3)
                .dynatemp_range(0.3)
                .dry_multiplier(0.5)
                .repetition_penalty(1.1);
            let mut sampler = Sampler::new(options, model.n_vocab()).expect("valid options");
            let prompt: Vec<u32> = (0..100).map(|i| i % 250).collect();
            // The first pass starts the threads, and does not wait for them: one that comes late
            // allocates while it starts.
            session.reserve(1000).expect("memory for the tokens");
            session.prefill(&prompt).expect("a prompt");
            let mut allocations = || {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                session.prefill(&prompt).expect("a prompt");
                for _ in 0..20 {
                    let token = sampler.sample(session.logits());
                    sampler.accept(token);
                    session.step(token).expect("a token");
                }
                ALLOCATIONS.load(Ordering::Relaxed) - before
            };
            let counts: Vec<usize> = (0..4).map(|_| allocations()).collect();
            assert!(counts.contains(&0), "{dtype:?}: {counts:?} allocations");
        }
    }
}
