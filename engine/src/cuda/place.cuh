// Operations on rows that no formula reaches: a recurrence of elements, elements of heads laid out
// anew, products of blocks of channels, slots, what chosen experts have among all.

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
__device__ inline bool of_part(const OfHead &of, u32 by, u32 n, u32 to, u32 head, u32 c, u32 i,
                               float &y) {
    if (i < to || i >= to + n) return false;
    y = of_head(of, head, c)[(i - to) * by];
    return true;
}

__device__ void place(const Op &op, const Pieces &p) {
    u32 own = op.y.rows / op.rows, first = p.begin(op.rows), n = (p.end(op.rows) - first) * own;
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, head = first + at % n / own, i = at % n % own;
        float y = 0.0f;
        if (!of_part(op.r, op.decay.step, op.line[0], op.n_key, head, c, i, y) &&
            !of_part(op.k, op.a.step, op.line[1], op.n_value, head, c, i, y))
            of_part(op.v, op.b.step, op.line[2], op.over, head, c, i, y);
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

// A slot takes a key: how near the query is to it then (`kernels/recurrence/slots.rs`).
template <bool IS_HALF>
__device__ inline float slot_score(const Op &op, const Kept &kept, u32 head, u32 c, u32 slot) {
    const float *q = of_head(op.r, head, c), *k = of_head(op.k, head, c);
    float share = of_head(op.v, head, c)[slot], decay = of_head(op.decay, head, c)[slot];
    float score = 0.0f;
#pragma unroll 4
    for (u32 i = 0; i < op.n_key; i++) {
        u64 at = (u64)i * op.n_value + slot;
        float next = kept.get<IS_HALF>(at) * decay + k[i] * share;
        kept.set<IS_HALF>(at, next);
        score = score + next * q[i];
    }
    return score;
}

__device__ void slots(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first, n_slot = op.n_value;
    u32 lane = threadIdx.x % 32;
    float *scores = (float *)room;
    for (u32 i = 0; i < n * p.runs(); i++) {
        u32 run = p.first_run + i / n, head = first + i % n;
        u64 before = (u64)head * op.n_key * n_slot * (op.is_half ? 2 : 4);
        const Kept kept = {p.pass.states[run] + 64ull * op.line[0] + before};
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            for (u32 slot = threadIdx.x; slot < n_slot; slot += THREADS)
                scores[slot] = op.is_half ? slot_score<true>(op, kept, head, c, slot)
                                          : slot_score<false>(op, kept, head, c, slot);
            __syncthreads();
            if (threadIdx.x < 32) {
                float most = __uint_as_float(0xff800000u);
                for (u32 j = lane; j < n_slot; j += 32) most = scores[j] > most ? scores[j] : most;
                for (u32 other = 16; other > 0; other /= 2) {
                    float v = __shfl_xor_sync(~0u, most, other);
                    most = v > most ? v : most;
                }
                for (u32 j = lane; j < n_slot; j += 32) scores[j] = exp_(scores[j] - most);
                __syncwarp();
                float inverse = 1.0f / tree(lane_sum(scores, n_slot, lane % LANES, false, 0.0f));
                float *y = op.y.first + (u64)c * op.y.stride + head * n_slot;
                for (u32 j = lane; j < n_slot; j += 32) y[j] = scores[j] * inverse;
            }
            __syncthreads();
        }
    }
}

// A thread has one of all experts: what it has, if it was chosen.
__device__ void spread(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, i = first + at % n;
        const float *chosen = op.x.first + (u64)c * op.x.stride;
        float y = i < op.over ? 0.0f : 1.0f;
        for (u32 j = 0; j < op.x.rows && i < op.over; j++) {
            if (chosen[j] != (float)i) continue;
            y = op.scale.first[(u64)c * op.scale.stride + j];
            break;
        }
        op.y.first[(u64)c * op.y.stride + i] = y;
    }
}
