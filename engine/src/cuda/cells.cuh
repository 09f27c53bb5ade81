// Cells whose tokens pass a matrix one by one: `kernels/recurrence/cells.rs` has their equations.

// Activations of one column, of the numbers that stand at x: a warp takes a group of 64.
__device__ void pack_numbers(const Inputs &to, const float *x, u32 c) {
    u32 k = to.k, lane = threadIdx.x % 32;
    for (u32 group = threadIdx.x / 32; group < (k + 63) / 64; group += THREADS / 32) {
        u32 i = group * 64 + lane;
        float v0 = i < k ? x[i] : 0.0f, v1 = i + 32 < k ? x[i + 32] : 0.0f;
        u64 place = (u64)c * to.groups * 64 + i;
        if (to.f32) to.f32[place] = v0, to.f32[place + 32] = v1;
        if (to.bf16) to.bf16[place] = to_bf16(v0), to.bf16[place + 32] = to_bf16(v1);
        if (to.int8) pack_int8(v0, v1, lane, to.int8 + (u64)c * to.groups + group);
    }
}

// A block takes a run, token after token.
__device__ __noinline__ void cells(const Op &op, const Pieces &p) {
    u32 d = op.rows, tiles = (op.w.rows + 15) / 16, most = THREADS / 16;
    for (u32 run = p.first_run; run < p.last_run; run++) {
        float *last = (float *)(p.pass.states[run] + 64ull * op.line[0]);
        float *kept = (float *)(p.pass.states[run] + 64ull * op.line[1]);
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            pack_numbers(op.inputs, last, c);
            __syncthreads();
            if (is_integer(op.w.format)) {
                for (u32 tile = 0; tile < tiles; tile += most) {
                    integers(op, tile, min(most, tiles - tile), c);
                    __syncthreads();
                }
            } else {
                for (u32 tile = threadIdx.x / 32; tile < tiles; tile += THREADS / 32)
                    floats(op, tile, c);
            }
            __syncthreads();
            const float *x = op.x.first + (u64)c * op.x.stride;
            const float *before = op.y.first + (u64)c * op.y.stride;
            float *y = op.scale.first + (u64)c * op.scale.stride;
            for (u32 i = threadIdx.x; i < d; i += THREADS) {
                float of[4];
#pragma unroll
                for (u32 gate = 0; gate < 4; gate++) {
                    if (gate >= op.n_key) continue;
                    float sum = before[gate * d + i];
                    of[gate] = op.bias ? sum + op.bias[gate * d + i] : sum;
                }
                float h;
                if (op.n_key == 4) {
                    float cell = sigmoid_(x[d + i] + of[1]) * kept[i] +
                                 sigmoid_(x[i] + of[0]) * tanh_(x[2 * d + i] + of[2]);
                    kept[i] = cell;
                    h = sigmoid_(x[3 * d + i] + of[3]) * tanh_(cell);
                } else {
                    float r = sigmoid_(x[i] + of[0]), z = sigmoid_(x[d + i] + of[1]);
                    float next = tanh_(x[2 * d + i] + r * of[2]);
                    h = (1.0f - z) * next + z * last[i];
                }
                last[i] = h;
                y[i] = h;
            }
            __syncthreads();
        }
    }
}
