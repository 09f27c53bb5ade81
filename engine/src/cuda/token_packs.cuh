// Activations of one token as int8, f32, bf16: sixteen lanes take a group of 64, four elements side
// by side a lane, where a formula allows it.

// Four elements side by side from i on, of a formula whose terms allow it (`PackMove`): all that is
// read is asked for first.
template <u64 FIRST, u64 MORE>
__device__ __forceinline__ Some<4> known_fours(const Number *t, u32 i) {
    constexpr u32 n = pushes(FIRST) + pushes(MORE);
    float a[n][4];
    const float *from[n];
    u32 each[n];
    bool is_shared = false;
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        from[k] = t[k].from;
        each[k] = t[k].each;
        is_shared |= each[k] > 1;
#pragma unroll
        for (u32 w = 0; w < 4; w++) a[k][w] = t[k].number;
    }
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        if (each[k] != 1) continue;
        const float4 all = *(const float4 *)(from[k] + i);
        a[k][0] = all.x, a[k][1] = all.y, a[k][2] = all.z, a[k][3] = all.w;
    }
    // Few formulas have such terms: whoever chose among both here would wait for each load alone.
    if (__builtin_expect(is_shared, 0)) {
#pragma unroll
        for (u32 k = 0; k < n; k++) {
#pragma unroll
            for (u32 w = 0; w < 4; w++)
                if (each[k] > 1) a[k][w] = from[k][i >> (each[k] - 1)];
        }
    }
    return values<FIRST, MORE>(a);
}

// Elements of the formula at `at` of the block's own memory.
__device__ __noinline__ Some<4> fours(u32 at, u32 i) {
    const Expression *f = (const Expression *)(room + at);
    const Number *t = f->numbers();
#define FORMULA(number, first, more) case number: return known_fours<first, more>(t, i);
    switch (f->formula) {
#include "formulas.cuh"
    default: __builtin_unreachable();
    }
#undef FORMULA
}

#define HALF_WARPS (THREADS / LANES)

// Where activations go, k of them.
struct Packed {
    Int8Group *int8;
    float *f32;
    u16 *bf16;
    u32 k;
};

// What sixteen lanes found of a group of 64: see `pack_fours`.
__device__ __forceinline__ void pack_group(const Packed &to, u32 group, const float *y,
                                           bool is_one) {
    u32 lane = threadIdx.x % LANES, i = group * 64 + 4 * lane;
    float v[4];
#pragma unroll
    for (u32 j = 0; j < 4; j++) v[j] = i < to.k ? y[j] : 0.0f;
    if (to.int8) pack_fours(v, lane, to.int8 + group, 0, 0, is_one);
    if (is_one && to.f32) *(float4 *)(to.f32 + i) = {v[0], v[1], v[2], v[3]};
    if (is_one && to.bf16) {
        u32 low = to_bf16(v[0]) | (u32)to_bf16(v[1]) << 16;
        u32 high = to_bf16(v[2]) | (u32)to_bf16(v[3]) << 16;
        *(uint2 *)(to.bf16 + i) = {low, high};
    }
}

// The warps that a move takes.
__device__ __forceinline__ u32 warps_of_pack(u32 at, u32 begin, u32 end) {
    return ((const PackMove *)(room + at))->is_by_four ? (end - begin + 1) / 2 : end - begin;
}

// Rounds activations. Both halves of a warp go on as long as one of them has a group.
__device__ __noinline__ void move_pack(u32 at, u32 begin, u32 end, u32 k, u32 spread) {
    const PackMove &o = *(const PackMove *)(room + at);
    if (o.is_by_four) {
        const Packed to = {o.int8, o.f32, o.bf16, k};
        u32 last = begin + (end - begin + 1) / 2 * 2, f = near_of(&o.f);
        u32 group = begin + (threadIdx.x / LANES - 2 * spread) % HALF_WARPS;
        // A lane's first element; where there is none, the move's.
        auto first_of = [&](u32 of) {
            u32 i = of * 64 + threadIdx.x % LANES * 4;
            return of < end && i < k ? i : begin * 64;
        };
        for (; group < last; group += HALF_WARPS)
            pack_group(to, group, fours(f, first_of(group)).v, group < end);
        return;
    }
    // A warp takes a group.
    u32 lane = threadIdx.x % 32, first = begin + (threadIdx.x / 32 - spread) % (THREADS / 32);
    for (u32 group = first; group < end; group += THREADS / 32) {
        u32 i = group * 64 + lane, j = i + 32;
        Two value = elements(near_of(&o.f), i < k ? i : begin * 64, j < k ? j : begin * 64);
        float v0 = i < k ? value.a : 0.0f, v1 = j < k ? value.b : 0.0f;
        if (o.f32) {
            o.f32[i] = v0;
            o.f32[j] = v1;
        }
        if (o.bf16) {
            o.bf16[i] = to_bf16(v0);
            o.bf16[j] = to_bf16(v1);
        }
        if (o.int8) pack_int8(v0, v1, lane, o.int8 + group);
    }
}
