// Operations that look back over a run: columns before each one, and what heads of queries and keys
// make of theirs. Orders of operations are those of `kernels/head_convs.rs`.

// Elements share a run's columns; then its last columns stay, oldest first.
__device__ void past(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first, steps = op.over, of = op.rows;
    for (u32 run = p.first_run; run < p.last_run; run++) {
        float *kept = (float *)(p.pass.states[run] + 64ull * op.line[0]);
        u32 begin = p.pass.spans[run], len = p.pass.spans[run + 1] - begin;
        for (u32 at = threadIdx.x; at < n * len; at += THREADS) {
            u32 since = at / n, i = first + at % n;
            float *y = op.y.first + (u64)(begin + since) * op.y.stride + (u64)i * (steps + 1);
            for (u32 step = 0; step <= steps; step++) {
                u32 back = steps - step;
                y[step] = back <= since
                              ? op.x.first[(u64)(begin + since - back) * op.x.stride + i]
                              : kept[(since + step) * of + i];
            }
        }
        __syncthreads();
        for (u32 i = first + threadIdx.x; i < first + n; i += THREADS)
            for (u32 step = 0; step < steps; step++) {
                // The window's new columns are the last of what it has and of the run.
                u32 from = step + len;
                kept[step * of + i] =
                    from < steps ? kept[from * of + i]
                                 : op.x.first[(u64)(begin + from - steps) * op.x.stride + i];
            }
        __syncthreads();
    }
}

// A block takes a head of a column: threads its inputs, then sixteen lanes each of its rows.
__device__ __noinline__ void head_convs(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    u32 d = op.n_value, taps = op.over, d_conv = op.n_key, queries = op.line[0], group = op.line[1];
    u32 each = op.line[2], now = each - 1, lane = threadIdx.x % LANES;
    const float *channels = op.weight, *channels_bias = op.bias, *heads = op.r.from;
    const float *heads_bias = op.k.from, *temperature = op.v.from;
    float *inputs = (float *)room, *y = inputs + d * taps;
    for (u32 at = 0; at < n * p.columns(); at++) {
        u32 head = first + at % n, c = p.from + at / n;
        const float *x = op.x.first + (u64)c * op.x.stride;
        // The convolution over channels of the token that each tap of the other meets.
        for (u32 i = threadIdx.x; i < d * taps; i += THREADS) {
            u32 row = head * d + i / taps, tap = i % taps;
            const float *from = x + (u64)row * each + each + 1 - taps - d_conv + tap;
            float sum = channels_bias[row];
            for (u32 j = 0; j < d_conv; j++) sum = sum + channels[row * d_conv + j] * from[j];
            inputs[i] = sum;
        }
        __syncthreads();
        for (u32 i = threadIdx.x / LANES; i < (d + 1) / 2 * 2; i += THREADS / LANES) {
            u32 row = head * d + min(i, d - 1);
            const float *w = heads + (u64)row * d * taps;
            float acc = 0.0f;
#pragma unroll 4
            for (u32 j = lane; j < d * taps; j += LANES) acc = acc + __ldg(w + j) * inputs[j];
            acc = tree(acc);
            if (lane != 0 || i >= d) continue;
            // The mean of a query and its key; of a key those of its group.
            float mean = 0.0f;
            if (head < queries) {
                u32 key = (queries + head / group) * d + i;
                mean = (x[(u64)row * each + now] + x[(u64)key * each + now]) * 0.5f;
            } else {
                u32 of = head - queries;
                for (u32 j = 0; j < group; j++) {
                    u32 query = (of * group + j) * d + i;
                    float both = x[(u64)query * each + now] + x[(u64)row * each + now];
                    mean = mean + both * 0.5f;
                }
                mean = mean / (float)group;
            }
            y[i] = mean + (acc + heads_bias[row]);
        }
        __syncthreads();
        float length = sqrtf(tree(lane_sum(y, d, lane, true, 0.0f)));
        length = length < 1.1920929e-7f ? 1.1920929e-7f : length;
        float scale = sqrtf((float)d) / length;
        if (head >= queries) scale = scale * temperature[head - queries];
        for (u32 i = threadIdx.x; i < d; i += THREADS)
            op.y.first[(u64)c * op.y.stride + head * d + i] = y[i] * scale;
        __syncthreads();
    }
}
