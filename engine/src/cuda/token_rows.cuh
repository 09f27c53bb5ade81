// Rows of one token: formulas that are compiled, maps, sums, norms, roundings.

// Numbers from a lane of a long norm to the next; `token_moves.rs` has the same.
#define LONG_NORM_APART(n) (((n) / 16 + 27) / 32 * 32 + 4)

// Where something near stands: addresses of the block's own memory cost less than any others.
__device__ inline u32 near_of(const void *p) { return (u32)((const u8 *)p - room); }

struct Two {
    float a, b;
};

// The term's values for elements i and j.
__device__ __forceinline__ Two number_of(const Number *t, u32 i, u32 j) {
    u32 each = t->each;
    if (each == 0) return {t->number, t->number};
    const float *from = t->from;
    if (each <= 32) return {from[i >> (each - 1)], from[j >> (each - 1)]};
    return {from[i / (each - 256)], from[j / (each - 256)]};
}

// Without branches, so that the loads of all terms are on their way together: a number reads
// something, too. `token_moves.rs` leaves formulas that divide to the interpreter.
template <u64 FIRST, u64 MORE>
__device__ __forceinline__ Two known(const Number *t, u32 i, u32 j) {
    constexpr u32 n = pushes(FIRST) + pushes(MORE);
    float a[n], b[n], on_a[n], on_b[n], number[n];
    const float *from[n];
    u32 each[n];
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        from[k] = t[k].from;
        each[k] = t[k].each;
        number[k] = t[k].number;
    }
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        const float *of = each[k] ? from[k] : (const float *)room;
        u32 shift = (each[k] - 1) & 31;
        a[k] = of[i >> shift];
        b[k] = of[j >> shift];
    }
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        a[k] = each[k] ? a[k] : number[k];
        b[k] = each[k] ? b[k] : number[k];
    }
    walk<FIRST, MORE>(on_a, a);
    walk<FIRST, MORE>(on_b, b);
    return {on_a[0], on_b[0]};
}

// A formula that is not: one step after the other.
__device__ __noinline__ float unknown(const Expression *f, u32 i) {
    const Number *next = f->numbers();
    float a0 = 0.0f, a1 = 0.0f, a2 = 0.0f, a3 = 0.0f;
#pragma unroll 1
    for (u32 at = 0; at < 16; at++) {
        u32 step = (u32)(f->steps[at / 8] >> 8 * (at % 8)) & 0xff;
        if (step == 0) break;
        if (step == 1) {
            a3 = a2; a2 = a1; a1 = a0;
            a0 = number_of(next++, i, i).a;
            continue;
        }
        float top = a0;
        if (step < 8) { a0 = a1; a1 = a2; a2 = a3; }
        a0 = function(step - 2, a0, top);
    }
    return a0;
}

// Elements i and j of the formula at `at` of the block's own memory.
__device__ __noinline__ Two elements(u32 at, u32 i, u32 j) {
    const Expression *f = (const Expression *)(room + at);
    const Number *t = f->numbers();
#define FORMULA(number, first, more) case number: return known<first, more>(t, i, j);
    switch (f->formula) {
#include "formulas.cuh"
    default: return {unknown(f, i), unknown(f, j)};
    }
#undef FORMULA
}

// An element has the same thread in maps that follow each other, so that these wait for nobody;
// others of a level have other threads.
__device__ __noinline__ void move_map(u32 at, u32 first, u32 end, u32 thread) {
    const MapMove &o = *(const MapMove *)(room + at);
    for (u32 i = first + (threadIdx.x - thread) % THREADS; i < end; i += 2 * THREADS) {
        u32 j = i + THREADS;
        bool two = j < end;
        Two value = elements(near_of(&o.f), i, two ? j : i);
        o.y.set(i, value.a);
        if (two) o.y.set(j, value.b);
    }
}

__device__ __noinline__ void move_sum(u32 at, u32 begin, u32 rows, u32 over, u32 spread) {
    const MapMove &o = *(const MapMove *)(room + at);
    u32 lane = threadIdx.x % LANES;
    u32 end = begin + (rows - begin + 1) / 2 * 2;
    for (u32 row = begin + (threadIdx.x / LANES - 2 * spread) % (THREADS / LANES); row < end;
         row += THREADS / LANES) {
        bool is_one = row < rows;
        u32 first = (is_one ? row : begin) * over;
        float acc = 0.0f;
#pragma unroll 1
        for (u32 i = lane; i < over; i += 2 * LANES) {
            bool two = i + LANES < over;
            Two value = elements(near_of(&o.f), first + i, first + (two ? i + LANES : i));
            acc = acc + value.a;
            if (two) acc = acc + value.b;
        }
        acc = tree(acc);
        if (is_one && lane == 0) o.y.set(row, acc);
    }
}

// A warp takes a group of 64.
__device__ __noinline__ void move_pack(u32 at, u32 begin, u32 end, u32 k, u32 spread) {
    const PackMove &o = *(const PackMove *)(room + at);
    u32 lane = threadIdx.x % 32, first = begin + (threadIdx.x / 32 - spread) % (THREADS / 32);
    for (u32 group = first; group < end; group += THREADS / 32) {
        u32 i = group * 64 + lane, j = i + 32;
        Two value = elements(near_of(&o.f), i < k ? i : 0, j < k ? j : 0);
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

// Sums of sixteen lanes of numbers.
template <bool IS_SQUARE>
__device__ __forceinline__ float lanes_of(const float *x, u32 n, u32 lane, float mean) {
    float acc = 0.0f;
#pragma unroll 4
    for (u32 i = lane; i < n; i += LANES) {
        float v = x[i];
        if (IS_SQUARE) v = (v - mean) * (v - mean);
        acc = acc + v;
    }
    return acc;
}

// The same of a lane whose numbers stand side by side, `fours` times four: two fours are on their
// way while one is added. Behind the last stands whatever does.
template <bool IS_SQUARE>
__device__ __forceinline__ float lane_of(const float4 *x, u32 fours, float mean) {
    float acc = 0.0f;
    float4 now = x[0], next = x[1];
#pragma unroll 2
    for (u32 i = 0; i < fours; i++) {
        float4 later = x[i + 2];
        float v[4] = {now.x, now.y, now.z, now.w};
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (IS_SQUARE) v[j] = (v[j] - mean) * (v[j] - mean);
            acc = acc + v[j];
        }
        now = next;
        next = later;
    }
    return acc;
}

__device__ inline float4 normed(float4 x, float mean, float inverse, float4 w) {
    return {(x.x - mean) * inverse * w.x, (x.y - mean) * inverse * w.y,
            (x.z - mean) * inverse * w.z, (x.w - mean) * inverse * w.w};
}

__device__ inline float4 scaled(float4 x, float inverse, float4 w) {
    return {x.x * inverse * w.x, x.y * inverse * w.y, x.z * inverse * w.z, x.w * inverse * w.w};
}

// One long group of whole times 64 elements, at most `FOURS` times four for each thread: sixteen
// lanes find its numbers, all threads write it. In the room of parts each lane's elements stand
// side by side, lanes so far apart that eight of them have banks of their own.
template <u32 FOURS> __device__ __noinline__ void long_norm(u32 at) {
    __shared__ float numbers[2];
    const NormMove &o = *(const NormMove *)(room + at);
    u32 n = o.m.n, first = o.m.begin * n, all = n / 4, apart = LONG_NORM_APART(n);
    bool is_layer = o.how & 1;
    const float4 *x = (const float4 *)(o.x + first);
    float4 v[FOURS], w[FOURS], b[FOURS];
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) {
        u32 i = threadIdx.x + j * THREADS;
        if (i < all) v[j] = x[i];
    }
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) {
        u32 i = threadIdx.x + j * THREADS;
        if (i >= all) continue;
        float *to = (float *)room + 4 * (i % 4) * apart + i / 4;
        to[0] = v[j].x;
        to[apart] = v[j].y;
        to[2 * apart] = v[j].z;
        to[3 * apart] = v[j].w;
    }
    __syncthreads();
    // Loads that wait for memory while the sums are found.
    const float4 *weight = (const float4 *)(o.weight + (o.how & 2 ? 0 : first));
    const float4 *bias = (const float4 *)(o.bias + first);
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) {
        u32 i = threadIdx.x + j * THREADS;
        if (i < all) w[j] = weight[i];
        if (i < all && is_layer) b[j] = bias[i];
    }
    if (threadIdx.x < 32) {
        const float4 *own = (const float4 *)((const float *)room + threadIdx.x % LANES * apart);
        float mean = 0.0f;
        if (is_layer) mean = tree(lane_of<false>(own, n / 64, 0.0f)) / (float)n;
        float square = tree(lane_of<true>(own, n / 64, mean)) / (float)n;
        if (threadIdx.x == 0) {
            numbers[0] = mean;
            numbers[1] = 1.0f / sqrtf(square + o.eps);
        }
    }
    __syncthreads();
    float mean = numbers[0], inverse = numbers[1];
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) {
        u32 i = threadIdx.x + j * THREADS;
        if (i >= all) continue;
        float4 y = is_layer ? normed(v[j], mean, inverse, w[j]) : scaled(v[j], inverse, w[j]);
        if (is_layer) y = {y.x + b[j].x, y.y + b[j].y, y.z + b[j].z, y.w + b[j].w};
        if (o.y.near) ((float4 *)(o.y.near + first))[i] = y;
        if (o.y.far) ((float4 *)(o.y.far + first))[i] = y;
    }
}

// Sixteen lanes take a group.
__device__ __noinline__ void move_norm(u32 at) {
    const NormMove &o = *(const NormMove *)(room + at);
    u32 over = o.m.n, lane = threadIdx.x % LANES;
    bool is_layer = o.how & 1, is_shared = o.how & 2;
    if (o.how & 4) {
        if (over <= 4 * THREADS) long_norm<1>(at);
        else if (over <= 8 * THREADS) long_norm<2>(at);
        else long_norm<4>(at);
        return;
    }
    u32 end = o.m.begin + (o.m.end - o.m.begin + 1) / 2 * 2;
    for (u32 group = o.m.begin + threadIdx.x / LANES; group < end; group += THREADS / LANES) {
        bool is_one = group < o.m.end;
        u32 first = (is_one ? group : o.m.begin) * over;
        const float *x = o.x + first;
        float mean = 0.0f;
        if (is_layer) mean = tree(lanes_of<false>(x, over, lane, 0.0f)) / (float)over;
        float inverse =
            1.0f / sqrtf(tree(lanes_of<true>(x, over, lane, mean)) / (float)over + o.eps);
        // All lanes have read before one writes: the shuffles wait for them.
        for (u32 i = lane; is_one && i < over; i += LANES) {
            u32 of = is_shared ? i : first + i;
            float v = x[i], w = o.weight[of];
            o.y.set(first + i, is_layer ? (v - mean) * inverse * w + o.bias[of] : v * inverse * w);
        }
    }
}

// Numbers come near without anyone waiting: whoever reads them waits for all threads first.
__device__ __noinline__ void move_copy(u32 at, u32 n) {
    const Copied *all = (const Copied *)(room + at + sizeof(Move));
    for (u32 i = threadIdx.x / 32; i < n; i += THREADS / 32) {
        const Copied &one = all[i];
        for (u32 j = threadIdx.x % 32 * 4; j < one.n; j += 128) {
#if __CUDA_ARCH__ >= 900
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                             (u32)__cvta_generic_to_shared(room + one.to + 4 * j)),
                         "l"(one.from + j)
                         : "memory");
#else
            *(float4 *)(room + one.to + 4 * j) = *(const float4 *)(one.from + j);
#endif
        }
    }
}

__device__ __noinline__ void move_keep(u32 at) {
    const KeepMove &o = *(const KeepMove *)(room + at);
    for (u32 i = o.m.begin + threadIdx.x; i < o.m.end; i += THREADS) o.state[i] = o.x[i];
}

__device__ __noinline__ void move_conv(u32 at) {
    const ConvMove &o = *(const ConvMove *)(room + at);
    u32 taps = o.m.n;
    for (u32 i = o.m.begin + threadIdx.x; i < o.m.end; i += THREADS) {
        u32 block = i / 16, lane = i % 16;
        float *window = o.window + (u64)block * (taps - 1) * 16 + lane;
        const float *tap = o.taps + (u64)block * taps * 16 + lane;
        float x = o.x[i], acc = o.bias[i];
        if (taps == 4) {
            float a = window[0], b = window[16], c = window[32];
            float t0 = tap[0], t1 = tap[16], t2 = tap[32], t3 = tap[48];
            acc = acc + a * t0;
            acc = acc + b * t1;
            acc = acc + c * t2;
            window[0] = b;
            window[16] = c;
            window[32] = x;
            o.y.set(i, acc + x * t3);
            continue;
        }
        for (u32 j = 0; j + 1 < taps; j++) {
            float input = window[16 * j];
            acc = acc + input * tap[16 * j];
            if (j > 0) window[16 * (j - 1)] = input;
        }
        if (taps > 1) window[16 * (taps - 2)] = x;
        o.y.set(i, acc + x * tap[16 * (taps - 1)]);
    }
}
