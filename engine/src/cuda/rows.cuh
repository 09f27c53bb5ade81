// What operations on rows are made of: pieces, terms, formulas step by step, sums of lanes,
// activations; what states keep.

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
    // Of each column that is the first of its run the state, else 0: null where there are too many.
    const u64 *beginnings;

    __device__ u32 columns() const { return to - from; }
    // Columns of the pass that the stage has.
    __device__ u32 width() const { return stage->is_wanted ? pass.wanted : pass.columns; }
    __device__ u32 runs() const { return last_run - first_run; }

    // Whether each of the runs has one column.
    __device__ bool are_short() const {
        return pass.spans[last_run] - pass.spans[first_run] == runs();
    }

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

// The sum of sixteen lanes: halves are added onto halves.
__device__ inline float tree(float v) {
    for (u32 half = LANES / 2; half > 0; half /= 2) v = v + __shfl_down_sync(~0u, v, half, LANES);
    return __shfl_sync(~0u, v, 0, LANES);
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

// 64 activations of eight columns as tensor cores take them (`tensor.cuh`): lane 4 g + t has those
// of column g whose numbers are 8 t … 8 t + 7 of the first half, then of the second, in the order
// of the nibbles.
struct Eight {
    uint4 codes[32];
    float scales[8];

    // Where four nibbles of a column lie.
    __device__ u32 *word(u32 column, u32 i) {
        return (u32 *)&codes[4 * column + i % 8 / 2] + i / 8 * 2 + i % 2;
    }
};

// Columns that a product on tensor cores takes at once: each group's eights stand side by side.
#define TOKENS 64

__device__ inline u32 eights_of(u32 columns) { return (min(columns, TOKENS) + 7) / 8; }

// Where those of the columns from 64 × `block` on begin.
__device__ inline Eight *eights_at(const Op &op, u32 block) {
    return op.eights + (u64)block * (TOKENS / 8) * op.inputs.groups;
}

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

// A warp's group of 64 activations as int8: a lane has numbers `lane` and `lane + 32`. They are
// that column's of `eight`, too, where there is one.
__device__ __forceinline__ void pack_int8(float v0, float v1, u32 lane, Int8Group *y,
                                          Eight *eight = 0, u32 column = 0) {
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
    if (eight) {
        ((signed char *)eight->word(column, moved / 4))[moved % 4] = q0;
        ((signed char *)eight->word(column, moved / 4 + 8))[moved % 4] = q1;
        if (lane == 0) eight->scales[column] = most / 127.0f;
    }
    if (lane == 0) {
        y->sums[0] = sum0;
        y->sums[1] = sum1;
        y->scale = most / 127.0f;
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
