// Norms of the columns of a pass. Sixteen lanes sum a group, lane l its elements l, l + 16, …

// Long groups are summed out of the block's own memory, several at once.
#define LONG_NORM 512
#define NORMS_AT_ONCE 8

// Squares of the distances from `mean`, or the numbers themselves: of eight elements of a lane all
// are read before the first is added.
__device__ __noinline__ float lane_sum(const float *x, u32 n, u32 lane, bool is_square,
                                       float mean) {
    const u32 SOME = 8;
    float acc = 0.0f;
    u32 from = 0;
#pragma unroll 1
    for (; from + SOME * LANES <= n; from += SOME * LANES) {
        float v[SOME];
#pragma unroll
        for (u32 j = 0; j < SOME; j++) v[j] = x[from + j * LANES + lane];
        __syncwarp();
#pragma unroll
        for (u32 j = 0; j < SOME; j++)
            acc = acc + (is_square ? (v[j] - mean) * (v[j] - mean) : v[j]);
    }
#pragma unroll 1
    for (u32 i = from + lane; i < n; i += LANES)
        acc = acc + (is_square ? (x[i] - mean) * (x[i] - mean) : x[i]);
    return acc;
}

// What a group's numbers become, before weights.
struct Normed {
    float mean, inverse;

    __device__ float of(const Op &op, float v, u32 row, u32 i) const {
        u32 at = op.n_key == 1 ? i : row + i;
        float w = op.weight[at];
        return op.kind == LAYER_NORM ? (v - mean) * inverse * w + op.bias[at] : v * inverse * w;
    }
};

// By the sixteen lanes of the group, all of a warp's at once.
__device__ inline Normed normed_of(const Op &op, const float *x, u32 lane) {
    float n = (float)op.over, mean = 0.0f;
    if (op.kind == LAYER_NORM) mean = tree(lane_sum(x, op.over, lane, false, 0.0f)) / n;
    return {mean, 1.0f / sqrtf(tree(lane_sum(x, op.over, lane, true, mean)) / n + op.eps)};
}

// The sum of a lane's elements of a group in the block's own memory, from its first on: or of the
// squares of their distances from `mean`. Sixteen are read before the first is added: the compiler
// would put each read before its use, to save registers, and wait for all of them.
template <bool IS_SQUARE> __device__ __forceinline__ float near_sum(u32 at, u32 n, float mean) {
    const u32 SOME = 16;
    float acc = 0.0f;
    u32 left = n;
#pragma unroll 1
    for (; left >= SOME * LANES; left -= SOME * LANES, at += 4 * SOME * LANES) {
        float v[SOME];
#pragma unroll
        for (u32 j = 0; j < SOME; j++)
            asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v[j]) : "r"(at + 4 * LANES * j));
        __syncwarp();
        if (IS_SQUARE) {
#pragma unroll
            for (u32 j = 0; j < SOME; j++) v[j] = (v[j] - mean) * (v[j] - mean);
            __syncwarp();
        }
#pragma unroll
        for (u32 j = 0; j < SOME; j++) acc = acc + v[j];
    }
#pragma unroll 1
    for (u32 i = threadIdx.x % LANES; i < left; i += LANES, at += 4 * LANES) {
        float one;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(one) : "r"(at));
        acc = acc + (IS_SQUARE ? (one - mean) * (one - mean) : one);
    }
    return acc;
}

// The same of a group in the block's own memory.
__device__ __noinline__ Normed normed_near(const float *x, u32 over, float eps, bool is_layer) {
    u32 at = near_address(x + threadIdx.x % LANES);
    float n = (float)over, mean = 0.0f;
    if (is_layer) mean = tree(near_sum<false>(at, over, 0.0f)) / n;
    return {mean, 1.0f / sqrtf(tree(near_sum<true>(at, over, mean)) / n + eps)};
}

// Groups `first` to `first + n` of the columns, so many at once as there is room for.
__device__ void long_norms(const Op &op, const Pieces &p, u32 first, u32 n, float *own, u32 most) {
    __shared__ Normed numbers[NORMS_AT_ONCE];
    u32 over = op.over, all = n * p.columns(), warp = threadIdx.x / LANES;
    // Two groups of a warp stand in different banks.
    u32 apart = (over + 31) / 32 * 32 + 16;
    // Weights come nearer meanwhile, a line of 128 bytes a thread.
    u32 weights = op.n_key == 1 ? over : n * over;
    if (threadIdx.x * 32 < weights) {
        u32 at = (op.n_key == 1 ? 0 : first * over) + threadIdx.x * 32;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(op.weight + at));
        if (op.kind == LAYER_NORM) asm volatile("prefetch.global.L2 [%0];" ::"l"(op.bias + at));
    }
    for (u32 from = 0; from < all; from += most) {
        u32 here = min(most, all - from);
        for (u32 which = 0; which < here; which++) {
            u32 c = p.from + (from + which) / n, row = (first + (from + which) % n) * over;
            const float *x = op.x.first + (u64)c * op.x.stride + row;
#pragma unroll 4
            for (u32 i = threadIdx.x; i < over; i += THREADS) own[which * apart + i] = x[i];
        }
        __syncthreads();
        if (warp < (here + 1) / 2 * 2) {
            Normed found = normed_near(own + min(warp, here - 1) * apart, over, op.eps,
                                       op.kind == LAYER_NORM);
            if (threadIdx.x % LANES == 0 && warp < here) numbers[warp] = found;
        }
        __syncthreads();
        for (u32 which = 0; which < here; which++) {
            u32 c = p.from + (from + which) / n, row = (first + (from + which) % n) * over;
            Normed found = numbers[which];
            float *y = op.y.first + (u64)c * op.y.stride + row;
            u32 of_row = op.n_key == 1 ? 0 : row;
            const float *weight = op.weight + of_row, *bias = op.bias + of_row;
            bool is_layer = op.kind == LAYER_NORM;
#pragma unroll 4
            for (u32 i = threadIdx.x; i < over; i += THREADS) {
                float v = own[which * apart + i], w = weight[i];
                y[i] = is_layer ? (v - found.mean) * found.inverse * w + bias[i]
                                : v * found.inverse * w;
            }
        }
        __syncthreads();
    }
}

__device__ void norm(const Op &op, const Pieces &p) {
    u32 groups = op.rows / op.over, first = p.begin(groups), n = p.end(groups) - first;
    u32 over = op.over;
#if __CUDA_ARCH__ >= 900
    float *own = (float *)(room + ROOM + 2 * STAGE_BYTES);
    u32 fit = RING_BYTES / (4 * over + 192);
#else
    float *own = (float *)room;
    u32 fit = ROOM / (4 * over + 192);
#endif
    if (over >= LONG_NORM && fit > 0)
        return long_norms(op, p, first, n, own, min(fit, NORMS_AT_ONCE));
    u32 lane = threadIdx.x % LANES, all = (n * p.columns() + 1) / 2 * 2;
    for (u32 at = threadIdx.x / LANES; at < all; at += THREADS / LANES) {
        bool is_one = at < n * p.columns();
        u32 c = p.from + (is_one ? at / n : 0), row = (first + (is_one ? at % n : 0)) * over;
        const float *x = op.x.first + (u64)c * op.x.stride + row;
        float *y = op.y.first + (u64)c * op.y.stride + row;
        Normed found = normed_of(op, x, lane);
        // All lanes have read before one writes: the shuffles wait for them.
        for (u32 i = lane; is_one && i < over; i += LANES) y[i] = found.of(op, x[i], row, i);
    }
}
