// Operations on rows that no formula reaches: a recurrence of elements, elements of heads laid out
// anew, products of blocks of channels.

// A thread goes through the columns of a run: it finds its element as it left it.
__device__ void fold(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
#pragma unroll 1
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, i = first + at % n;
#pragma unroll 1
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++)
            op.y.first[(u64)c * op.y.stride + i] = element(op, p, i, c);
    }
}

// Element `i` of a head of column c, if it is of this part.
__device__ inline bool of_part(const OfHead &of, u32 n, u32 to, u32 head, u32 c, u32 i, float &y) {
    if (i < to || i >= to + n) return false;
    y = of.from[(u64)c * of.stride + of.first + head * of.step + (i - to) * of.share];
    return true;
}

__device__ void place(const Op &op, const Pieces &p) {
    u32 own = op.y.rows / op.rows, first = p.begin(op.rows), n = (p.end(op.rows) - first) * own;
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, head = first + at % n / own, i = at % n % own;
        float y = 0.0f;
        if (!of_part(op.r, op.line[0], op.n_key, head, c, i, y) &&
            !of_part(op.k, op.line[1], op.n_value, head, c, i, y))
            of_part(op.v, op.line[2], op.over, head, c, i, y);
        op.y.first[(u64)c * op.y.stride + head * own + i] = y;
    }
}

__device__ void blocks(const Op &op, const Pieces &p) {
    u32 d = op.n_key, first = p.begin(op.rows) * d, n = p.end(op.rows) * d - first;
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, row = first + at % n, block = row / d * d;
        const float *x = op.x.first + (u64)c * op.x.stride + block;
        const float *w = op.weight + (u64)block * d + row % d;
        float sum = op.bias[row];
#pragma unroll 8
        for (u32 i = 0; i < d; i++) sum = sum + x[i] * __ldg(w + (u64)i * d);
        op.y.first[(u64)c * op.y.stride + row] = sum;
    }
}
