// Rows of one token: formulas that are compiled, maps, sums, norms.

// Numbers from a lane of a long norm to the next; `token_moves.rs` has the same.
#define LONG_NORM_APART(n) (((n) / 16 + 27) / 32 * 32 + 4)

// Where something near stands: addresses of the block's own memory cost less than any others.
__device__ inline u32 near_of(const void *p) { return (u32)((const u8 *)p - room); }

// Uses n things one after the other, `STEP` apart from each other: so many are on their way ahead.
template <u32 AHEAD, u32 STEP, typename T, typename Use>
__device__ __forceinline__ void in_order(const T *from, u32 n, Use use) {
    u32 left = n;
    if (left >= AHEAD) {
        T held[AHEAD];
#pragma unroll
        for (u32 j = 0; j < AHEAD; j++) held[j] = from[STEP * j];
#pragma unroll 1
        for (; left >= 2 * AHEAD; left -= AHEAD) {
            from += STEP * AHEAD;
#pragma unroll
            for (u32 j = 0; j < AHEAD; j++) {
                use(held[j]);
                held[j] = from[STEP * j];
            }
        }
#pragma unroll
        for (u32 j = 0; j < AHEAD; j++) use(held[j]);
        from += STEP * AHEAD;
        left -= AHEAD;
    }
#pragma unroll 4
    for (u32 j = 0; j < left; j++) use(from[STEP * j]);
}

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

// No choice behind a load, so that those of all terms are on their way together. `token_moves.rs`
// leaves formulas that divide to the interpreter.
template <u64 FIRST, u64 MORE>
__device__ __forceinline__ Two known(const Number *t, u32 i, u32 j) {
    constexpr u32 n = pushes(FIRST) + pushes(MORE);
    float a[n], b[n], on_a[n], on_b[n];
    const float *from[n];
    u32 each[n];
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        from[k] = t[k].from;
        each[k] = t[k].each;
        a[k] = b[k] = t[k].number;
    }
#pragma unroll
    for (u32 k = 0; k < n; k++) {
        if (each[k] == 0) continue;
        a[k] = from[k][i >> (each[k] - 1)];
        b[k] = from[k][j >> (each[k] - 1)];
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

// The same of a lane whose numbers stand side by side, `fours` times four.
template <bool IS_SQUARE>
__device__ __forceinline__ float lane_of(const float4 *x, u32 fours, float mean) {
    float acc = 0.0f;
    in_order<8, 1>(x, fours, [&](float4 four) {
        float v[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (IS_SQUARE) v[j] = (v[j] - mean) * (v[j] - mean);
            acc = acc + v[j];
        }
    });
    return acc;
}

__device__ inline float4 normed(float4 x, float mean, float inverse, float4 w) {
    return {(x.x - mean) * inverse * w.x, (x.y - mean) * inverse * w.y,
            (x.z - mean) * inverse * w.z, (x.w - mean) * inverse * w.w};
}

__device__ inline float4 scaled(float4 x, float inverse, float4 w) {
    return {x.x * inverse * w.x, x.y * inverse * w.y, x.z * inverse * w.z, x.w * inverse * w.w};
}

// A long group's mean and the inverse of its deviation: sixteen lanes' numbers stand so far apart.
// A function, since norms of all widths have it.
__device__ __noinline__ Two long_numbers(u32 n, u32 apart, bool is_layer, float eps) {
    const float4 *own = (const float4 *)((const float *)room + threadIdx.x % LANES * apart);
    float mean = 0.0f;
    if (is_layer) mean = tree(lane_of<false>(own, n / 64, 0.0f)) / (float)n;
    float square = tree(lane_of<true>(own, n / 64, mean)) / (float)n;
    return {mean, 1.0f / sqrtf(square + eps)};
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
    // Each has a value from the beginning: one that may have none is kept in memory all along.
    float4 v[FOURS], w[FOURS], b[FOURS];
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) {
        u32 i = threadIdx.x + j * THREADS;
        v[j] = x[i < all ? i : 0];
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
        w[j] = weight[i < all ? i : 0];
        b[j] = (is_layer ? bias : weight)[i < all ? i : 0];
    }
    if (threadIdx.x < 32) {
        Two found = long_numbers(n, apart, is_layer, o.eps);
        if (threadIdx.x == 0) {
            numbers[0] = found.a;
            numbers[1] = found.b;
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

// A short group of whole times sixteen elements, `EACH` a lane: all that it reads is asked for
// first, so that weights come while the sums are found.
template <u32 EACH> __device__ __noinline__ void short_norm(u32 at) {
    const NormMove &o = *(const NormMove *)(room + at);
    u32 lane = threadIdx.x % LANES, over = EACH * LANES, end = (o.m.end - o.m.begin + 1) / 2 * 2;
    bool is_layer = o.how & 1, is_shared = o.how & 2;
    for (u32 i = threadIdx.x / LANES; i < end; i += THREADS / LANES) {
        bool is_one = o.m.begin + i < o.m.end;
        u32 first = (o.m.begin + (is_one ? i : 0)) * over + lane, of = is_shared ? lane : first;
        float v[EACH], w[EACH], b[EACH];
        const float *bias = is_layer ? o.bias : o.weight;
#pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            v[j] = o.x[first + j * LANES];
            w[j] = o.weight[of + j * LANES];
            b[j] = bias[of + j * LANES];
        }
        __syncwarp();
        float sum = 0.0f, square = 0.0f, mean = 0.0f;
#pragma unroll
        for (u32 j = 0; j < EACH; j++) sum = sum + v[j];
        if (is_layer) mean = tree(sum) / (float)over;
#pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            float x = is_layer ? v[j] - mean : v[j];
            square = square + x * x;
        }
        float inverse = 1.0f / sqrtf(tree(square) / (float)over + o.eps);
#pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            float y = is_layer ? (v[j] - mean) * inverse * w[j] + b[j] : v[j] * inverse * w[j];
            if (is_one) o.y.set(first + j * LANES, y);
        }
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
    if (over == 4 * LANES) return short_norm<4>(at);
    if (over == 8 * LANES) return short_norm<8>(at);
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
