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
    return of.from + (u64)c * of.stride + of.first + head / of.share * of.step;
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

    __device__ __forceinline__ Four(const float *from) {
        const float4 all = *(const float4 *)from;
        v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
    }
};

// Keys whose rows of the state are read before any is written.
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
        for (u32 c = steps * p.pass.spans[run]; c < steps * p.pass.spans[run + 1]; c++) {
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

__device__ void conv(const Op &op, const Pieces &p) {
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first, taps = op.n_key;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        u32 block = i / 16, lane = i % 16;
        float *state = (float *)(p.pass.states[run] + 64ull * op.line[0]);
        float *window = state + (u64)block * (taps - 1) * 16 + lane;
        const float *tap = op.weight + (u64)block * taps * 16 + lane;
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            float *y = op.y.first + (u64)c * op.y.stride + i;
            float x = *y, acc = op.bias[i];
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

__device__ void scan(const Op &op, const Pieces &p) {
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        if (op.is_half) channel<true>(op, p, run, i);
        else channel<false>(op, p, run, i);
    }
}

__device__ void average(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
        float *state[3];
        for (u32 j = 0; j < 3; j++)
            state[j] = (float *)(p.pass.states[run] + 64ull * op.line[j]) + i;
        float num = *state[0], den = *state[1], most = *state[2];
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            float k = op.k.from[(u64)c * op.k.stride + i], v = op.v.from[(u64)c * op.v.stride + i];
            float now = op.bias[i] + k;
            float q = most > now ? most : now;
            float past = exp_(most - q), fresh = exp_(now - q);
            op.y.first[(u64)c * op.y.stride + i] = (past * num + fresh * v) / (past * den + fresh);
            float aged = most + op.weight[i];
            q = aged > k ? aged : k;
            past = exp_(aged - q);
            fresh = exp_(k - q);
            num = past * num + fresh * v;
            den = past * den + fresh;
            most = q;
        }
        *state[0] = num;
        *state[1] = den;
        *state[2] = most;
    }
}
