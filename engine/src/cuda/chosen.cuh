// Operations by the tokens themselves: embeddings of n-grams (`kernels/ngrams.rs`), the blocks of
// tokens that attention sees (`kernels/chosen.rs`).

// The token so many before the one that is `since` tokens from the beginning of its run.
__device__ inline long long token_before(const Op &op, const Pass &pass, u32 begin, u32 since,
                                         const float *kept, u32 back) {
    return back <= since ? (long long)pass.tokens[begin + since - back]
                         : (long long)kept[op.n_key - 1 + since - back];
}

// A block takes a column after the other: a thread the row of each head, then all their elements.
__device__ __noinline__ void ngrams(const Op &op, const Pieces &p) {
    u32 heads = op.rows, tokens = op.n_key, per_order = heads / (tokens - 1), cols = op.w.cols;
    const long long *multipliers = (const long long *)op.r.from;
    const long long *sizes = (const long long *)op.k.from;
    u32 *rows = (u32 *)room;
    for (u32 run = p.first_run; run < p.last_run; run++) {
        float *kept = (float *)(p.pass.states[run] + 64ull * op.line[0]);
        u32 begin = p.pass.spans[run], len = p.pass.spans[run + 1] - begin;
        for (u32 since = 0; since < len; since++) {
            for (u32 head = threadIdx.x; head < heads; head += THREADS) {
                u64 sum = 0;
                bool has_ended = false;
                for (u32 j = 0; j <= 1 + head / per_order; j++) {
                    long long token = has_ended ? (long long)op.window
                                                : token_before(op, p.pass, begin, since, kept, j);
                    has_ended = has_ended || (j > 0 && token == (long long)op.window);
                    sum ^= (u64)token * (u64)multipliers[j];
                }
                long long size = sizes[2 * head], row = (long long)sum % size;
                rows[head] = (u32)((row < 0 ? row + size : row) + sizes[2 * head + 1]);
            }
            __syncthreads();
            float *y = op.y.first + (u64)(begin + since) * op.y.stride;
            for (u32 i = threadIdx.x; i < heads * cols; i += THREADS)
                y[i] = decoded(op.w, rows[i / cols], i % cols);
            __syncthreads();
        }
        // The last tokens of the run, behind those that are left of the ones before it.
        if (threadIdx.x == 0)
            for (u32 i = 0; i + 1 < tokens; i++) {
                u32 from = i + len;
                kept[i] = from < tokens - 1 ? kept[from]
                                            : (float)p.pass.tokens[begin + from - (tokens - 1)];
            }
        __syncthreads();
    }
}

// Scores of blocks that fit the block's own memory; those of more are found anew when they are
// needed.
#define SCORES 6144

// Σ relu(q · k) over heads, of a block of tokens; never below 0.
template <u32 KEPT>
__device__ __noinline__ float block_score(const Op &op, const Pass &pass, u32 run, const float *q,
                                          u32 block) {
    u32 d = op.n_value, in = block % PAGE;
    const u8 *page = page_of(op, pass, run, 0, block / PAGE);
    float sum = 0.0f;
    for (u32 head = 0; head < op.rows; head++) {
        float score = 0.0f;
#pragma unroll 8
        for (u32 i = 0; i < d; i++)
            score = fmaf(number_at<KEPT>(page, i * PAGE + in), q[head * d + i], score);
        if (KEPT == KEPT_INT8) score = score * ((const float *)(page + 2 * PAGE * d))[in];
        sum = sum + (score > 0.0f ? score : 0.0f);
    }
    return sum;
}

__device__ inline u32 score_bits(const Op &op, const Pass &pass, u32 run, const float *q, u32 n,
                                 u32 block) {
    if (n <= SCORES) return ((const u32 *)room)[block];
    if (op.is_half == KEPT_F16)
        return __float_as_uint(block_score<KEPT_F16>(op, pass, run, q, block));
    if (op.is_half == KEPT_INT8)
        return __float_as_uint(block_score<KEPT_INT8>(op, pass, run, q, block));
    return __float_as_uint(block_score<KEPT_F32>(op, pass, run, q, block));
}

// The best `few` of n blocks for column c, of equals the lower numbers, ascending. Scores are no
// less than 0, so that their bits are ordered as they are.
__device__ void best_of(const Op &op, const Pieces &p, u32 c, u32 n, u32 few, float *blocks) {
    u32 run = p.pass.run_of[c], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float *q = op.x.first + (u64)c * op.x.stride;
    u32 *counts = (u32 *)room + SCORES, *equals = counts + THREADS / 32;
    if (n <= SCORES)
        for (u32 i = threadIdx.x; i < n; i += THREADS)
            // As if there were too many: to find them.
            ((u32 *)room)[i] = score_bits(op, p.pass, run, q, SCORES + 1, i);
    __syncthreads();
    // The score of the last of them, bit by bit: the largest that as many reach.
    u32 least = 0;
    for (u32 bit = 31; bit-- > 0;) {
        u32 tried = least | 1u << bit;
        int own = 0;
        for (u32 i = threadIdx.x; i < n; i += THREADS)
            own += score_bits(op, p.pass, run, q, n, i) >= tried;
        own = sum_of_warp(own);
        if (lane == 0) counts[warp] = own;
        __syncthreads();
        u32 all = 0;
        for (u32 i = 0; i < THREADS / 32; i++) all += counts[i];
        if (all >= few) least = tried;
        __syncthreads();
    }
    // How many are better, then the numbers of those and of so many equals as there is room for.
    int own = 0;
    for (u32 i = threadIdx.x; i < n; i += THREADS)
        own += score_bits(op, p.pass, run, q, n, i) > least;
    own = sum_of_warp(own);
    if (lane == 0) counts[warp] = own;
    __syncthreads();
    u32 better = 0;
    for (u32 i = 0; i < THREADS / 32; i++) better += counts[i];
    u32 room_for = few - better, better_before = 0, equal_before = 0;
    __syncthreads();
    for (u32 from = 0; from < n; from += THREADS) {
        u32 i = from + threadIdx.x, bits = i < n ? score_bits(op, p.pass, run, q, n, i) : 0;
        bool is_better = i < n && bits > least, is_equal = i < n && bits == least;
        u32 of_better = __ballot_sync(~0u, is_better), of_equal = __ballot_sync(~0u, is_equal);
        if (lane == 0) counts[warp] = __popc(of_better), equals[warp] = __popc(of_equal);
        __syncthreads();
        u32 below = (1u << lane) - 1, b = better_before + __popc(of_better & below);
        u32 e = equal_before + __popc(of_equal & below);
        for (u32 j = 0; j < THREADS / 32; j++) {
            if (j < warp) b += counts[j], e += equals[j];
            better_before += counts[j], equal_before += equals[j];
        }
        if (is_better || (is_equal && e < room_for)) blocks[b + min(e, room_for)] = (float)i;
        __syncthreads();
    }
}

__device__ __noinline__ void best(const Op &op, const Pieces &p) {
    for (u32 c = p.from; c < p.to; c++) {
        u32 n = (position_of(p.pass, p.pass.run_of[c], c) + 1) / op.over;
        u32 few = min(n, op.y.rows);
        float *blocks = op.y.first + (u64)c * op.y.stride;
        for (u32 i = threadIdx.x; i < op.y.rows; i += THREADS)
            blocks[i] = i < few && n == few ? (float)i : __uint_as_float(0x7f800000u);
        __syncthreads();
        if (n > few) best_of(op, p, c, n, few, blocks);
        __syncthreads();
    }
}
