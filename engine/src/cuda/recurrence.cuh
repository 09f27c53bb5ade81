// Recurrences: what takes the tokens of a run into its state, one thread for each value of a head
// or each channel. The orders of operations are those of `kernels/recurrence` and
// `kernels/conv.rs`.

struct Kept {
    u8 *first;

    template <bool IS_HALF> __device__ float get(u64 i) const {
        return IS_HALF ? half_to_float(((const u16 *)first)[i]) : ((const float *)first)[i];
    }
    template <bool IS_HALF> __device__ void set(u64 i, float x) const {
        if (IS_HALF) ((u16 *)first)[i] = float_to_kept(x);
        else ((float *)first)[i] = x;
    }
};

__device__ inline const float *of_head(const OfHead &of, u32 head, u32 c) {
    u32 group = of.share == 1 ? head : head / of.share;
    return of.from + (u64)c * of.stride + of.first + group * of.step;
}

// An element of a state.
template <bool IS_HALF> __device__ __forceinline__ float kept_at(const u8 *from, u32 i) {
    return IS_HALF ? half_to_float(((const u16 *)from)[i]) : ((const float *)from)[i];
}

template <bool IS_HALF> __device__ __forceinline__ void keep_at(u8 *to, u32 i, float x) {
    if (IS_HALF) ((u16 *)to)[i] = float_to_kept(x);
    else ((float *)to)[i] = x;
}

// Four numbers that stand side by side.
struct Four {
    float v[4];

    __device__ __forceinline__ Four() {}
    __device__ __forceinline__ Four(const float *from) {
        const float4 all = *(const float4 *)from;
        v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
    }
};

// Keys whose rows of the state, or tokens, are read before any is written.
#define ROWS 8

// One token of one head; thread `value` has that column of the state.
template <bool IS_HALF>
__device__ __noinline__ void token(const Op &op, const Kept &kept, u32 head, u32 c, u32 value,
                                   const float *r, const float *k, const float *decay,
                                   const float *a, const float *b, const float *bonus) {
    u32 n_key = op.n_key, n_value = op.n_value, step = op.is_per_key;
    float scale = op.scale.first ? op.scale.first[(u64)c * op.scale.stride + head] : 1.0f;
    float v = scale * of_head(op.v, head, c)[value];
    float old = 0.0f, s[ROWS];
    if (op.delta) {
        for (u32 from = 0; from < n_key; from += ROWS) {
#pragma unroll
            for (u32 j = 0; j < ROWS; j++)
                s[j] =
                    from + j < n_key ? kept.get<IS_HALF>((u64)(from + j) * n_value + value) : 0.0f;
#pragma unroll
            for (u32 j = 0; j < ROWS; j++) {
                u32 key = from + j;
                if (key >= n_key) break;
                float reads = op.delta == 1 ? a[key] : k[key] * decay[key * step];
                old = fmaf(s[j], reads, old);
            }
        }
        if (op.delta == 2) v = fmaf(old, op.factor.first[(u64)c * op.factor.stride + head], v);
    }
    float sum = 0.0f;
    for (u32 from = 0; from < n_key; from += ROWS) {
#pragma unroll
        for (u32 j = 0; j < ROWS; j++)
            s[j] = from + j < n_key ? kept.get<IS_HALF>((u64)(from + j) * n_value + value) : 0.0f;
#pragma unroll
        for (u32 j = 0; j < ROWS; j++) {
            u32 key = from + j;
            if (key >= n_key) break;
            float kv = v * k[key];
            float fresh = op.delta == 1 ? fmaf(old, b[key], kv) : kv;
            float next = fmaf(s[j], decay[key * step], fresh);
            float seen = bonus ? fmaf(kv, bonus[key], s[j]) : next;
            sum = fmaf(seen, r[key], sum);
            s[j] = next;
        }
#pragma unroll
        for (u32 j = 0; j < ROWS; j++)
            if (from + j < n_key) kept.set<IS_HALF>((u64)(from + j) * n_value + value, s[j]);
    }
    op.y.first[(u64)c * op.y.stride + head * n_value + value] = sum;
}

// The heads of a piece, one after the other, token by token: what a token brings to all values of a
// head is copied to the block's own memory first.
__device__ void heads(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first, n_key = op.n_key;
    float *own = (float *)room;
    bool fits = n_key * 20 <= ROOM;
    u32 decays = op.is_per_key ? n_key : 1, steps = max(op.over, 1u);
    for (u32 i = 0; i < n * p.runs(); i++) {
        u32 run = p.first_run + i / n, head = first + i % n;
        u8 *state = p.pass.states[run] + 64ull * op.line[0];
        Kept kept = {state + (u64)head * n_key * op.n_value * (op.is_half ? 2 : 4)};
        const float *bonus = op.bias ? op.bias + head * n_key : 0;
        u32 of_seen = op.x.first ? head / op.x.rows : 0;
        for (u32 c = steps * p.pass.spans[run]; c < steps * p.pass.spans[run + 1]; c++) {
            if (op.x.first && op.x.first[(u64)c * op.x.stride + of_seen] == 0.0f) {
                float *y = op.y.first + (u64)c * op.y.stride + head * op.n_value;
                for (u32 value = threadIdx.x; value < op.n_value; value += THREADS) y[value] = 0.0f;
                continue;
            }
            const float *r = of_head(op.r, head, c), *k = of_head(op.k, head, c);
            const float *decay = of_head(op.decay, head, c), *a = 0, *b = 0;
            if (op.delta == 1) {
                a = of_head(op.a, head, c);
                b = of_head(op.b, head, c);
            }
            if (fits) {
                __syncthreads();
                for (u32 j = threadIdx.x; j < n_key; j += THREADS) {
                    own[j] = r[j];
                    own[n_key + j] = k[j];
                    if (j < decays) own[2 * n_key + j] = decay[j];
                    if (op.delta == 1) {
                        own[3 * n_key + j] = a[j];
                        own[4 * n_key + j] = b[j];
                    }
                }
                __syncthreads();
                r = own, k = own + n_key, decay = own + 2 * n_key, a = own + 3 * n_key,
                b = own + 4 * n_key;
            }
            for (u32 value = threadIdx.x; value < op.n_value; value += THREADS) {
                if (op.is_half) token<true>(op, kept, head, c, value, r, k, decay, a, b, bonus);
                else token<false>(op, kept, head, c, value, r, k, decay, a, b, bonus);
            }
        }
    }
}

// Four taps of some channels over the tokens of a run, which are cut into chunks: a thread has a
// chunk of a channel. All have read what stands before their chunk when the first one writes.
__device__ __noinline__ void conv_of_four(const Op &op, const Pieces &p, u32 run, u32 first,
                                          u32 n) {
    u32 start = p.pass.spans[run], tokens = p.pass.spans[run + 1] - start;
    u32 at_once = min(n, THREADS), chunks = min(THREADS / at_once, (tokens + 3) / 4);
    u32 each = (tokens + chunks - 1) / chunks, chunk = threadIdx.x / at_once;
    u32 begin = chunk * each, end = min(begin + each, tokens);
    for (u32 base = 0; base < n; base += at_once) {
        u32 of = base + threadIdx.x % at_once, i = first + of, block = i / 16, lane = i % 16;
        bool is_mine = of < n && begin < end;
        float *window = (float *)(p.pass.states[run] + 64ull * op.line[0]) + block * 48 + lane;
        float *y = op.y.first + (u64)start * op.y.stride + i;
        const float *tap = op.weight + (u64)block * 64 + lane;
        float before[3], taps[4], bias = 0.0f;
        if (is_mine) {
#pragma unroll
            for (u32 j = 0; j < 3; j++)
                before[j] = begin + j < 3 ? window[16 * (begin + j)]
                                          : y[(u64)(begin + j - 3) * op.y.stride];
#pragma unroll
            for (u32 j = 0; j < 4; j++) taps[j] = tap[16 * j];
            bias = op.bias[i];
        }
        __syncthreads();
        for (u32 c = begin; is_mine && c < end; c += 4) {
            float x[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) x[j] = c + j < end ? y[(u64)(c + j) * op.y.stride] : 0.0f;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                if (c + j >= end) break;
                float acc = bias + before[0] * taps[0];
                acc = acc + before[1] * taps[1];
                acc = acc + before[2] * taps[2];
                y[(u64)(c + j) * op.y.stride] = acc + x[j] * taps[3];
                before[0] = before[1], before[1] = before[2], before[2] = x[j];
            }
        }
        if (is_mine && end == tokens)
#pragma unroll
            for (u32 j = 0; j < 3; j++) window[16 * j] = before[j];
    }
}

// Any taps; groups of channels may share them, and see some columns alone.
__device__ __noinline__ void conv_of_any(const Op &op, const Pieces &p) {
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first, taps = op.n_key;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        u32 block = i / 16, lane = i % 16, group = block / op.n_value, of = block % op.n_value;
        float *state = (float *)(p.pass.states[run] + 64ull * op.line[0]);
        float *window = state + (u64)block * (taps - 1) * 16 + lane;
        const float *tap = op.weight + (u64)of * taps * 16 + lane;
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            if (op.x.first && op.x.first[(u64)c * op.x.stride + group] == 0.0f) continue;
            float *y = op.y.first + (u64)c * op.y.stride + i;
            float x = *y, acc = op.bias[16 * of + lane];
            for (u32 j = 0; j + 1 < taps; j++) {
                float input = window[16 * j];
                acc = acc + input * tap[16 * j];
                if (j > 0) window[16 * (j - 1)] = input;
            }
            if (taps > 1) window[16 * (taps - 2)] = x;
            *y = acc + x * tap[16 * (taps - 1)];
        }
    }
}

__device__ void conv(const Op &op, const Pieces &p) {
    if (op.n_key != 4 || op.x.first || p.are_short()) return conv_of_any(op, p);
    u32 blocks = op.rows / 16, first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first;
    for (u32 run = p.first_run; run < p.last_run; run++) conv_of_four(op, p, run, first, n);
}

// One channel over the tokens of a run.
template <bool IS_HALF>
__device__ __noinline__ void channel(const Op &op, const Pieces &p, u32 run, u32 i) {
    u32 d_state = op.n_key, last_head = op.k.step / (2 * d_state) - 1;
    u32 block = i / 16, lane = i % 16, head = min(i / op.n_value, last_head);
    u8 *state = p.pass.states[run] + 64ull * op.line[0];
    Kept kept = {state + (u64)block * d_state * 16 * (IS_HALF ? 2 : 4)};
    const float *a = op.weight + (u64)block * d_state * 16 + lane;
    for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
        float *delta_y = op.y.first + (u64)c * op.y.stride + i;
        float delta = *delta_y, x = op.x.first[(u64)c * op.x.stride + i];
        const float *b = op.k.from + (u64)c * op.k.stride + head * 2 * d_state;
        float rate = delta * 1.44269504088896340736f, u = delta * x, y = 0.0f, s[ROWS];
        for (u32 from = 0; from < d_state; from += ROWS) {
#pragma unroll
            for (u32 j = 0; j < ROWS; j++)
                s[j] = from + j < d_state ? kept.get<IS_HALF>(16 * (from + j) + lane) : 0.0f;
#pragma unroll
            for (u32 j = 0; j < ROWS; j++) {
                u32 at = from + j;
                if (at >= d_state) break;
                s[j] = fmaf(exp2_negative(rate * a[16 * at]), s[j], u * b[at]);
                y = fmaf(s[j], b[d_state + at], y);
            }
#pragma unroll
            for (u32 j = 0; j < ROWS; j++)
                if (from + j < d_state) kept.set<IS_HALF>(16 * (from + j) + lane, s[j]);
        }
        *delta_y = y + op.bias[i] * x;
    }
}

__device__ void channels(const Op &op, const Pieces &p) {
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        if (op.is_half) channel<true>(op, p, run, i);
        else channel<false>(op, p, run, i);
    }
}

#if __CUDA_ARCH__ >= 900

// Tokens of a batch, and channels of a block, of which all have sixteen numbers of state.
#define SCAN_TOKENS 16
#define SCAN_CHANNELS 256

// Asks for what a batch of tokens brings: steps and inputs of some channels, b and c of all.
__device__ void bring_scan(const Op &op, u32 first, u32 n, u32 c, u32 end, float *to) {
    u32 all = 2 * n + 32, tokens = min(SCAN_TOKENS, end - c);
    for (u32 at = threadIdx.x; at < all * tokens; at += THREADS) {
        u32 token = at / all, i = at % all;
        const float *from =
            i < n       ? op.y.first + (u64)(c + token) * op.y.stride + first + i
            : i < 2 * n ? op.x.first + (u64)(c + token) * op.x.stride + first + i - n
                        : op.k.from + (u64)(c + token) * op.k.stride + i - 2 * n;
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                     ::"r"(near_address(to + token * all + i)), "l"(from) : "memory");
    }
}

// Channels whose state stays in registers over the tokens of a run.
template <bool IS_HALF>
__device__ __noinline__ void scan_in_registers(const Op &op, const Pieces &p, u32 run, u32 first,
                                               u32 n) {
    float *batches = (float *)(room + ROOM + 2 * STAGE_BYTES);
    u32 floats = (2 * n + 32) * SCAN_TOKENS, thread = threadIdx.x, i = first + thread;
    u32 start = p.pass.spans[run], end = p.pass.spans[run + 1];
    bool is_mine = thread < n;
    u8 *state = p.pass.states[run] + 64ull * op.line[0] +
                (u64)(i / 16) * 16 * 16 * (IS_HALF ? 2 : 4);
    float s[16], a[16], d = 0.0f;
    if (is_mine) {
        d = op.bias[i];
#pragma unroll
        for (u32 j = 0; j < 16; j++) {
            s[j] = kept_at<IS_HALF>(state, 16 * j + i % 16);
            a[j] = op.weight[(u64)(i / 16) * 256 + 16 * j + i % 16];
        }
    }
    __syncthreads();
    bring_scan(op, first, n, start, end, batches);
    for (u32 c = start, turn = 0; c < end; c += SCAN_TOKENS, turn ^= 1) {
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        if (c + SCAN_TOKENS < end)
            bring_scan(op, first, n, c + SCAN_TOKENS, end, batches + (turn ^ 1) * floats);
        if (!is_mine) continue;
#pragma unroll 1
        for (u32 token = 0; token < min(SCAN_TOKENS, end - c); token++) {
            const float *own = batches + turn * floats + token * (2 * n + 32);
            float delta = own[thread], x = own[n + thread], y = 0.0f;
            float rate = delta * 1.44269504088896340736f, u = delta * x;
#pragma unroll
            for (u32 from = 0; from < 16; from += 4) {
                Four b(own + 2 * n + from), of_c(own + 2 * n + 16 + from);
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    s[from + j] =
                        fmaf(exp2_negative(rate * a[from + j]), s[from + j], u * b.v[j]);
                    y = fmaf(s[from + j], of_c.v[j], y);
                    if (IS_HALF) s[from + j] = half_to_float(float_to_kept(s[from + j]));
                }
            }
            op.y.first[(u64)(c + token) * op.y.stride + i] = y + d * x;
        }
    }
    if (is_mine)
#pragma unroll
        for (u32 j = 0; j < 16; j++) keep_at<IS_HALF>(state, 16 * j + i % 16, s[j]);
}

#endif

__device__ void scan(const Op &op, const Pieces &p) {
#if __CUDA_ARCH__ >= 900
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first;
    if (op.n_key == 16 && op.k.step == 32 && !p.are_short()) {
        for (u32 run = p.first_run; run < p.last_run; run++)
            for (u32 from = 0; from < n; from += SCAN_CHANNELS) {
                u32 here = min(SCAN_CHANNELS, n - from);
                if (op.is_half) scan_in_registers<true>(op, p, run, first + from, here);
                else scan_in_registers<false>(op, p, run, first + from, here);
            }
        return;
    }
#endif
    channels(op, p);
}

__device__ void average(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        float *state[3];
        for (u32 j = 0; j < 3; j++)
            state[j] = (float *)(p.pass.states[run] + 64ull * op.line[j]) + i;
        float num = *state[0], den = *state[1], most = *state[2];
        u32 end = p.pass.spans[run + 1];
        for (u32 c = p.pass.spans[run]; c < end; c += ROWS) {
            float ks[ROWS], vs[ROWS];
#pragma unroll
            for (u32 j = 0; j < ROWS; j++) {
                u32 at = min(c + j, end - 1);
                ks[j] = op.k.from[(u64)at * op.k.stride + i];
                vs[j] = op.v.from[(u64)at * op.v.stride + i];
            }
#pragma unroll
            for (u32 j = 0; j < ROWS; j++) {
                if (c + j >= end) break;
                float k = ks[j], v = vs[j], now = op.bias[i] + k;
                float q = most > now ? most : now;
                float past = exp_(most - q), fresh = exp_(now - q);
                op.y.first[(u64)(c + j) * op.y.stride + i] =
                    (past * num + fresh * v) / (past * den + fresh);
                float aged = most + op.weight[i];
                q = aged > k ? aged : k;
                past = exp_(aged - q);
                fresh = exp_(k - q);
                num = past * num + fresh * v;
                den = past * den + fresh;
                most = q;
            }
        }
        *state[0] = num;
        *state[1] = den;
        *state[2] = most;
    }
}
