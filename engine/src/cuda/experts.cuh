// Mixtures of experts: exact scores, the choice by them (`kernels/choice.rs`), products with the
// matrices of those that were chosen.

// Blocks of sixteen rows, a warp each: its first half has chains 0 and 1 of a row, its second half
// chains 2 and 3 (`kernels/rows.rs`).
__device__ void exact_rows(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first, k = op.over;
    u32 lane = threadIdx.x % 16, half = threadIdx.x / 16 % 2;
    for (u32 at = threadIdx.x / 32; at < n * p.columns(); at += THREADS / 32) {
        u32 c = p.from + at / n, block = first + at % n;
        const float *x = op.x.first + (u64)c * op.x.stride;
        const float *w = op.weight + (u64)block * k * 16 + lane;
        float even = 0.0f, odd = 0.0f;
#pragma unroll 4
        for (u32 i = 2 * half; i < k / 4 * 4; i += 4) {
            even = even + __ldg(w + 16 * i) * x[i];
            odd = odd + __ldg(w + 16 * i + 16) * x[i + 1];
        }
        u32 rest = k / 4 * 4 + 2 * half;
        if (rest < k) even = even + __ldg(w + 16 * rest) * x[rest];
        if (rest + 1 < k) odd = odd + __ldg(w + 16 * rest + 16) * x[rest + 1];
        float sum = even + odd, other = __shfl_down_sync(~0u, sum, 16);
        if (half == 0) op.y.first[(u64)c * op.y.stride + 16 * block + lane] = sum + other;
    }
}

// Experts of a token, at most.
#define MAX_USED 64
// −∞.
#define LEAST __uint_as_float(0xff800000u)

// The lower of two numbers where values are equal, else that of the larger value.
__device__ inline void take_better(float &value, u32 &i, float other, u32 of_other) {
    bool is_better = other > value || (other == value && of_other < i);
    value = is_better ? other : value;
    i = is_better ? of_other : i;
}

// Scores count no more where their group is not among the best by its two best.
__device__ void choose_groups(u32 groups, u32 used, u32 size, float *biased) {
    u32 lane = threadIdx.x % 32;
    float sums[2];
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
        u32 group = lane + 32 * j;
        float best = LEAST, second = LEAST;
        for (u32 i = 0; i < size && group < groups; i++) {
            float v = biased[group * size + i];
            second = v > best ? best : v > second ? v : second;
            best = v > best ? v : best;
        }
        sums[j] = size == 1 ? best : best + second;
    }
    u32 before[2] = {0, 0};
    for (u32 other = 0; other < groups; other++) {
        float of_first = __shfl_sync(~0u, sums[0], other % 32);
        float of_second = __shfl_sync(~0u, sums[1], other % 32);
        float sum = other < 32 ? of_first : of_second;
#pragma unroll
        for (u32 j = 0; j < 2; j++)
            before[j] += sum > sums[j] || (sum == sums[j] && other < lane + 32 * j);
    }
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
        u32 group = lane + 32 * j;
        for (u32 i = 0; i < size && group < groups && before[j] >= used; i++)
            biased[group * size + i] = LEAST;
    }
    __syncwarp();
}

// A warp chooses the experts of column c; `scores` is its memory: twice as many floats as there are
// choices, and as twice as many experts are used.
__device__ __noinline__ void choose_column(const Op &op, u32 c, float *scores) {
    u32 lane = threadIdx.x % 32, n = op.rows, used = op.over;
    u32 n_expert = op.line[0], always = op.line[1], own = n - always;
    float *biased = scores + n, *weights = biased + n;
    u32 *chosen = (u32 *)(weights + MAX_USED);
    const float *x = op.x.first + (u64)c * op.x.stride;
    float most = LEAST;
    for (u32 i = lane; i < n; i += 32) {
        float v = x[i];
        scores[i] = op.is_half ? sigmoid_(v) : v;
        most = v > most ? v : most;
    }
    if (!op.is_half) {
        for (u32 other = 16; other > 0; other /= 2) {
            float v = __shfl_xor_sync(~0u, most, other);
            most = v > most ? v : most;
        }
        for (u32 i = lane; i < n; i += 32) scores[i] = exp_(scores[i] - most);
        __syncwarp();
        float sum = tree(lane_sum(scores, n, lane % LANES, false, 0.0f));
        for (u32 i = lane; i < n; i += 32) scores[i] = scores[i] / sum;
    }
    for (u32 i = lane; i < own; i += 32) {
        float v = scores[i];
        if (op.weight && i < n_expert - always) v = v + op.weight[i];
        if (op.delta && i == own - 1) v = v + __uint_as_float(op.beginning);
        biased[i] = v != v ? LEAST : v;
    }
    __syncwarp();
    if (op.n_key) choose_groups(op.n_key, op.n_value, own / op.n_key, biased);
    // The best that is left, again and again; what was chosen is no number.
    for (u32 place = 0; place < used - always; place++) {
        float value = LEAST;
        u32 best = ~0u;
        for (u32 i = lane; i < own; i += 32) {
            float v = biased[i];
            if (v > value || (v == value && best == ~0u)) { value = v; best = i; }
        }
        for (u32 other = 16; other > 0; other /= 2) {
            float v = __shfl_xor_sync(~0u, value, other);
            take_better(value, best, v, __shfl_xor_sync(~0u, best, other));
        }
        if (best % 32 == lane) biased[best] = __uint_as_float(0x7fc00000u);
        if (lane == 0) chosen[place] = best;
    }
    for (u32 i = lane; i < always; i += 32) chosen[used - always + i] = own + i;
    __syncwarp();
    float sum = 0.0f;
    for (u32 i = 0; i < used; i++) sum = sum + scores[chosen[i]];
    sum = sum + op.eps;
    // In the order of their numbers, in which their results are added.
    for (u32 i = lane; i < used; i += 32) {
        u32 expert = chosen[i], place = 0;
        for (u32 j = 0; j < used; j++) place += chosen[j] < expert;
        float w = scores[expert];
        if (op.line[2]) w = w / sum;
        w = w * __uint_as_float(op.window);
        // Without an expert it goes through any, times 0.
        bool is_one = expert < n_expert;
        op.y.first[(u64)c * op.y.stride + place] = is_one ? (float)expert : 0.0f;
        op.scale.first[(u64)c * op.scale.stride + place] = is_one ? w : 0.0f;
    }
    __syncwarp();
}

__device__ void choose(const Op &op, const Pieces &p) {
    u32 floats = 2 * op.rows + 2 * MAX_USED;
    u32 warps = min((u32)(THREADS / 32), (u32)(ROOM / 4) / floats), warp = threadIdx.x / 32;
    if (warp >= warps) return;
    for (u32 c = p.from + warp; c < p.to; c += warps)
        choose_column(op, c, (float *)room + warp * floats);
}

// The product of tiles from `first` to `end` of the matrix of an expert, which is the `slot`th of
// column c, or where none is chosen of all: as a product whose buffers begin where its tile 0 and its column would.
__device__ void of_expert(const Op &op, Op &own, u32 slot, u32 first, u32 end, u32 c) {
    u32 expert = op.x.first ? (u32)op.x.first[(u64)c * op.x.stride + slot] : slot;
    u32 above = expert * op.over;
    if (threadIdx.x == 0) {
        own.y.first = op.y.first + 16 * ((long long)slot * op.rows - (long long)above);
        // Activations of its own have a column for each expert of a token.
        u64 moved = op.delta ? ((u64)c * op.x.rows + slot - c) * op.inputs.groups : 0;
        if (op.inputs.int8) own.inputs.int8 = op.inputs.int8 + moved;
        if (op.inputs.f32) own.inputs.f32 = op.inputs.f32 + 64 * moved;
        if (op.inputs.bf16) own.inputs.bf16 = op.inputs.bf16 + 64 * moved;
    }
    __syncthreads();
    u32 last = min(end, op.over), most = THREADS / 16;
    if (is_integer(op.w.format)) {
        for (u32 tile = first; tile < last; tile += most) {
            integers(own, above + tile, min(most, last - tile), c);
            __syncthreads();
        }
    } else {
        for (u32 tile = first + threadIdx.x / 32; tile < last; tile += THREADS / 32)
            floats(own, above + tile, c);
    }
    __syncthreads();
    // Rows behind the last.
    float *y = op.y.first + (u64)c * op.y.stride + 16ull * slot * op.rows;
    for (u32 row = max(16 * first, op.n_key) + threadIdx.x; row < 16 * end; row += THREADS)
        y[row] = 0.0f;
}

__device__ void experts(const Op &op, const Pieces &p) {
    __shared__ __align__(16) Op own;
    u32 used = op.x.rows;
    bool is_sum = op.factor.first;
    // Of a sum pieces are rows of every expert.
    u32 all = is_sum ? op.rows : op.rows * used, first = p.begin(all), end = p.end(all);
    if (threadIdx.x < sizeof(Op) / 16) ((uint4 *)&own)[threadIdx.x] = ((const uint4 *)&op)[threadIdx.x];
    __syncthreads();
    for (u32 c = p.from; c < p.to; c++) {
        for (u32 slot = 0; slot < used; slot++) {
            u32 above = is_sum ? 0 : slot * op.rows;
            u32 from = max(first, above), to = min(end, above + op.rows);
            if (from < to) of_expert(op, own, slot, from - above, to - above, c);
        }
        if (!is_sum) continue;
        const float *y = op.y.first + (u64)c * op.y.stride;
        const float *weights = op.scale.first + (u64)c * op.scale.stride;
        float *into = op.factor.first + (u64)c * op.factor.stride;
        for (u32 row = 16 * first + threadIdx.x; row < 16 * end; row += THREADS) {
            float sum = into[row];
            for (u32 slot = 0; slot < used; slot++)
                sum = sum + weights[slot] * y[16 * slot * op.rows + row];
            into[row] = sum;
        }
    }
}
