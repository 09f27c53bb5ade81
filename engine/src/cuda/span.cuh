// Heads over the tokens of a run: a head's state stays in registers while tokens go through it.
//
//   no delta   a thread has a value of 32 keys, or of 64 where threads are too few. Heads of more
//              keys have a thread for each part: the first begins a token's sum, the next goes on
//              with it a batch of tokens later
//   delta      what the state reads of token t + 1 is summed while token t comes in. Lanes of a
//              warp share a value: four of 16 keys, or two of 64 (`span_value.cuh`)
//   the rest   threads that have no value bring the batch of tokens after the next one

#if __CUDA_ARCH__ >= 900

// Tokens of a batch, and batches that are there: one for each part, the next, and one on its way.
#define SPAN_TOKENS 4
#define SPAN_PARTS 4
#define SPAN_BATCHES (SPAN_PARTS + 2)
// Threads that have values, at most: each sixteen of the others bring two parts of a batch.
#define SPAN_BUSY (THREADS - 256)
#define SPAN_FIELDS 7
static_assert((THREADS - SPAN_BUSY) / 16 * 2 >= SPAN_TOKENS * SPAN_FIELDS, "all fields come");

// Whether a field is read sixteen bytes at a time.
__device__ inline bool is_by_four(const OfHead &of) {
    return (of.first | of.step | of.stride) % 4 == 0;
}

// Keys of a thread.
__device__ inline u32 keys_of(const Op &op) {
    if (op.delta) return op.delta == 1 ? 16 : 64;
    return op.n_key <= 32 * SPAN_PARTS && op.n_key / 32 * op.n_value <= SPAN_BUSY ? 32 : 64;
}

// Whether heads are of those that stay in registers: of the rules of delta those of the models that
// people run.
__device__ inline bool is_span(const Op &op) {
    u32 keys = keys_of(op);
    bool fits = (op.delta ? op.n_key == (op.delta == 1 ? 64 : 128)
                          : op.n_key % 64 == 0 && op.n_key <= keys * SPAN_PARTS) &&
                op.n_key / keys * op.n_value <= SPAN_BUSY;
    bool is_known = op.delta == 1 ? op.is_per_key : !op.bias || op.is_per_key;
    bool is_aligned = is_by_four(op.r) && is_by_four(op.k) && is_by_four(op.v) &&
                      (!op.is_per_key || is_by_four(op.decay)) &&
                      (op.delta != 1 || (is_by_four(op.a) && is_by_four(op.b)));
    u32 floats = SpanToken(op.n_key, op.n_value, op.delta, op.is_per_key).floats;
    floats = SPAN_TOKENS * (SPAN_BATCHES * floats + (SPAN_PARTS + 1) * op.n_value) + op.n_key;
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
#pragma unroll 1
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

// A head's place in the block, by what its threads are.
template <class Mine> struct SpanHead {
    u32 n_key, n_value, parts, threads;
    SpanToken of;

    __device__ __forceinline__ SpanHead(const Op &op)
        : n_key(Mine::ALL_KEYS ? Mine::ALL_KEYS : op.n_key), n_value(same_in_warp(op.n_value)),
          parts(Mine::DELTA ? 1 : n_key / Mine::KEYS), threads(n_key / Mine::KEYS * n_value),
          of(n_key, n_value, Mine::DELTA, Mine::HAS_DECAYS) {}
};

// Where warps that have values, and those that bring, meet: from different places, which is why it
// is no barrier of the block.
__shared__ u64 meeting;

struct Meeting {
    u32 phase = 0;

    __device__ __forceinline__ void meet() {
        u32 bar = near_address(&meeting);
        __syncwarp();
        if (threadIdx.x % 32 == 0) arrive_near(bar);
        wait_near(bar, phase);
        phase ^= 1;
    }
};

// What threads that have values do: all tokens of a run, a batch at each step.
template <class Mine>
__device__ __forceinline__ void take_batches(const Op &op, const SpanHead<Mine> &at, u8 *state,
                                             u32 head, u32 first, u32 end, const float *tokens,
                                             float *sums, const float *bonus) {
    const Share<Mine> share(threadIdx.x, at.n_value, at.parts);
    Mine mine(at.of, share, bonus);
    // The compiler would find where all keys stand once, and keep that far away over the loop.
    u32 apart = at.n_value;
    asm volatile("" : "+r"(apart));
#pragma unroll
    for (u32 j = 0; j < Mine::KEYS; j++)
        mine.s[j] = kept_at<Mine::IS_HALF>(state, (share.begin + j) * apart + share.value);
    u32 count = same_in_warp(end - first);
    u32 batches = (count + SPAN_TOKENS - 1) / SPAN_TOKENS, stride = op.y.stride;
    float *y = op.y.first + (u64)first * stride + head * at.n_value + share.value;
    // The tokens of all batches stand in a ring.
    u32 ring = near_address(tokens), apart_tokens = 4 * at.of.floats;
    u32 ring_end = ring + SPAN_BATCHES * SPAN_TOKENS * apart_tokens;
    u32 token = ring, next = ring + apart_tokens;
    Meeting others;
    others.meet();
    mine.read(token, next);
#pragma unroll 1
    for (u32 step = 0; step + 1 < batches + at.parts; step++) {
        u32 batch = step - share.part;
        if (step >= share.part && batch < batches) {
            float *sum_at = sums + batch % (at.parts + 1) * SPAN_TOKENS * at.n_value + share.value;
            u32 n = min(SPAN_TOKENS, count - batch * SPAN_TOKENS);
#pragma unroll 1
            for (u32 i = 0; i < n; i++) {
                // Behind the last token something is read that nobody uses.
                u32 behind = next + apart_tokens;
                if (behind == ring_end) behind = ring;
                float sum = share.part > 0 ? sum_at[i * at.n_value] : 0.0f;
                sum = mine.take(token, next, behind, sum);
                if (share.is_last) *y = sum;
                else if (!Mine::DELTA) sum_at[i * at.n_value] = sum;
                token = next, next = behind, y += stride;
            }
        }
        others.meet();
    }
    asm volatile("" : "+r"(apart));
#pragma unroll
    for (u32 j = 0; j < Mine::KEYS; j++)
        keep_at<Mine::IS_HALF>(state, (share.begin + j) * apart + share.value, mine.s[j]);
}

// What the others do: each sixteen of them bring two parts of every batch.
template <class Mine>
__device__ __forceinline__ void bring_batches(const Op &op, const SpanHead<Mine> &at, u32 head,
                                              u32 first, u32 end, float *tokens) {
    u32 batch_floats = SPAN_TOKENS * at.of.floats;
    u32 group = (threadIdx.x - at.threads) / 16, groups = (THREADS - at.threads) / 16;
    const SpanPart one(op, at.of, head, first, group), two(op, at.of, head, first, group + groups);
    u32 batches = (end - first + SPAN_TOKENS - 1) / SPAN_TOKENS;
    Meeting others;
    // Two batches are there before the first step, and each step brings one.
#pragma unroll 1
    for (u32 batch = 0; batch < batches + at.parts + 1; batch++) {
        if (batch < batches) {
            float *to = tokens + batch % SPAN_BATCHES * batch_floats;
            u32 n = min(SPAN_TOKENS, end - first - batch * SPAN_TOKENS);
            one.ask(to, batch, n);
            two.ask(to, batch, n);
        }
        if (batch == 0) continue;
        asm volatile("cp.async.wait_all;" ::: "memory");
        others.meet();
    }
}

template <class Mine>
__device__ __noinline__ void span_of(const Op &op, u8 *state, u32 head, u32 first, u32 end) {
    const SpanHead<Mine> at(op);
    u32 batch_floats = SPAN_TOKENS * at.of.floats;
    float *tokens = (float *)(room + ROOM + 2 * STAGE_BYTES);
    float *sums = tokens + SPAN_BATCHES * batch_floats;
    float *bonus = sums + (at.parts + 1) * SPAN_TOKENS * at.n_value;
    if (threadIdx.x == 0) set_up(near_address(&meeting), THREADS / 32);
    __syncthreads();
    if (Mine::HAS_BONUS)
        for (u32 i = threadIdx.x; i < at.n_key; i += THREADS)
            bonus[i] = op.bias[head * at.n_key + i];
    // Warps have values or bring, and meet behind each step.
    if (threadIdx.x < at.threads)
        take_batches<Mine>(op, at, state, head, first, end, tokens, sums, bonus);
    else bring_batches<Mine>(op, at, head, first, end, tokens);
    __syncthreads();
    if (threadIdx.x == 0) take_down(near_address(&meeting));
}

// A head's state.
__device__ inline u8 *state_of(const Op &op, const Pieces &p, u32 run, u32 head) {
    return p.pass.states[run] + 64ull * op.line[0] +
           (u64)head * op.n_key * op.n_value * (op.is_half ? 2 : 4);
}

// A token of each of many runs: as many heads at once as have threads, each with a team of its own.
template <class Mine>
__device__ __noinline__ void teams_of(const Op &op, const Pieces &p, u32 first, u32 n) {
    const SpanHead<Mine> at(op);
    const SpanToken &of = at.of;
    u32 n_key = at.n_key, n_value = at.n_value, threads = at.threads;
    u32 team = threadIdx.x / threads, thread = threadIdx.x % threads;
    // A block has sixteen barriers, of which all its threads use the first.
    u32 teams = min(THREADS / threads, 15);
    const Share<Mine> share(thread, n_value, at.parts);
    float *token = (float *)(room + ROOM + 2 * STAGE_BYTES) + team * (of.floats + n_value + n_key);
    float *sums = token + of.floats, *bonus = sums + n_value;
    if (team >= teams) return;
    auto wait = [&] {
        asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(threads) : "memory");
    };
    Mine mine(of, share, bonus);
#pragma unroll 1
    for (u32 i = team; i < n * p.runs(); i += teams) {
        u32 run = p.first_run + i / n, head = first + i % n, c = p.pass.spans[run];
        if (p.pass.spans[run + 1] - c != 1) continue;
        u8 *state = state_of(op, p, run, head);
        // The compiler would find where all keys stand before the loop, and keep that far away.
        u32 apart = n_value;
        asm volatile("" : "+r"(apart));
#pragma unroll
        for (u32 j = 0; j < Mine::KEYS; j++)
            mine.s[j] = kept_at<Mine::IS_HALF>(state, (share.begin + j) * apart + share.value);
        // All that the token brings is asked for before the first of it is put down.
        const float *fields[6] = {of_head(op.r, head, c), of_head(op.k, head, c),
                                  of_head(op.decay, head, c)};
        if (Mine::DELTA == 1) {
            fields[3] = of_head(op.a, head, c);
            fields[4] = of_head(op.b, head, c);
        }
        if (Mine::HAS_BONUS) fields[5] = op.bias + head * n_key;
        u32 own = min(thread, n_value - 1), which = min(thread, 2);
        float v = of_head(op.v, head, c)[own], number = fields[2][0];
        const Values &by = which == 1 ? op.factor : op.scale;
        if (which > 0) number = by.first ? by.first[(u64)c * by.stride + head] : 1.0f;
        for (u32 j = thread; j < n_key; j += threads) {
            float got[6];
#pragma unroll
            for (u32 field = 0; field < 6; field++) {
                bool is_there = field < 2 || (field == 2 && Mine::HAS_DECAYS) ||
                                (field == 5 && Mine::HAS_BONUS) ||
                                (Mine::DELTA == 1 && field < 5);
                if (is_there) got[field] = fields[field][j];
            }
            token[j] = got[0];
            token[of.k + j] = got[1];
            if (Mine::HAS_DECAYS) token[of.decay + j] = got[2];
            if (Mine::DELTA == 1) token[of.a + j] = got[3], token[of.b + j] = got[4];
            if (Mine::HAS_BONUS) bonus[j] = got[5];
        }
        if (thread < n_value) token[of.v + thread] = v;
        if (thread < 3) token[of.numbers + thread] = number;
        wait();
        u32 place = near_address(token);
        mine.read(place, place);
        float sum = 0.0f;
#pragma unroll 1
        for (u32 turn = 0; turn < at.parts; turn++) {
            // What it reads of a next token nobody uses.
            if (turn == share.part)
                sum = mine.take(place, place, place, turn > 0 ? sums[share.value] : 0.0f);
            if (turn == share.part && turn + 1 < at.parts) sums[share.value] = sum;
            wait();
        }
        if (share.is_last) op.y.first[(u64)c * op.y.stride + head * n_value + share.value] = sum;
        asm volatile("" : "+r"(apart));
#pragma unroll
        for (u32 j = 0; j < Mine::KEYS; j++)
            keep_at<Mine::IS_HALF>(state, (share.begin + j) * apart + share.value, mine.s[j]);
    }
}

// Runs of one token are read by threads of `Team`: for them it is best to have many keys, so that
// more of the states is on its way.
template <class Mine, class Team = Mine>
__device__ __forceinline__ void spans_of(const Op &op, const Pieces &p, u32 first, u32 n) {
    bool has_short = false;
    for (u32 i = 0; i < n * p.runs(); i++) {
        u32 run = p.first_run + i / n, head = first + i % n, c = p.pass.spans[run],
            end = p.pass.spans[run + 1];
        if (end - c == 1) has_short = true;
        else span_of<Mine>(op, state_of(op, p, run, head), head, c, end);
    }
    __syncthreads();
    if (has_short) teams_of<Team>(op, p, first, n);
}

// No delta: a thread has so many keys.
template <bool IS_HALF, bool IS_PER_KEY, bool HAS_BONUS, u32 KEYS>
using Plain = Streamed<IS_HALF, 0, IS_PER_KEY, HAS_BONUS, KEYS>;

template <bool H, u32 KEYS>
__device__ __forceinline__ void spans_without(const Op &op, const Pieces &p, u32 first, u32 n) {
    if (op.bias) spans_of<Plain<H, true, true, KEYS>, Plain<H, true, true, 64>>(op, p, first, n);
    else if (op.is_per_key)
        spans_of<Plain<H, true, false, KEYS>, Plain<H, true, false, 64>>(op, p, first, n);
    else spans_of<Plain<H, false, false, KEYS>, Plain<H, false, false, 64>>(op, p, first, n);
}

template <bool IS_HALF>
__device__ void spans_with(const Op &op, const Pieces &p, u32 first, u32 n) {
    if (op.delta == 1) spans_of<Held<IS_HALF>>(op, p, first, n);
    else if (op.delta && op.is_per_key)
        spans_of<Streamed<IS_HALF, 2, true, false, 64>>(op, p, first, n);
    else if (op.delta) spans_of<Streamed<IS_HALF, 2, false, false, 64>>(op, p, first, n);
    else if (keys_of(op) == 32) spans_without<IS_HALF, 32>(op, p, first, n);
    else spans_without<IS_HALF, 64>(op, p, first, n);
}

__device__ __noinline__ void span(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    if (op.is_half) spans_with<true>(op, p, first, n);
    else spans_with<false>(op, p, first, n);
}

#endif
