// Heads with a state for each level of the past. A thread has a value of a head: of every level's
// state that column. The order of operations is that of `kernels/recurrence/levels.rs`.

// What a level's state becomes at this token, and what it reads. The level below all, the token
// itself, is k times `by`; of others `by` is the decay.
template <bool IS_HALF, bool IS_TOKEN>
__device__ __forceinline__ float read_level(const Kept &kept, u64 first, u32 n_key, u32 n_value,
                                            const float *r, const float *k, float by) {
    float sum = 0.0f;
#pragma unroll 4
    for (u32 j = 0; j < n_key; j++) {
        u64 at = first + (u64)j * n_value;
        float next = IS_TOKEN ? by * k[j] : kept.get<IS_HALF>(at) * by;
        kept.set<IS_HALF>(at, next);
        sum = fmaf(next, r[j], sum);
    }
    return sum;
}

// Token `t` of a text.
template <bool IS_HALF>
__device__ __noinline__ void token_of_levels(const Op &op, const Kept &kept, u32 head, u32 c,
                                             u32 t, u32 value) {
    u32 n_key = op.n_key, n_value = op.n_value;
    u64 size = (u64)n_key * n_value;
    const float *r = of_head(op.r, head, c), *k = of_head(op.k, head, c);
    const float *weights = op.x.first + (u64)c * op.x.stride + head * op.over;
    float decay = *of_head(op.decay, head, c);
    float scale = op.scale.first[(u64)c * op.scale.stride + head];
    if (t > 0) {
        // The levels below become one.
        u32 target = __ffs(t);
        for (u32 j = 0; j < n_key; j++) {
            u64 at = (u64)j * n_value + value;
            float sum = kept.get<IS_HALF>(at);
            for (u32 level = 1; level < target; level++)
                sum = sum + kept.get<IS_HALF>(level * size + at);
            kept.set<IS_HALF>(target * size + at, sum);
        }
    }
    float v = of_head(op.v, head, c)[value] * scale;
    float y = fmaf(read_level<IS_HALF, true>(kept, value, n_key, n_value, r, k, v), weights[0],
                   0.0f);
    for (u32 level = 1; level < op.over; level++) {
        if (!(t >> (level - 1) & 1)) continue;
        float sum = read_level<IS_HALF, false>(kept, level * size + value, n_key, n_value, r, k,
                                               decay);
        y = fmaf(sum, weights[level], y);
    }
    op.y.first[(u64)c * op.y.stride + head * n_value + value] = y;
}

__device__ void levels(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = (p.end(op.rows) - first) * op.n_value;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, head = first + at % n / op.n_value;
        u64 before = (u64)head * op.over * op.n_key * op.n_value * (op.is_half ? 2 : 4);
        const Kept kept = {p.pass.states[run] + 64ull * op.line[0] + before};
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            u32 t = position_of(p.pass, run, c), value = at % op.n_value;
            if (op.is_half) token_of_levels<true>(op, kept, head, c, t, value);
            else token_of_levels<false>(op, kept, head, c, t, value);
        }
    }
}
