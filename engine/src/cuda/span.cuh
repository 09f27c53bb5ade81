// Heads over the tokens of a run: a head's state stays in registers while tokens go through it.
// The order of operations is that of `token` in `recurrence.cuh`.
//
//   no delta   a thread has a value of 64 keys. Heads of more keys have a thread for each 64: the
//              first begins a token's sum, the next goes on with it a batch of tokens later
//   delta      what the state reads of token t + 1 is summed while token t comes in. Two lanes have
//              a value, half of its keys each: both take the token in, the first sums its half,
//              then the second goes on with both sums
//   the rest   threads that have no value bring the batch of tokens after the next one

#if __CUDA_ARCH__ >= 900

// Tokens of a batch (28 parts), and batches that are there: one for each part, the next, and one on
// its way.
#define SPAN_TOKENS 4
#define SPAN_PARTS 4
#define SPAN_BATCHES (SPAN_PARTS + 2)

// Where a token's numbers stand in the block's own memory: r, k, decays, a and b by keys, then
// values, then the decay of all keys, the rule's factor and what values are multiplied by.
struct SpanToken {
    u32 k, decay, a, b, v, numbers, floats;

    __device__ SpanToken(const Op &op) {
        k = op.n_key;
        decay = k + op.n_key;
        a = decay + (op.is_per_key ? op.n_key : 0);
        b = a + (op.delta == 1 ? op.n_key : 0);
        v = b + (op.delta == 1 ? op.n_key : 0);
        numbers = v + op.n_value;
        floats = numbers + 4;
    }
};

// Whether a field is read sixteen bytes at a time.
__device__ inline bool is_by_four(const OfHead &of) {
    return (of.first | of.step | of.stride) % 4 == 0;
}

// Whether heads are of those that stay in registers: of the rules of delta those of the models that
// people run.
__device__ inline bool is_span(const Op &op) {
    bool fits = op.delta ? op.n_key == (op.delta == 1 ? 64 : 128) && op.n_value <= 128
                         : op.n_key % 64 == 0 && op.n_key / 64 <= SPAN_PARTS &&
                               op.n_key / 64 * op.n_value <= THREADS - 256;
    bool is_known = op.delta == 1 ? op.is_per_key : !op.bias || op.is_per_key;
    bool is_aligned = is_by_four(op.r) && is_by_four(op.k) && is_by_four(op.v) &&
                      (!op.is_per_key || is_by_four(op.decay)) &&
                      (op.delta != 1 || (is_by_four(op.a) && is_by_four(op.b)));
    u32 floats = SPAN_TOKENS * (SPAN_BATCHES * SpanToken(op).floats + 5 * op.n_value) + op.n_key;
    return op.over <= 1 && !op.x.first && fits && is_known && is_aligned &&
           !(op.delta && op.bias) && op.n_value % 32 == 0 && 4 * floats + 256 <= RING_BYTES;
}

// Sixteen threads' part of every batch: a field of one of its tokens, four floats a thread, or the
// token's numbers. Where it stands is found once, since batches follow each other.
struct SpanPart {
    const float *from;
    // Where it goes in a batch, its floats (of one thread's number 1), and the batch's token.
    u32 at, n, token;
    // Floats from a batch to the next.
    u32 step;

    __device__ SpanPart(const Op &op, const SpanToken &of, u32 head, u32 first, u32 which) {
        u32 lane = threadIdx.x % 16;
        token = which % SPAN_TOKENS, which /= SPAN_TOKENS;
        u32 c = first + token;
        from = 0, n = 0, step = 0;
        const OfHead *field = 0;
        if (which == 0) field = &op.r, at = 0, n = of.k;
        if (which == 1) field = &op.k, at = of.k, n = of.k;
        if (which == 2) field = &op.v, at = of.v, n = op.n_value;
        if (which == 3 && op.is_per_key) field = &op.decay, at = of.decay, n = of.k;
        if (which == 4 && op.delta == 1) field = &op.a, at = of.a, n = of.k;
        if (which == 5 && op.delta == 1) field = &op.b, at = of.b, n = of.k;
        if (which == 6 && lane == 0) field = &op.decay, at = of.numbers, n = 1;
        if (field) from = of_head(*field, head, c), step = SPAN_TOKENS * field->stride;
        if (which == 6 && (lane == 1 || lane == 2)) {
            const Values &of_heads = lane == 1 ? op.factor : op.scale;
            at = of.numbers + lane, n = 1;
            if (of_heads.first) {
                from = of_heads.first + (u64)c * of_heads.stride + head;
                step = SPAN_TOKENS * of_heads.stride;
            }
        }
        at += token * of.floats;
    }

    // Asks for it in batch `batch`, of which `tokens` tokens are there.
    __device__ __forceinline__ void ask(float *to, u32 batch, u32 tokens) const {
        if (token >= tokens || n == 0) return;
        const float *mine = from + (u64)batch * step;
        if (n > 1) {
            for (u32 j = threadIdx.x % 16 * 4; j < n; j += 64)
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                                 near_address(to + at + j)),
                             "l"(mine + j)
                             : "memory");
        } else if (from) {
            asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(near_address(to + at)),
                         "l"(mine)
                         : "memory");
        } else {
            to[at] = 1.0f;
        }
    }
};

// `N` numbers of the block's own memory, asked for where this stands: behind what `done` and `also`
// are made of, so that the compiler does not ask for all of them at once.
template <u32 N> struct Asked {
    float v[N];

    __device__ __forceinline__ void ask(u32 at, float done, float also) {
#pragma unroll
        for (u32 i = 0; i < N; i += 4)
            asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                         : "=f"(v[i]), "=f"(v[i + 1]), "=f"(v[i + 2]), "=f"(v[i + 3])
                         : "r"(at + 4 * i), "f"(done), "f"(also));
    }
};

// Where the keys of a thread stand, in bytes: from the beginning of a token, and once from that of
// all. What the compiler cannot see through it adds as a number of each read, not before it.
struct KeyPlaces {
    u32 r, k, decay, a, b;

    __device__ __forceinline__ KeyPlaces(const SpanToken &of, u32 begin) {
        r = 4 * begin, k = 4 * (of.k + begin), decay = 4 * (of.decay + begin);
        a = 4 * (of.a + begin), b = 4 * (of.b + begin);
    }

    __device__ __forceinline__ KeyPlaces(const KeyPlaces &from, u32 token) {
        r = from.r + token, k = from.k + token, decay = from.decay + token;
        a = from.a + token, b = from.b + token;
        asm volatile("" : "+r"(r), "+r"(k), "+r"(decay), "+r"(a), "+r"(b));
    }
};

// What `N` keys of a token bring.
template <u32 N, u32 DELTA, bool IS_PER_KEY, bool HAS_BONUS> struct Keys {
    Asked<N> r, k, d, b, reads, of_next, u;

    // From key `i` of the thread's on.
    __device__ __forceinline__ void ask(const KeyPlaces &own, const KeyPlaces &next, u32 bonus,
                                        u32 i, float done, float also) {
        k.ask(own.k + 4 * i, done, also);
        if (DELTA == 1) b.ask(own.b + 4 * i, done, also);
        if (IS_PER_KEY) d.ask(own.decay + 4 * i, done, also);
        if (HAS_BONUS) u.ask(bonus + 4 * i, done, also);
        r.ask(own.r + 4 * i, done, also);
        if (DELTA) reads.ask((DELTA == 1 ? next.a : next.k) + 4 * i, done, also);
        if (DELTA == 2 && IS_PER_KEY) of_next.ask(next.decay + 4 * i, done, also);
        // The compiler would ask just before use, and wait each time.
        __syncwarp();
    }

    // What the state reads of the next token by key i.
    __device__ __forceinline__ float read(u32 i, float decay_next) const {
        if (DELTA == 1) return reads.v[i];
        return reads.v[i] * (IS_PER_KEY ? of_next.v[i] : decay_next);
    }
};

// `KEYS` keys of a value over the tokens of a run.
template <bool IS_HALF, u32 DELTA, bool IS_PER_KEY, bool HAS_BONUS, u32 KEYS> struct Value {
    // Keys that are asked for while those before them are used.
    static constexpr u32 N = DELTA || HAS_BONUS ? 4 : 8;
    const SpanToken &of;
    const KeyPlaces places;
    // Rows of the state behind the last token; what is kept of them may be f16.
    float s[KEYS];
    // What the state reads of the token that comes.
    float old;
    u32 bonus;

    __device__ __forceinline__ float kept(u32 i) const {
        return IS_HALF ? half_to_float(float_to_kept(s[i])) : s[i];
    }

    // The reads of the run's first token: first over the lower half of the keys, then the upper.
    __device__ __forceinline__ void read(const float *token, u32 begin) {
        if (DELTA == 0) return;
        float decay = token[of.numbers];
        old = 0.0f;
#pragma unroll 1
        for (u32 turn = 0; turn < 2; turn++) {
            float sum = old;
#pragma unroll
            for (u32 i = 0; i < KEYS; i++) {
                float by = token[(DELTA == 1 ? of.a : of.k) + begin + i];
                if (DELTA == 2) by = by * (IS_PER_KEY ? token[of.decay + begin + i] : decay);
                sum = fmaf(kept(i), by, sum);
            }
            old = __shfl_sync(~0u, sum, threadIdx.x % 32 / 2 * 2 + turn);
        }
    }

    // Takes a token in, where `sum` has come so far; reads the next one.
    __device__ __forceinline__ float take(const float *token, const float *next, u32 value,
                                          float sum) {
        float v = token[of.numbers + 2] * token[of.v + value], now = old;
        float decay = token[of.numbers], decay_next = next[of.numbers];
        if (DELTA == 2) v = fmaf(now, token[of.numbers + 1], v);
        const KeyPlaces own(places, near_address(token)), then(places, near_address(next));
        old = 0.0f;
        Keys<N, DELTA, IS_PER_KEY, HAS_BONUS> here, coming;
        here.ask(own, then, bonus, 0, sum, old);
#pragma unroll
        for (u32 i = 0; i < KEYS; i += N) {
            if (i + N < KEYS) coming.ask(own, then, bonus, i + N, sum, old);
#pragma unroll
            for (u32 j = 0; j < N; j++) {
                float was = kept(i + j), kv = v * here.k.v[j];
                float fresh = DELTA == 1 ? fmaf(now, here.b.v[j], kv) : kv;
                float after = fmaf(was, IS_PER_KEY ? here.d.v[j] : decay, fresh);
                float seen = HAS_BONUS ? fmaf(kv, here.u.v[j], was) : after;
                sum = fmaf(seen, here.r.v[j], sum);
                s[i + j] = after;
                if (DELTA) old = fmaf(kept(i + j), here.read(j, decay_next), old);
            }
            here = coming;
        }
        return DELTA ? upper_half(own, then, decay_next, sum) : sum;
    }

    // Both sums from the lower half of the keys on over the upper one: in its lane.
    __device__ __forceinline__ float upper_half(const KeyPlaces &own, const KeyPlaces &then,
                                                float decay_next, float sum) {
        u32 lower = threadIdx.x % 32 / 2 * 2;
        sum = __shfl_sync(~0u, sum, lower);
        old = __shfl_sync(~0u, old, lower);
        Asked<8> r, reads, d, r_next, reads_next, d_next;
        auto ask = [&](Asked<8> &of_r, Asked<8> &of_reads, Asked<8> &of_d, u32 i) {
            of_r.ask(own.r + 4 * i, sum, old);
            of_reads.ask((DELTA == 1 ? then.a : then.k) + 4 * i, sum, old);
            if (DELTA == 2 && IS_PER_KEY) of_d.ask(then.decay + 4 * i, sum, old);
            __syncwarp();
        };
        ask(r, reads, d, 0);
#pragma unroll
        for (u32 i = 0; i < KEYS; i += 8) {
            if (i + 8 < KEYS) ask(r_next, reads_next, d_next, i + 8);
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                float by = reads.v[j];
                if (DELTA == 2) by = by * (IS_PER_KEY ? d.v[j] : decay_next);
                sum = fmaf(s[i + j], r.v[j], sum);
                old = fmaf(kept(i + j), by, old);
            }
            r = r_next, reads = reads_next, d = d_next;
        }
        old = __shfl_sync(~0u, old, lower + 1);
        return sum;
    }
};

template <bool IS_HALF, u32 DELTA, bool IS_PER_KEY, bool HAS_BONUS, u32 KEYS>
__device__ __noinline__ void span_of(const Op &op, u8 *state, u32 head, u32 first, u32 end) {
    const SpanToken of(op);
    u32 n_key = op.n_key, n_value = op.n_value, parts = DELTA ? 1 : n_key / KEYS;
    u32 value = DELTA ? threadIdx.x / 2 : threadIdx.x % n_value;
    u32 part = DELTA ? 0 : threadIdx.x / n_value;
    u32 begin = DELTA ? threadIdx.x % 2 * KEYS : part * KEYS;
    bool is_mine = DELTA ? value < n_value : part < parts;
    u32 batch_floats = SPAN_TOKENS * of.floats, sums_floats = SPAN_TOKENS * n_value;
    float *tokens = (float *)(room + ROOM + 2 * STAGE_BYTES);
    float *sums = tokens + SPAN_BATCHES * batch_floats, *bonus = sums + (parts + 1) * sums_floats;
    Value<IS_HALF, DELTA, IS_PER_KEY, HAS_BONUS, KEYS> mine = {of, {of, begin}};
    mine.bonus = near_address(bonus + begin), mine.old = 0.0f;
    __syncthreads();
    if (is_mine) {
#pragma unroll
        for (u32 j = 0; j < KEYS; j++)
            mine.s[j] = kept_at<IS_HALF>(state, (begin + j) * n_value + value);
    }
    if (HAS_BONUS)
        for (u32 i = threadIdx.x; i < n_key; i += THREADS) bonus[i] = op.bias[head * n_key + i];
    // The warps that bring begin behind those that have values; each sixteen threads have at most
    // two parts of a batch.
    u32 busy = (DELTA ? 2 : parts) * n_value / 16, groups = THREADS / 16 - busy;
    u32 group = threadIdx.x / 16 - busy;
    const SpanPart one(op, of, head, first, group), two(op, of, head, first, group + groups);
    auto ask = [&](u32 batch) {
        if (threadIdx.x / 16 < busy || first + batch * SPAN_TOKENS >= end) return;
        float *to = tokens + batch % SPAN_BATCHES * batch_floats;
        u32 n = min(SPAN_TOKENS, end - first - batch * SPAN_TOKENS);
        one.ask(to, batch, n);
        two.ask(to, batch, n);
    };
    ask(0);
    ask(1);
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    if (is_mine) mine.read(tokens, begin);
    u32 batches = (end - first + SPAN_TOKENS - 1) / SPAN_TOKENS;
    for (u32 step = 0; step + 1 < batches + parts; step++) {
        ask(step + 2);
        u32 batch = step - part;
        if (is_mine && step >= part && batch < batches) {
            float *sum_at = sums + batch % (parts + 1) * sums_floats + value;
            u32 c = first + batch * SPAN_TOKENS, n = min(SPAN_TOKENS, end - c);
            const float *here = tokens + batch % SPAN_BATCHES * batch_floats;
            const float *then = tokens + (batch + 1) % SPAN_BATCHES * batch_floats;
#pragma unroll 1
            for (u32 i = 0; i < n; i++) {
                const float *token = here + i * of.floats;
                // Behind the last token something is read that nobody uses.
                const float *next = i + 1 < SPAN_TOKENS ? token + of.floats : then;
                float sum = part > 0 ? sum_at[i * n_value] : 0.0f;
                sum = mine.take(token, next, value, sum);
                if (part + 1 < parts) sum_at[i * n_value] = sum;
                else if (!DELTA || begin > 0)
                    op.y.first[(u64)(c + i) * op.y.stride + head * n_value + value] = sum;
            }
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
    }
    if (is_mine) {
#pragma unroll
        for (u32 j = 0; j < KEYS; j++)
            keep_at<IS_HALF>(state, (begin + j) * n_value + value, mine.s[j]);
    }
}

// A head's state.
__device__ inline u8 *state_of(const Op &op, const Pieces &p, u32 run, u32 head) {
    return p.pass.states[run] + 64ull * op.line[0] +
           (u64)head * op.n_key * op.n_value * (op.is_half ? 2 : 4);
}

// A token of each of many runs: as many heads at once as have threads, each with a team of its own.
template <bool IS_HALF, u32 DELTA, bool IS_PER_KEY, bool HAS_BONUS, u32 KEYS>
__device__ __noinline__ void teams_of(const Op &op, const Pieces &p, u32 first, u32 n) {
    const SpanToken of(op);
    u32 n_key = op.n_key, n_value = op.n_value, parts = DELTA ? 1 : n_key / KEYS;
    u32 threads = DELTA ? 2 * n_value : parts * n_value, team = threadIdx.x / threads;
    u32 teams = THREADS / threads, thread = threadIdx.x % threads;
    u32 value = DELTA ? thread / 2 : thread % n_value, part = DELTA ? 0 : thread / n_value;
    u32 begin = DELTA ? thread % 2 * KEYS : part * KEYS;
    float *token = (float *)(room + ROOM + 2 * STAGE_BYTES) + team * (of.floats + n_value + n_key);
    float *sums = token + of.floats, *bonus = sums + n_value;
    if (team >= teams) return;
    auto wait = [&] {
        asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(threads) : "memory");
    };
    Value<IS_HALF, DELTA, IS_PER_KEY, HAS_BONUS, KEYS> mine = {of, {of, begin}};
    mine.bonus = near_address(bonus + begin), mine.old = 0.0f;
#pragma unroll 1
    for (u32 i = team; i < n * p.runs(); i += teams) {
        u32 run = p.first_run + i / n, head = first + i % n, c = p.pass.spans[run];
        if (p.pass.spans[run + 1] - c != 1) continue;
        u8 *state = state_of(op, p, run, head);
        // The compiler would find where all keys stand before the loop, and keep that far away.
        u32 apart = n_value;
        asm volatile("" : "+r"(apart));
#pragma unroll
        for (u32 j = 0; j < KEYS; j++)
            mine.s[j] = kept_at<IS_HALF>(state, (begin + j) * apart + value);
        // All that the token brings is asked for before the first of it is put down.
        const float *fields[6] = {of_head(op.r, head, c), of_head(op.k, head, c),
                                  of_head(op.decay, head, c)};
        if (DELTA == 1) fields[3] = of_head(op.a, head, c), fields[4] = of_head(op.b, head, c);
        if (HAS_BONUS) fields[5] = op.bias + head * n_key;
        u32 own = min(thread, n_value - 1), which = min(thread, 2);
        float v = of_head(op.v, head, c)[own], number = fields[2][0];
        const Values &by = which == 1 ? op.factor : op.scale;
        if (which > 0) number = by.first ? by.first[(u64)c * by.stride + head] : 1.0f;
        for (u32 j = thread; j < n_key; j += threads) {
            float got[6];
#pragma unroll
            for (u32 field = 0; field < 6; field++) {
                bool is_there = field < 2 || (field == 2 && IS_PER_KEY) ||
                                (field == 5 && HAS_BONUS) || (DELTA == 1 && field < 5);
                if (is_there) got[field] = fields[field][j];
            }
            token[j] = got[0];
            token[of.k + j] = got[1];
            if (IS_PER_KEY) token[of.decay + j] = got[2];
            if (DELTA == 1) token[of.a + j] = got[3], token[of.b + j] = got[4];
            if (HAS_BONUS) bonus[j] = got[5];
        }
        if (thread < n_value) token[of.v + thread] = v;
        if (thread < 3) token[of.numbers + thread] = number;
        wait();
        mine.read(token, begin);
        float sum = 0.0f;
#pragma unroll 1
        for (u32 turn = 0; turn < parts; turn++) {
            // What it reads of a next token nobody uses.
            if (turn == part)
                sum = mine.take(token, token, value, turn > 0 ? sums[value] : 0.0f);
            if (turn == part && turn + 1 < parts) sums[value] = sum;
            wait();
        }
        if (part + 1 == parts && (!DELTA || begin > 0))
            op.y.first[(u64)c * op.y.stride + head * n_value + value] = sum;
        asm volatile("" : "+r"(apart));
#pragma unroll
        for (u32 j = 0; j < KEYS; j++)
            keep_at<IS_HALF>(state, (begin + j) * apart + value, mine.s[j]);
    }
}

template <bool IS_HALF, u32 DELTA, bool IS_PER_KEY, bool HAS_BONUS, u32 KEYS>
__device__ __forceinline__ void spans_of(const Op &op, const Pieces &p, u32 first, u32 n) {
    bool has_short = false;
    for (u32 i = 0; i < n * p.runs(); i++) {
        u32 run = p.first_run + i / n, head = first + i % n, c = p.pass.spans[run],
            end = p.pass.spans[run + 1];
        if (end - c == 1) has_short = true;
        else
            span_of<IS_HALF, DELTA, IS_PER_KEY, HAS_BONUS, KEYS>(op, state_of(op, p, run, head),
                                                                 head, c, end);
    }
    __syncthreads();
    if (has_short) teams_of<IS_HALF, DELTA, IS_PER_KEY, HAS_BONUS, KEYS>(op, p, first, n);
}

template <bool IS_HALF>
__device__ void spans_with(const Op &op, const Pieces &p, u32 first, u32 n) {
    if (op.delta == 0 && op.bias) spans_of<IS_HALF, 0, true, true, 64>(op, p, first, n);
    else if (op.delta == 0 && op.is_per_key)
        spans_of<IS_HALF, 0, true, false, 64>(op, p, first, n);
    else if (op.delta == 0) spans_of<IS_HALF, 0, false, false, 64>(op, p, first, n);
    else if (op.delta == 1) spans_of<IS_HALF, 1, true, false, 32>(op, p, first, n);
    else if (op.is_per_key) spans_of<IS_HALF, 2, true, false, 64>(op, p, first, n);
    else spans_of<IS_HALF, 2, false, false, 64>(op, p, first, n);
}

__device__ __noinline__ void span(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    if (op.is_half) spans_with<true>(op, p, first, n);
    else spans_with<false>(op, p, first, n);
}

#endif
