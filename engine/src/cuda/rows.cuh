// Operations on rows: formulas, sums, norms, roundings to activations, what states keep.

// Sums of products that fit the block's own memory (`product.cuh`).
#define PARTS 240
// Threads of a block, and the lanes that share a group's sum.
#define THREADS 512
#define LANES 16

// The block's own memory: what operations work in, then this stage and the next.
#define ROOM (PARTS * 16 * 8)
// The most bytes of a stage.
#define STAGE_BYTES 16384

__device__ extern __shared__ __align__(16) u8 room[];

struct Pieces {
    // Pieces from `piece` to `last`, of so many; columns and runs from … to ….
    u32 piece, last, pieces, from, to, first_run, last_run;
    Pass pass;
    const Pass *of_pass;
    const Stage *stage;

    __device__ u32 columns() const { return to - from; }
    __device__ u32 runs() const { return last_run - first_run; }

    // The part of `n` that is theirs: pieces are equal.
    __device__ u32 begin(u32 n) const { return n / pieces * piece; }
    __device__ u32 end(u32 n) const { return n / pieces * last; }
};

// Terms of a formula, at most (`ops/formula.rs`).
#define TERMS 8

// The term's value for element i of column c.
__device__ inline float term(const Term &t, const Pass *pass, u32 i, u32 c) {
    if (t.kind == 3) return t.number;
    if (t.each != 1) i = i / t.each;
    const float *from = t.from;
    if (t.kind == 0) {
        from += (u64)c * t.stride + t.first;
    } else if (t.kind == 2) {
        u32 run = pass->run_of[c];
        if (pass->spans[run] == c) from = (const float *)(pass->states[run] + 64ull * t.line);
        else from += (u64)(c - 1) * t.stride;
    }
    return from[i];
}

// Element i of column c of a formula. All terms are read before the first function, so that memory
// is waited for once. A function: code that is called everywhere must stay in the cache of
// instructions.
__device__ __noinline__ float value_of(const Term *terms, u32 n, u64 steps, u64 more,
                                       const Pass *pass, u32 i, u32 c) {
    float a[TERMS];
#pragma unroll
    for (u32 t = 0; t < TERMS; t++) a[t] = t < n ? term(terms[t], pass, i, c) : 0.0f;
    float a0 = 0.0f, a1 = 0.0f, a2 = 0.0f, a3 = 0.0f;
#pragma unroll 1
    for (u32 left = 16; left > 0; left--) {
        u32 step = steps & 0xff;
        if (step == 0) break;
        steps = steps >> 8;
        if (left == 9) steps = more;
        if (step == 1) {
            a3 = a2; a2 = a1; a1 = a0; a0 = a[0];
#pragma unroll
            for (u32 t = 0; t + 1 < TERMS; t++) a[t] = a[t + 1];
            continue;
        }
        float top = a0;
        if (step < 8) { a0 = a1; a1 = a2; a2 = a3; }
        a0 = function(step - 2, a0, top);
    }
    return a0;
}

__device__ inline float element(const Op &op, const Pieces &p, u32 i, u32 c) {
    return value_of(p.stage->terms() + op.first_term, op.terms, op.steps[0], op.steps[1], p.of_pass,
                    i, c);
}

__device__ void map(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
#pragma unroll 1
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, i = first + at % n;
        op.y.first[(u64)c * op.y.stride + i] = element(op, p, i, c);
    }
}

// The sum of sixteen lanes: halves are added onto halves.
__device__ inline float tree(float v) {
    for (u32 half = LANES / 2; half > 0; half /= 2) v = v + __shfl_down_sync(~0u, v, half, LANES);
    return __shfl_sync(~0u, v, 0, LANES);
}

// Sums and norms: sixteen lanes take a group of elements, lane l its elements l, l + 16, …
__device__ void sum(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    u32 lane = threadIdx.x % LANES;
    // All lanes of a warp take part in each shuffle.
    u32 all = (n * p.columns() + 1) / 2 * 2;
    for (u32 at = threadIdx.x / LANES; at < all; at += THREADS / LANES) {
        bool is_one = at < n * p.columns();
        u32 c = p.from + (is_one ? at / n : 0), row = first + (is_one ? at % n : 0);
        float acc = 0.0f;
#pragma unroll 1
        for (u32 i = lane; i < op.over; i += LANES)
            acc = acc + element(op, p, row * op.over + i, c);
        acc = tree(acc);
        if (is_one && lane == 0) op.y.first[(u64)c * op.y.stride + row] = acc;
    }
}

// Squares of the distances from `mean`, or the numbers themselves.
__device__ __noinline__ float lane_sum(const float *x, u32 n, u32 lane, bool is_square,
                                       float mean) {
    float acc = 0.0f;
#pragma unroll 8
    for (u32 i = lane; i < n; i += LANES) {
        float v = x[i];
        if (is_square) v = (v - mean) * (v - mean);
        acc = acc + v;
    }
    return acc;
}

__device__ void norm(const Op &op, const Pieces &p) {
    u32 groups = op.rows / op.over;
    u32 first = p.begin(groups), n = p.end(groups) - first, over = op.over;
    bool is_layer = op.kind == LAYER_NORM;
    // One long group is summed by sixteen lanes out of the block's own memory, and written by all.
    if (over > 512 && n * p.columns() < 4) {
        float *own = (float *)room;
        __shared__ float numbers[2];
        for (u32 at = 0; at < n * p.columns(); at++) {
            u32 c = p.from + at / n, row = (first + at % n) * over;
            const float *x = op.x.first + (u64)c * op.x.stride + row;
            float *y = op.y.first + (u64)c * op.y.stride + row;
            const float *read = x;
            if (over * 4 <= ROOM) {
                for (u32 i = threadIdx.x; i < over; i += THREADS) own[i] = x[i];
                read = own;
            }
            __syncthreads();
            if (threadIdx.x < 32) {
                u32 lane = threadIdx.x % LANES;
                float mean = 0.0f;
                if (is_layer) mean = tree(lane_sum(read, over, lane, false, 0.0f)) / (float)over;
                float square = tree(lane_sum(read, over, lane, true, mean)) / (float)over;
                float inverse = 1.0f / sqrtf(square + op.eps);
                if (threadIdx.x == 0) { numbers[0] = mean; numbers[1] = inverse; }
            }
            __syncthreads();
            float mean = numbers[0], inverse = numbers[1];
            for (u32 i = threadIdx.x; i < over; i += THREADS) {
                u32 of = op.n_key == 1 ? i : row + i;
                float v = read[i], w = op.weight[of];
                y[i] = is_layer ? (v - mean) * inverse * w + op.bias[of] : v * inverse * w;
            }
            __syncthreads();
        }
        return;
    }
    u32 lane = threadIdx.x % LANES, all = (n * p.columns() + 1) / 2 * 2;
    for (u32 at = threadIdx.x / LANES; at < all; at += THREADS / LANES) {
        bool is_one = at < n * p.columns();
        u32 c = p.from + (is_one ? at / n : 0), row = (first + (is_one ? at % n : 0)) * over;
        const float *x = op.x.first + (u64)c * op.x.stride + row;
        float *y = op.y.first + (u64)c * op.y.stride + row;
        float mean = 0.0f;
        if (is_layer) mean = tree(lane_sum(x, over, lane, false, 0.0f)) / (float)over;
        float inverse =
            1.0f / sqrtf(tree(lane_sum(x, over, lane, true, mean)) / (float)over + op.eps);
        // All lanes have read before one writes: the shuffles wait for them.
        for (u32 i = lane; is_one && i < over; i += LANES) {
            float v = x[i];
            u32 of = op.n_key == 1 ? i : row + i;
            float w = op.weight[of];
            y[i] = is_layer ? (v - mean) * inverse * w + op.bias[of] : v * inverse * w;
        }
    }
}

// 64 activations: codes in two orders, 32 at a time. For codes of 8 bits as they come; for codes of
// 4 bits in the order in which a lane's nibbles stand: 0, 4, 1, 5, 2, 6, 3, 7.
struct Int8Group {
    signed char codes[64];
    signed char nibbles[64];
    // Sums of codes of the first half and of the second.
    int sums[2];
    float scale;
    u32 unused;
};

__device__ inline u32 largest_of_warp(u32 x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(~0u, x);
#else
    for (u32 other = 16; other > 0; other /= 2) x = max(x, __shfl_xor_sync(~0u, x, other));
    return x;
#endif
}

__device__ inline int sum_of_warp(int x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(~0u, x);
#else
    for (u32 other = 16; other > 0; other /= 2) x += __shfl_xor_sync(~0u, x, other);
    return x;
#endif
}

// A warp's group of 64 activations as int8: a lane has numbers `lane` and `lane + 32`.
__device__ __forceinline__ void pack_int8(float v0, float v1, u32 lane, Int8Group *y) {
    // Magnitudes are ordered as their bits are.
    u32 largest = max(__float_as_uint(fabsf(v0)), __float_as_uint(fabsf(v1)));
    float most = __uint_as_float(largest_of_warp(largest));
    float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    float x0 = v0 * inverse, x1 = v1 * inverse;
    signed char q0 = x0 != x0 ? 0 : (signed char)__float_as_uint(x0 + 12582912.0f);
    signed char q1 = x1 != x1 ? 0 : (signed char)__float_as_uint(x1 + 12582912.0f);
    int sum0 = sum_of_warp(q0), sum1 = sum_of_warp(q1);
    y->codes[lane] = q0;
    y->codes[lane + 32] = q1;
    // Column j of eight stands at 2 j, or where j is 4 or more at 2 (j − 4) + 1.
    u32 of_eight = lane % 8, moved = lane - of_eight + of_eight % 4 * 2 + of_eight / 4;
    y->nibbles[moved] = q0;
    y->nibbles[moved + 32] = q1;
    if (lane == 0) {
        y->sums[0] = sum0;
        y->sums[1] = sum1;
        y->scale = most / 127.0f;
    }
}

// A warp takes a group of 64 of a column.
__device__ void pack(const Op &op, const Pieces &p) {
    u32 k = op.inputs.k, groups = op.inputs.groups, own = (k + 63) / 64;
    u32 first = p.begin(own), n = p.end(own) - first;
    u32 lane = threadIdx.x % 32;
    for (u32 at = threadIdx.x / 32; at < n * p.columns(); at += THREADS / 32) {
        u32 c = p.from + at / n, group = first + at % n;
        u32 i = group * 64 + lane;
        float v[2];
#pragma unroll 1
        for (u32 half = 0; half < 2; half++) {
            float value = i + 32 * half < k ? element(op, p, i + 32 * half, c) : 0.0f;
            if (half == 0) v[0] = value;
            else v[1] = value;
        }
        float v0 = v[0], v1 = v[1];
        u64 place = (u64)c * groups * 64 + i;
        if (op.inputs.f32) {
            op.inputs.f32[place] = v0;
            op.inputs.f32[place + 32] = v1;
        }
        if (op.inputs.bf16) {
            op.inputs.bf16[place] = to_bf16(v0);
            op.inputs.bf16[place + 32] = to_bf16(v1);
        }
        if (op.inputs.int8) pack_int8(v0, v1, lane, op.inputs.int8 + (u64)c * groups + group);
    }
}

__device__ void keep(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        u32 last = p.pass.spans[run + 1] - 1;
        float *state = (float *)(p.pass.states[run] + 64ull * op.line[0]);
        state[i] = op.x.first[(u64)last * op.x.stride + i];
    }
}

__device__ void gather(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, i = first + at % n;
        u64 from = p.pass.wanted_columns[c];
        op.y.first[(u64)c * op.y.stride + i] = op.x.first[from * op.x.stride + i];
    }
}
