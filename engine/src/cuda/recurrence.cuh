// Recurrences: what takes the tokens of a run into its state, one thread for each value of a head or
// each channel. The orders of operations are those of `kernels/recurrence` and `kernels/conv.rs`.

struct Kept {
    u8 *first;
    bool is_half;

    __device__ float get(u64 i) const {
        return is_half ? half_to_float(((const u16 *)first)[i]) : ((const float *)first)[i];
    }
    __device__ void set(u64 i, float x) const {
        if (is_half) ((u16 *)first)[i] = float_to_kept(x);
        else ((float *)first)[i] = x;
    }
};

__device__ inline const float *of_head(const OfHead &of, u32 head, u32 c) {
    return of.from + (u64)c * of.stride + of.first + head / of.share * of.step;
}

__device__ void heads(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    u32 n_key = op.n_key, n_value = op.n_value;
    u32 width = n * n_value;
    for (u32 at = threadIdx.x; at < width * p.pass.runs; at += THREADS) {
        u32 run = at / width, head = first + at % width / n_value, value = at % n_value;
        u8 *state = p.pass.states[run] + 64ull * op.line[0];
        Kept kept = {state + (u64)head * n_key * n_value * (op.is_half ? 2 : 4), op.is_half != 0};
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            const float *r = of_head(op.r, head, c), *k = of_head(op.k, head, c);
            const float *decay = of_head(op.decay, head, c);
            float scale = op.scale.first ? op.scale.first[(u64)c * op.scale.stride + head] : 1.0f;
            float v = scale * of_head(op.v, head, c)[value];
            u32 step = op.is_per_key;
            float old = 0.0f;
            const float *a = 0, *b = 0;
            if (op.delta == 1) {
                a = of_head(op.a, head, c);
                b = of_head(op.b, head, c);
#pragma unroll 8
                for (u32 j = 0; j < n_key; j++) old = fmaf(kept.get((u64)j * n_value + value), a[j], old);
            } else if (op.delta == 2) {
                float factor = op.factor.first[(u64)c * op.factor.stride + head];
#pragma unroll 8
                for (u32 j = 0; j < n_key; j++) {
                    float reads = k[j] * decay[j * step];
                    old = fmaf(kept.get((u64)j * n_value + value), reads, old);
                }
                v = fmaf(old, factor, v);
            }
            float sum = 0.0f;
#pragma unroll 8
            for (u32 j = 0; j < n_key; j++) {
                u64 place = (u64)j * n_value + value;
                float s = kept.get(place), kv = v * k[j];
                float fresh = op.delta == 1 ? fmaf(old, b[j], kv) : kv;
                float next = fmaf(s, decay[j * step], fresh);
                kept.set(place, next);
                float seen = op.bias ? fmaf(kv, op.bias[head * n_key + j], s) : next;
                sum = fmaf(seen, r[j], sum);
            }
            op.y.first[(u64)c * op.y.stride + head * n_value + value] = sum;
        }
    }
}

__device__ void conv(const Op &op, const Pieces &p) {
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first, taps = op.n_key;
    for (u32 at = threadIdx.x; at < n * p.pass.runs; at += THREADS) {
        u32 run = at / n, i = first + at % n;
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

__device__ void scan(const Op &op, const Pieces &p) {
    u32 blocks = op.rows / 16;
    u32 first = p.begin(blocks) * 16, n = p.end(blocks) * 16 - first;
    u32 d_state = op.n_key, d_head = op.n_value;
    u32 last_head = op.k.step / (2 * d_state) - 1;
    for (u32 at = threadIdx.x; at < n * p.pass.runs; at += THREADS) {
        u32 run = at / n, i = first + at % n;
        u32 block = i / 16, lane = i % 16, head = min(i / d_head, last_head);
        u8 *state = p.pass.states[run] + 64ull * op.line[0];
        Kept kept = {state + (u64)block * d_state * 16 * (op.is_half ? 2 : 4), op.is_half != 0};
        const float *a = op.weight + (u64)block * d_state * 16 + lane;
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            float *delta_y = op.y.first + (u64)c * op.y.stride + i;
            float delta = *delta_y, x = op.x.first[(u64)c * op.x.stride + i];
            const float *b = op.k.from + (u64)c * op.k.stride + head * 2 * d_state;
            float rate = delta * 1.44269504088896340736f, u = delta * x, y = 0.0f;
            for (u32 j = 0; j < d_state; j++) {
                u64 place = 16 * j + lane;
                float next = fmaf(exp2_negative(rate * a[16 * j]), kept.get(place), u * b[j]);
                kept.set(place, next);
                y = fmaf(next, b[d_state + j], y);
            }
            *delta_y = y + op.bias[i] * x;
        }
    }
}

__device__ void average(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = threadIdx.x; at < n * p.pass.runs; at += THREADS) {
        u32 run = at / n, i = first + at % n;
        float *state[3];
        for (u32 j = 0; j < 3; j++) state[j] = (float *)(p.pass.states[run] + 64ull * op.line[j]) + i;
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
