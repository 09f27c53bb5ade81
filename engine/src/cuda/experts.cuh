// Mixtures of experts: exact scores, the choice by them (`kernels/choice.rs`), products with the
// matrices of those that were chosen.

// Blocks of sixteen rows, a warp each: its first half has chains 0 and 1 of a row, its second half
// chains 2 and 3 (`kernels/rows.rs`).
__device__ void exact_rows(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first, k = op.over;
    u32 lane = threadIdx.x % 16, half = threadIdx.x / 16 % 2;
    for (u32 at = threadIdx.x / 32; at < n * p.columns(); at += THREADS / 32) {
        u32 c = p.from + at / n, block = first + at % n;
        const float *x = op.x.first + (u64)c * op.x.stride;
        const float *w = op.weight + (u64)block * k * 16 + lane;
        float even = 0.0f, odd = 0.0f;
#pragma unroll 4
        for (u32 i = 2 * half; i < k / 4 * 4; i += 4) {
            even = even + __ldg(w + 16 * i) * x[i];
            odd = odd + __ldg(w + 16 * i + 16) * x[i + 1];
        }
        u32 rest = k / 4 * 4 + 2 * half;
        if (rest < k) even = even + __ldg(w + 16 * rest) * x[rest];
        if (rest + 1 < k) odd = odd + __ldg(w + 16 * rest + 16) * x[rest + 1];
        float sum = even + odd, other = __shfl_down_sync(~0u, sum, 16);
        if (half == 0) op.y.first[(u64)c * op.y.stride + 16 * block + lane] = sum + other;
    }
}

// Experts of a token, at most.
#define MAX_USED 64
// −∞.
#define LEAST __uint_as_float(0xff800000u)

// The lower of two numbers where values are equal, else that of the larger value.
__device__ inline void take_better(float &value, u32 &i, float other, u32 of_other) {
    bool is_better = other > value || (other == value && of_other < i);
    value = is_better ? other : value;
    i = is_better ? of_other : i;
}

// Scores count no more where their group is not among the best by its two best.
__device__ void choose_groups(u32 groups, u32 used, u32 size, float *biased) {
    u32 lane = threadIdx.x % 32;
    float sums[2];
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
        u32 group = lane + 32 * j;
        float best = LEAST, second = LEAST;
        for (u32 i = 0; i < size && group < groups; i++) {
            float v = biased[group * size + i];
            second = v > best ? best : v > second ? v : second;
            best = v > best ? v : best;
        }
        sums[j] = size == 1 ? best : best + second;
    }
    u32 before[2] = {0, 0};
    for (u32 other = 0; other < groups; other++) {
        float of_first = __shfl_sync(~0u, sums[0], other % 32);
        float of_second = __shfl_sync(~0u, sums[1], other % 32);
        float sum = other < 32 ? of_first : of_second;
#pragma unroll
        for (u32 j = 0; j < 2; j++)
            before[j] += sum > sums[j] || (sum == sums[j] && other < lane + 32 * j);
    }
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
        u32 group = lane + 32 * j;
        for (u32 i = 0; i < size && group < groups && before[j] >= used; i++)
            biased[group * size + i] = LEAST;
    }
    __syncwarp();
}

// A warp chooses the experts of column c; `scores` is its memory, which has two floats for every
// choice and one for every expert that may be used.
__device__ __noinline__ void choose_column(const Op &op, u32 c, float *scores) {
    u32 lane = threadIdx.x % 32, n = op.rows, used = op.over;
    u32 n_expert = op.line[0], always = op.line[1], own = n - always;
    float *biased = scores + n;
    u32 *chosen = (u32 *)(biased + n);
    const float *x = op.x.first + (u64)c * op.x.stride;
    float most = LEAST;
    for (u32 i = lane; i < n; i += 32) {
        float v = x[i];
        scores[i] = op.is_half ? sigmoid_(v) : v;
        most = v > most ? v : most;
    }
    if (!op.is_half) {
        for (u32 other = 16; other > 0; other /= 2) {
            float v = __shfl_xor_sync(~0u, most, other);
            most = v > most ? v : most;
        }
        for (u32 i = lane; i < n; i += 32) scores[i] = exp_(scores[i] - most);
        __syncwarp();
        float sum = tree(lane_sum(scores, n, lane % LANES, false, 0.0f));
        for (u32 i = lane; i < n; i += 32) scores[i] = scores[i] / sum;
    }
    for (u32 i = lane; i < own; i += 32) {
        float v = scores[i];
        if (op.weight && i < n_expert - always) v = v + op.weight[i];
        if (op.delta && i == own - 1) v = v + __uint_as_float(op.beginning);
        biased[i] = v != v ? LEAST : v;
    }
    __syncwarp();
    if (op.n_key) choose_groups(op.n_key, op.n_value, own / op.n_key, biased);
    // The best that is left, again and again; what was chosen is no number.
    for (u32 place = 0; place < used - always; place++) {
        float value = LEAST;
        u32 best = ~0u;
        for (u32 i = lane; i < own; i += 32) {
            float v = biased[i];
            if (v > value || (v == value && best == ~0u)) { value = v; best = i; }
        }
        for (u32 other = 16; other > 0; other /= 2) {
            float v = __shfl_xor_sync(~0u, value, other);
            take_better(value, best, v, __shfl_xor_sync(~0u, best, other));
        }
        if (best % 32 == lane) biased[best] = __uint_as_float(0x7fc00000u);
        if (lane == 0) chosen[place] = best;
    }
    for (u32 i = lane; i < always; i += 32) chosen[used - always + i] = own + i;
    __syncwarp();
    float sum = 0.0f;
    for (u32 i = 0; i < used; i++) sum = sum + scores[chosen[i]];
    sum = sum + op.eps;
    // In the order of their numbers, in which their results are added.
    for (u32 i = lane; i < used; i += 32) {
        u32 expert = chosen[i], place = 0;
        for (u32 j = 0; j < used; j++) place += chosen[j] < expert;
        float w = scores[expert];
        if (op.line[2]) w = w / sum;
        w = w * __uint_as_float(op.window);
        // Without an expert it goes through any, times 0.
        bool is_one = expert < n_expert;
        if (op.y.first) op.y.first[(u64)c * op.y.stride + place] = is_one ? (float)expert : 0.0f;
        if (op.scale.first) op.scale.first[(u64)c * op.scale.stride + place] = is_one ? w : 0.0f;
    }
    __syncwarp();
}

__device__ void choose(const Op &op, const Pieces &p) {
    u32 floats = 2 * op.rows + MAX_USED;
    u32 warps = min((u32)(THREADS / 32), (u32)(ROOM / 4) / floats), warp = threadIdx.x / 32;
    if (warp >= warps) return;
    for (u32 c = p.from + warp; c < p.to; c += warps)
        choose_column(op, c, (float *)room + warp * floats);
}

// A tile of one of a token's experts: of a sum those of one tile are side by side, else those of
// one expert.
struct Item {
    u32 slot, tile;

    __device__ Item(const Op &op, u32 i) {
        bool is_sum = op.factor.first;
        slot = is_sum ? i % op.x.rows : i / op.rows;
        tile = is_sum ? i / op.x.rows : i % op.rows;
    }

    // The tile among those of all experts; without a choice all are used.
    __device__ u32 of_all(const Op &op, u32 c) const {
        u32 expert = op.x.first ? (u32)op.x.first[(u64)c * op.x.stride + slot] : slot;
        return expert * op.over + tile;
    }

    // Its column of activations: experts may have their own.
    __device__ u32 column(const Op &op, u32 c) const { return op.delta ? c * op.x.rows + slot : c; }

    // Row `lane` of it, zero behind the last.
    __device__ void set(const Op &op, u32 c, u32 lane, float y) const {
        u32 row = 16 * tile + lane;
        float *to = op.y.first + (u64)c * op.y.stride + 16 * slot * op.rows;
        to[row] = row < op.n_key ? y : 0.0f;
    }
};

// Items of column c of an integer format: as `integers` in `product.cuh`.
__device__ void expert_integers(const Op &op, u32 first, u32 items, u32 c) {
    Part *parts = (Part *)room;
    Cut cut(op.w);
    u32 lane = threadIdx.x % 16, half_warp = threadIdx.x / 16, per_item = PARTS / items;
    const Item own(op, first + min(half_warp, items - 1));
    bool is_mine = half_warp < items && own.tile < op.over;
    float acc = 0.0f;
    for (u32 from = 0; from < cut.parts; from += per_item) {
        u32 here = min(per_item, cut.parts - from);
        for (u32 at = half_warp; at < items * here; at += THREADS / 16) {
            const Item item(op, first + at / here);
            if (item.tile >= op.over) continue;
            parts[(at / here * per_item + at % here) * 16 + lane] =
                part_of(op.w, op.inputs, cut, item.of_all(op, c), from + at % here,
                        item.column(op, c), lane);
        }
        __syncthreads();
        if (is_mine) acc = added(op.w, parts + half_warp * per_item * 16 + lane, here, acc);
        __syncthreads();
    }
    if (half_warp >= items) return;
    if (is_mine) acc = of_row(op.w, own.of_all(op, c), lane, acc);
    own.set(op, c, lane, acc);
}

// An item of a float format: a product whose buffers begin where its tile 0 and its column would.
__device__ void expert_floats(const Op &op, Op &own, const Item &item, u32 c) {
    u32 tile = item.of_all(op, c);
    if (threadIdx.x == 0) {
        long long apart = 16 * ((long long)item.slot * op.rows + item.tile - (long long)tile);
        own.y.first = op.y.first + apart;
        u64 moved = (u64)(item.column(op, c) - c) * op.inputs.groups;
        if (op.inputs.f32) own.inputs.f32 = op.inputs.f32 + 64 * moved;
        if (op.inputs.bf16) own.inputs.bf16 = op.inputs.bf16 + 64 * moved;
    }
    __syncthreads();
    if (threadIdx.x < 32 && item.tile < op.over) floats(own, tile, c);
    __syncthreads();
    // What pads the last tile came to zero with its weights; behind it there is none.
    if (threadIdx.x < 16 && item.tile >= op.over) item.set(op, c, threadIdx.x, 0.0f);
}

__device__ void experts(const Op &op, const Pieces &p) {
    __shared__ __align__(16) Op own;
    u32 used = op.x.rows, most = THREADS / 16;
    bool is_sum = op.factor.first;
    // Of a sum pieces are rows of every expert.
    u32 all = is_sum ? op.rows : op.rows * used, first = p.begin(all), end = p.end(all);
    u32 begin = is_sum ? first * used : first, last = is_sum ? end * used : end;
    if (threadIdx.x < sizeof(Op) / 16)
        ((uint4 *)&own)[threadIdx.x] = ((const uint4 *)&op)[threadIdx.x];
    __syncthreads();
    for (u32 c = p.from; c < p.to; c++) {
        if (is_integer(op.w.format)) {
            for (u32 item = begin; item < last; item += most)
                expert_integers(op, item, min(most, last - item), c);
        } else {
            for (u32 item = begin; item < last; item++) expert_floats(op, own, Item(op, item), c);
        }
        __syncthreads();
        if (!is_sum) continue;
        const float *y = op.y.first + (u64)c * op.y.stride;
        const float *weights = op.scale.first + (u64)c * op.scale.stride;
        float *into = op.factor.first + (u64)c * op.factor.stride;
        for (u32 row = 16 * first + threadIdx.x; row < 16 * end; row += THREADS) {
            float sum = into[row];
            for (u32 slot = 0; slot < used; slot++)
                sum = sum + weights[slot] * y[16 * slot * op.rows + row];
            into[row] = sum;
        }
    }
}
