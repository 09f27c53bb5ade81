// Maps, sums and roundings to activations of the columns of a pass.

// Elements that threads share, by columns: places `at`, `at` + step, … of n in each column, without
// a division for each.
struct Shared {
    u32 n, c, i, step, columns;

    // Both `first` and `step` are THREADS at most: a division serves both, or none.
    __device__ Shared(u32 n, u32 first, u32 step, u32 from) : n(n), c(from), i(first), step(step) {
        columns = 0;
        if (n > THREADS) return;
        u32 inverse = (1u << 20) / n + 1, begin = first * inverse >> 20;
        columns = step * inverse >> 20;
        c += begin, i -= begin * n, this->step -= columns * n;
    }

    __device__ __forceinline__ void next() {
        i += step, c += columns;
        if (i >= n) i -= n, c++;
    }
};

template <u64 FIRST, u64 MORE>
__device__ __noinline__ void map_known(const Op &op, const Pieces &p, u32 first, u32 n) {
    const Known<FIRST, MORE> f(op, p);
    float *y = op.y.first + first;
    u32 stride = op.y.stride, end = p.to;
#pragma unroll 1
    for (Shared at(n / 4, threadIdx.x, THREADS, p.from); at.c < end; at.next()) {
        Some<4> of = f.template at<4>(first + 4 * at.i, at.c);
        *(float4 *)(y + (u64)at.c * stride + 4 * at.i) = {of.v[0], of.v[1], of.v[2], of.v[3]};
    }
}

__device__ void map(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    if (n == 0) return;
    if (op.is_by_four && (first | n) % 4 == 0) {
#define FORMULA(number, steps, more) case number: return map_known<steps, more>(op, p, first, n);
        switch (op.formula) {
#include "formulas.cuh"
        default: break;
        }
#undef FORMULA
    }
#pragma unroll 1
    for (Shared at(n, threadIdx.x, THREADS, p.from); at.c < p.to; at.next())
        op.y.first[(u64)at.c * op.y.stride + first + at.i] = element_of(op, p, first + at.i, at.c);
}

// Sums of formulas that many models sum: what a lane adds is read before the first is added.
template <u64 FIRST>
__device__ __noinline__ void sum_known(const Op &op, const Pieces &p, u32 first, u32 n) {
    const Known<FIRST, 0> f(op, p);
    u32 lane = threadIdx.x % LANES, over = op.over;
    Shared at(n, threadIdx.x / LANES, THREADS / LANES, p.from);
    while (__any_sync(~0u, at.c < p.to)) {
        bool is_one = at.c < p.to;
        u32 c = is_one ? at.c : p.from, row = first + (is_one ? at.i : 0);
        float acc = 0.0f;
#pragma unroll 4
        for (u32 i = lane; i < over; i += LANES)
            acc = acc + f.template at<1>(row * over + i, c).v[0];
        acc = tree(acc);
        if (is_one && lane == 0) op.y.first[(u64)c * op.y.stride + row] = acc;
        at.next();
    }
}

// Sixteen lanes take a group of elements, lane l its elements l, l + 16, …
__device__ void sum(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    if (n == 0) return;
    // (a · b) and (a · (b · c)).
    if (op.formula == 5 && op.over % 64 == 0) return sum_known<0x40101ull>(op, p, first, n);
    if (op.formula == 16 && op.over % 64 == 0) return sum_known<0x404010101ull>(op, p, first, n);
    u32 lane = threadIdx.x % LANES;
    // All lanes of a warp take part in each shuffle.
    u32 all = (n * p.columns() + 1) / 2 * 2;
    for (u32 at = threadIdx.x / LANES; at < all; at += THREADS / LANES) {
        bool is_one = at < n * p.columns();
        u32 c = p.from + (is_one ? at / n : 0), row = first + (is_one ? at % n : 0);
        float acc = 0.0f;
#pragma unroll 1
        for (u32 i = lane; i < op.over; i += LANES)
            acc = acc + element_of(op, p, row * op.over + i, c);
        acc = tree(acc);
        if (is_one && lane == 0) op.y.first[(u64)c * op.y.stride + row] = acc;
    }
}

// Sixteen lanes' group of 64 activations as int8: a lane has four that stand side by side.
__device__ __forceinline__ void pack_fours(const float v[4], u32 lane, Int8Group *y, Eight *eight,
                                           u32 column, bool is_one) {
    u32 largest = 0;
#pragma unroll
    for (u32 j = 0; j < 4; j++) largest = max(largest, __float_as_uint(fabsf(v[j])));
    for (u32 other = 8; other > 0; other /= 2)
        largest = max(largest, __shfl_xor_sync(~0u, largest, other));
    float most = __uint_as_float(largest), inverse = most > 0.0f ? 127.0f / most : 0.0f;
    u32 codes = 0;
    int sum = 0;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        float x = v[j] * inverse;
        signed char q = x != x ? 0 : (signed char)__float_as_uint(x + 12582912.0f);
        codes |= (u32)(u8)q << 8 * j;
        sum += q;
    }
    for (u32 other = 4; other > 0; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
    // Of eight columns the even lane has the lower four, and writes those nibbles that begin.
    u32 beside = __shfl_xor_sync(~0u, codes, 1);
    u32 nibbles = lane % 2 == 0 ? __byte_perm(codes, beside, 0x5140)
                                : __byte_perm(beside, codes, 0x7362);
    if (!is_one) return;
    ((u32 *)y->codes)[lane] = codes;
    ((u32 *)y->nibbles)[lane] = nibbles;
    if (lane % 8 == 0) y->sums[lane / 8] = sum;
    if (lane == 0) y->scale = most / 127.0f;
    if (!eight) return;
    *eight->word(column, lane) = nibbles;
    if (lane == 0) eight->scales[column] = most / 127.0f;
}

// Where a group of a column lies among eights, on cards whose tensor cores read them: of 64 columns
// each group's eights side by side.
__device__ inline Eight *eight_of(const Op &op, const Pieces &p, u32 c, u32 group) {
#if __CUDA_ARCH__ >= 900
    if (op.eights) {
        u32 block = c / TOKENS, eights = eights_of(p.width() - block * TOKENS);
        return eights_at(op, block) + group * eights + c % TOKENS / 8;
    }
#endif
    return 0;
}

// Sixteen lanes take a group of 64 of a column.
template <u64 FIRST, u64 MORE>
__device__ __noinline__ void pack_known(const Op &op, const Pieces &p, u32 first, u32 n) {
    const Known<FIRST, MORE> f(op, p);
    const Inputs to = op.inputs;
    u32 lane = threadIdx.x % LANES, end = p.to;
    // Both halves of a warp go on as long as one of them has a group.
    Shared at(n, threadIdx.x / LANES, THREADS / LANES, p.from);
    while (__any_sync(~0u, at.c < end)) {
        bool is_one = at.c < end;
        u32 c = is_one ? at.c : p.from, group = first + (is_one ? at.i : 0);
        u32 i = group * 64 + 4 * lane;
        Some<4> y = f.template at<4>(i < to.k ? i : 0, c);
#pragma unroll
        for (u32 j = 0; j < 4; j++) y.v[j] = i < to.k ? y.v[j] : 0.0f;
        u64 place = (u64)c * to.groups * 64 + i;
        if (is_one && to.f32) *(float4 *)(to.f32 + place) = {y.v[0], y.v[1], y.v[2], y.v[3]};
        if (is_one && to.bf16)
#pragma unroll
            for (u32 j = 0; j < 4; j++) to.bf16[place + j] = to_bf16(y.v[j]);
        if (to.int8)
            pack_fours(y.v, lane, to.int8 + (u64)c * to.groups + group, eight_of(op, p, c, group),
                       c % 8, is_one);
        at.next();
    }
}

// A warp takes a group of 64 of a column.
__device__ void pack(const Op &op, const Pieces &p) {
    u32 k = op.inputs.k, groups = op.inputs.groups, own = (k + 63) / 64;
    u32 first = p.begin(own), n = p.end(own) - first, lane = threadIdx.x % 32;
    if (n == 0) return;
    if (op.is_by_four && k % 4 == 0) {
#define FORMULA(number, steps, more) case number: return pack_known<steps, more>(op, p, first, n);
        switch (op.formula) {
#include "formulas.cuh"
        default: break;
        }
#undef FORMULA
    }
    for (u32 at = threadIdx.x / 32; at < n * p.columns(); at += THREADS / 32) {
        u32 c = p.from + at / n, group = first + at % n, i = group * 64 + lane;
        float v0 = i < k ? element_of(op, p, i, c) : 0.0f;
        float v1 = i + 32 < k ? element_of(op, p, i + 32, c) : 0.0f;
        u64 place = (u64)c * groups * 64 + i;
        if (op.inputs.f32) {
            op.inputs.f32[place] = v0;
            op.inputs.f32[place + 32] = v1;
        }
        if (op.inputs.bf16) {
            op.inputs.bf16[place] = to_bf16(v0);
            op.inputs.bf16[place + 32] = to_bf16(v1);
        }
        if (op.inputs.int8)
            pack_int8(v0, v1, lane, op.inputs.int8 + (u64)c * groups + group,
                      eight_of(op, p, c, group), c % 8);
    }
}
