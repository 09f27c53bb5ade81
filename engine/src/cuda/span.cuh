// Heads over the tokens of a run: a head's state stays in the block while tokens go through it.
// Those threads that have no value bring what the next token needs, meanwhile. The order of
// operations is that of `token` in `recurrence.cuh`.

#if __CUDA_ARCH__ >= 900

// Of a token in the block's own memory: r, k, decay, a, b by keys, then values, then scale and
// factor.
__device__ inline u32 span_floats(const Op &op) { return 5 * op.n_key + op.n_value + 4; }

// Whether a head's state and two tokens fit.
__device__ inline bool is_span(const Op &op) {
    return op.over <= 1 && op.n_key % 16 == 0 && op.n_value % 4 == 0 && op.n_value <= 128 &&
           span_floats(op) * 8 <= ROOM && op.n_key * op.n_value * 4 <= 64 << 10;
}

__device__ inline void bring_token(const Op &op, float *to, u32 head, u32 c, u32 thread,
                                   u32 threads) {
    u32 n_key = op.n_key, all = 5 * n_key + op.n_value + 2;
    for (u32 i = thread; i < all; i += threads) {
        u32 which = i / n_key, key = i % n_key;
        const float *from = 0;
        float otherwise = 0.0f;
        if (i >= 5 * n_key) {
            u32 value = i - 5 * n_key;
            if (value < op.n_value) {
                from = of_head(op.v, head, c) + value;
            } else if (value == op.n_value) {
                otherwise = 1.0f;
                if (op.scale.first) from = op.scale.first + (u64)c * op.scale.stride + head;
            } else if (op.factor.first) {
                from = op.factor.first + (u64)c * op.factor.stride + head;
            }
        } else if (which == 0) {
            from = of_head(op.r, head, c) + key;
        } else if (which == 1) {
            from = of_head(op.k, head, c) + key;
        } else if (which == 2) {
            from = of_head(op.decay, head, c) + (op.is_per_key ? key : 0);
        } else if (op.delta == 1) {
            from = of_head(which == 3 ? op.a : op.b, head, c) + key;
        }
        to[i] = from ? *from : otherwise;
    }
}

// Rows of a state: in registers, or in the block's own memory.
template <bool IS_HALF, u32 DELTA, bool IN_REGISTERS>
__device__ __noinline__ void span_of(const Op &op, u8 *state, u32 head, u32 first, u32 end) {
    constexpr u32 ROWS_HERE = IN_REGISTERS ? 64 : 16;
    u32 n_key = IN_REGISTERS ? 64 : op.n_key, n_value = op.n_value, value = threadIdx.x,
        floats = span_floats(op);
    float *tokens = (float *)room, *kept = (float *)(room + ROOM + 2 * STAGE_BYTES);
    const float *bonus = op.bias ? op.bias + head * n_key : 0;
    bool is_mine = value < n_value;
    float s[ROWS_HERE];
    __syncthreads();
    if (is_mine) {
        if (IN_REGISTERS) {
#pragma unroll
            for (u32 j = 0; j < ROWS_HERE; j++) s[j] = kept_at<IS_HALF>(state, j * n_value + value);
        } else {
            for (u32 j = 0; j < n_key; j++)
                kept[j * n_value + value] = kept_at<IS_HALF>(state, j * n_value + value);
        }
    }
    bring_token(op, tokens, head, first, threadIdx.x, THREADS);
    __syncthreads();
    for (u32 c = first; c < end; c++) {
        const float *own = tokens + (c - first) % 2 * floats, *r = own, *k = r + n_key,
                    *decay = k + n_key;
        const float *a = decay + n_key, *b = a + n_key;
        if (threadIdx.x >= 128 && c + 1 < end)
            bring_token(op, tokens + (c + 1 - first) % 2 * floats, head, c + 1, threadIdx.x - 128,
                        THREADS - 128);
        if (is_mine) {
            float v = own[5 * n_key + n_value] * own[5 * n_key + value], old = 0.0f, sum = 0.0f;
            if (DELTA) {
#pragma unroll 1
                for (u32 from = 0; from < n_key; from += ROWS_HERE) {
#pragma unroll
                    for (u32 i = 0; i < ROWS_HERE; i += 4) {
                        Four reads((DELTA == 1 ? a : k) + from + i), d(decay + from + i);
#pragma unroll
                        for (u32 j = 0; j < 4; j++) {
                            float row =
                                IN_REGISTERS ? s[i + j] : kept[(from + i + j) * n_value + value];
                            old = fmaf(row, DELTA == 1 ? reads.v[j] : reads.v[j] * d.v[j], old);
                        }
                    }
                }
                if (DELTA == 2) v = fmaf(old, own[5 * n_key + n_value + 1], v);
            }
#pragma unroll 1
            for (u32 from = 0; from < n_key; from += ROWS_HERE) {
#pragma unroll
                for (u32 i = 0; i < ROWS_HERE; i += 4) {
                    Four of_k(k + from + i), of_r(r + from + i), d(decay + from + i),
                        of_b(b + from + i);
#pragma unroll
                    for (u32 j = 0; j < 4; j++) {
                        u32 at = (from + i + j) * n_value + value;
                        float row = IN_REGISTERS ? s[i + j] : kept[at];
                        float kv = v * of_k.v[j];
                        float fresh = DELTA == 1 ? fmaf(old, of_b.v[j], kv) : kv;
                        float next = fmaf(row, d.v[j], fresh);
                        float seen = bonus ? fmaf(kv, bonus[from + i + j], row) : next;
                        sum = fmaf(seen, of_r.v[j], sum);
                        // As the state keeps it.
                        if (IS_HALF) next = half_to_float(float_to_kept(next));
                        if (IN_REGISTERS) s[i + j] = next;
                        else kept[at] = next;
                    }
                }
            }
            op.y.first[(u64)c * op.y.stride + head * n_value + value] = sum;
        }
        __syncthreads();
    }
    if (!is_mine) return;
    if (IN_REGISTERS) {
#pragma unroll
        for (u32 j = 0; j < ROWS_HERE; j++) keep_at<IS_HALF>(state, j * n_value + value, s[j]);
    } else {
        for (u32 j = 0; j < n_key; j++)
            keep_at<IS_HALF>(state, j * n_value + value, kept[j * n_value + value]);
    }
}

template <bool IS_HALF, u32 DELTA>
__device__ void span_with(const Op &op, u8 *state, u32 head, u32 first, u32 end) {
    if (op.n_key == 64) span_of<IS_HALF, DELTA, true>(op, state, head, first, end);
    else span_of<IS_HALF, DELTA, false>(op, state, head, first, end);
}

__device__ __noinline__ void span(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 i = 0; i < n * p.runs(); i++) {
        u32 run = p.first_run + i / n, head = first + i % n, c = p.pass.spans[run],
            end = p.pass.spans[run + 1];
        u8 *state = p.pass.states[run] + 64ull * op.line[0] +
                    (u64)head * op.n_key * op.n_value * (op.is_half ? 2 : 4);
        if (op.is_half) {
            if (op.delta == 0) span_with<true, 0>(op, state, head, c, end);
            else if (op.delta == 1) span_with<true, 1>(op, state, head, c, end);
            else span_with<true, 2>(op, state, head, c, end);
        } else {
            if (op.delta == 0) span_with<false, 0>(op, state, head, c, end);
            else if (op.delta == 1) span_with<false, 1>(op, state, head, c, end);
            else span_with<false, 2>(op, state, head, c, end);
        }
    }
}

#endif
