//! What a state is good for, measured: a fork, going back, and the prompts of an agent.
//!
//! `cargo bench --bench states -- MODEL.brk` prints a table; without a model the demo model is
//! used. Times are medians. `brooklet bench --synthetic rwkv7-0.4b` makes a model of real
//! dimensions in the cache folder.

use std::path::PathBuf;
use std::time::Instant;

use brooklet::prefix::{PrefixCache, Reading};
use brooklet::{EngineOptions, Model, Result, Session};
use brooklet_benches::demo_model;

const REPEAT: usize = 21;

/// How far back can be gone.
const BACK: usize = 64;

fn main() -> Result<()> {
    // Cargo hands its own flag over.
    let path = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let path = path.map_or_else(demo_model, PathBuf::from);
    let model = Model::open(&path)?;
    println!("{}, states of {} bytes", path.display(), model.state_layout().bytes());
    sessions(&model)?;
    agent(&model)
}

/// Milliseconds: the median.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let done = work();
    (start.elapsed().as_secs_f64() * 1e3, done)
}

/// Tokens that mean nothing, different for each seed.
fn tokens(model: &Model, n: usize, seed: u64) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..n).map(|_| random.u32(0..model.n_vocab() as u32)).collect()
}

/// A token, a fork, and going back.
fn sessions(model: &Model) -> Result<()> {
    let mut session = Session::new(model, &EngineOptions::new());
    let ids = tokens(model, 200, 1);
    session.prefill(&ids)?;
    let step = |session: &mut Session| -> Result<f64> {
        let times = ids[..REPEAT].iter().map(|id| {
            let (time, done) = timed(|| session.step(*id).map(|_| ()));
            done.map(|()| time)
        });
        Ok(median(times.collect::<Result<_>>()?))
    };
    let plain = step(&mut session)?;
    let fork = median((0..REPEAT).map(|_| timed(|| session.state().clone()).0).collect());
    session.keep_rollback(BACK);
    for id in &ids[..2 * BACK] {
        session.step(*id)?;
    }
    let kept = step(&mut session)?;
    println!("a token                       {plain:9.3} ms");
    println!("a token, the way back kept    {kept:9.3} ms");
    println!("a fork                        {fork:9.3} ms");
    for n in [1, 4, 8, 9, 16, 33, 64] {
        let mut times = Vec::new();
        for _ in 0..REPEAT {
            let (time, done) = timed(|| session.rollback(n));
            done?;
            times.push(time);
            for id in &ids[..n] {
                session.step(*id)?;
            }
        }
        println!("{n:2} tokens back                {:9.3} ms", median(times));
    }
    Ok(())
}

/// The prompts of an agent: instructions, then turns in which it calls a tool and reads what that
/// gives. Every prompt is the whole conversation, as an interface without memory sends it; each
/// fourth turn drops the thoughts of the one before, each fifth is asked a second time.
fn agent(model: &Model) -> Result<()> {
    const TURNS: u64 = 20;
    let mut session = Session::new(model, &EngineOptions::new());
    let mut cache = PrefixCache::new(model, 1 << 30);
    let mut talk = tokens(model, 1500, 7);
    let (mut all, mut seconds, mut prompts) = (Reading::default(), 0.0, 0);
    for turn in 0..TURNS {
        let asks = if turn % 5 == 4 { 2 } else { 1 };
        for _ in 0..asks {
            let (time, reading) = timed(|| cache.prefill(&mut session, &talk, &[1500], |_| true));
            let reading = reading?;
            all.reused += reading.reused;
            all.replayed += reading.replayed;
            all.computed += reading.computed;
            (seconds, prompts) = (seconds + time / 1e3, prompts + 1);
        }
        // Thoughts, a call, and what the tool says.
        let begin = talk.len();
        talk.extend(tokens(model, 120, 100 + turn));
        for id in &talk[begin..] {
            session.step(*id)?;
        }
        cache.keep(&session, &talk)?;
        if turn % 4 == 3 {
            talk.drain(begin..begin + 80);
        }
        talk.extend(tokens(model, 300, 200 + turn));
    }
    let n = all.tokens();
    let share = |part: usize| 100.0 * part as f64 / n as f64;
    println!(
        "an agent's {prompts} prompts: {n} tokens, {} reused ({:.1} %), {} replayed ({:.1} %), \
         {} computed; {seconds:.2} s of reading",
        all.reused,
        share(all.reused),
        all.replayed,
        share(all.replayed),
        all.computed,
    );
    let (time, done) = timed(|| {
        session.reset();
        session.prefill(&talk).map(|_| ())
    });
    done?;
    println!(
        "the last prompt alone, read from the start: {} tokens, {:.2} s",
        talk.len(),
        time / 1e3
    );
    Ok(())
}
