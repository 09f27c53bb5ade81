// Heads that solve for what they read: a thread has an element of the solution, and of both halves
// of a state that column. The order of operations is that of `kernels/recurrence/mesa.rs`.

#define MAX_MESA 256
#define MESA_EPS 1e-5f

// Σ x[row] · state[row][value], rows ascending.
template <bool IS_HALF>
__device__ __forceinline__ float mesa_column(const Kept &kept, u32 d, u32 value, const float *x) {
    float sum = 0.0f;
#pragma unroll 8
    for (u32 row = 0; row < d; row++)
        sum = fmaf(kept.get<IS_HALF>((u64)row * d + value), x[row], sum);
    return sum;
}

// Every warp finds it for itself.
__device__ __forceinline__ float dot_of(const float *x, const float *y, u32 n) {
    float acc = 0.0f;
    for (u32 i = threadIdx.x % LANES; i < n; i += LANES) acc = acc + x[i] * y[i];
    __syncwarp();
    return tree(acc);
}

// A token of a head; `values` is the half of the state behind that of keys.
template <bool IS_HALF>
__device__ __noinline__ void token_of_mesa(const Op &op, const Kept &keys, const Kept &values,
                                           u32 head, u32 c) {
    u32 d = op.n_key, i = threadIdx.x;
    bool is_mine = i < d;
    float *x = (float *)room, *r = x + MAX_MESA, *p = r + MAX_MESA, *product = p + MAX_MESA;
    const float *k = of_head(op.k, head, c), *v = of_head(op.v, head, c);
    float decay = *of_head(op.decay, head, c), beta = *of_head(op.a, head, c);
    for (u32 at = threadIdx.x; at < d * d; at += THREADS) {
        u32 value = at % d;
        float by = beta * k[at / d];
        keys.set<IS_HALF>(at, fmaf(keys.get<IS_HALF>(at), decay, k[value] * by));
        values.set<IS_HALF>(at, fmaf(values.get<IS_HALF>(at), decay, v[value] * by));
    }
    __syncthreads();
    float q = is_mine ? of_head(op.r, head, c)[i] : 0.0f;
    float lambda = is_mine ? op.weight[head * d + i] : 0.0f;
    if (is_mine) x[i] = q / (keys.get<IS_HALF>((u64)i * d + i) + lambda);
    __syncthreads();
    if (is_mine) {
        float of = mesa_column<IS_HALF>(keys, d, i, x) + lambda * x[i];
        r[i] = q - of;
        p[i] = q - of;
    }
    __syncthreads();
    float square = dot_of(r, r, d);
    for (u32 step = 0; step < op.over; step++) {
        if (is_mine) product[i] = mesa_column<IS_HALF>(keys, d, i, p) + lambda * p[i];
        __syncthreads();
        float alpha = square / (dot_of(p, product, d) + MESA_EPS);
        if (is_mine) {
            x[i] = x[i] + alpha * p[i];
            r[i] = r[i] - alpha * product[i];
        }
        __syncthreads();
        float next = dot_of(r, r, d), of_p = next / (square + MESA_EPS);
        if (is_mine) p[i] = r[i] + of_p * p[i];
        square = next;
        __syncthreads();
    }
    if (is_mine)
        op.y.first[(u64)c * op.y.stride + head * d + i] = mesa_column<IS_HALF>(values, d, i, x);
    // The next token writes what this one reads.
    __syncthreads();
}

__device__ void mesa(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    u64 half = (u64)op.n_key * op.n_key * (op.is_half ? 2 : 4);
    for (u32 i = 0; i < n * p.runs(); i++) {
        u32 run = p.first_run + i / n, head = first + i % n;
        u8 *state = p.pass.states[run] + 64ull * op.line[0] + 2 * head * half;
        const Kept keys = {state}, values = {state + half};
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            if (op.is_half) token_of_mesa<true>(op, keys, values, head, c);
            else token_of_mesa<false>(op, keys, values, head, c);
        }
    }
}
