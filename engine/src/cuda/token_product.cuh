// Products of one token: moves that run together find the exact sums of all their parts in any
// order, then a thread per row adds them up in ascending order.
//
//   half-warp    part p of tile t: 16 rows × 32 columns (int8 64), a lane a row  → parts[t][p][row]
//   thread       row: Σ over p, one fma after the other
//
// Codes stand near where they were brought; two half-warps of a warp then read the same banks, so
// that the second one begins with other columns.

// The parts of a move of int4, two of a half-warp at once, which share a group of activations,
// `ITEMS` times: all that they read is asked for first.
template <bool IS_NEAR, bool IS_X_NEAR, u32 ITEMS>
__device__ __forceinline__ void int4_of_move(const ProjectMove &o, Part *to) {
    u32 lane = threadIdx.x % 16, half_warp = threadIdx.x / 16, turn = half_warp % 2;
    u32 pairs = o.parts / 2, all = (o.m.end - o.m.begin) * pairs;
    u32 table[4] = {o.table[0], o.table[1], o.table[2], o.table[3]};
    const u8 *codes = (IS_NEAR ? room + near_of(o.codes) : o.codes) + 4 * lane;
    const u8 *scales = (IS_NEAR ? room + near_of(o.scales) : o.scales) + 32 + lane;
    const u8 *x = IS_X_NEAR ? room + near_of(o.x.int8) : (const u8 *)o.x.int8;
    u32 inverse = o.inverse;
#pragma unroll 1
    for (u32 at = (half_warp - o.m.n / 2) % (THREADS / 16); at < all;
         at += ITEMS * (THREADS / 16)) {
        u32 w[ITEMS][8];
        uint2 xs[ITEMS][8];
        int4 of_x[ITEMS];
        signed char scale[ITEMS][2];
        // Behind the last item the first one again: no branch keeps loads from each other.
#pragma unroll
        for (u32 n = 0; n < ITEMS; n++) {
            u32 i = at + n * (THREADS / 16);
            i = i < all ? i : at;
            u32 tile = __umulhi(2 * i, inverse);
            // Behind 64 codes the same in the order of nibbles, two sums, the scale.
            const u8 *group = x + (i - tile * pairs) * 144;
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                w[n][j] = *(const u32 *)(codes + 512 * i + 64 * (j ^ turn));
                xs[n][j] = *(const uint2 *)(group + 64 + 8 * (j ^ turn));
            }
            of_x[n] = *(const int4 *)(group + 128);
            const u8 *mine = scales + 32 * tile + 32 * i;
            scale[n][0] = (signed char)mine[0];
            scale[n][1] = (signed char)mine[16];
        }
#pragma unroll
        for (u32 n = 0; n < ITEMS; n++) {
            u32 i = at + n * (THREADS / 16);
            int acc[2] = {-32 * of_x[n].x, -32 * of_x[n].y};
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                acc[j / 4] = dot(lookup(table, w[n][j]), xs[n][j].x, acc[j / 4]);
                acc[j / 4] = dot(lookup(table, w[n][j] >> 16), xs[n][j].y, acc[j / 4]);
            }
            float by = __int_as_float(of_x[n].z);
            if (i < all) {
                to[32 * i] = {(float)acc[0], (float)scale[n][0] * by};
                to[32 * i + 16] = {(float)acc[1], (float)scale[n][1] * by};
            }
        }
    }
}

// The parts of a move of int8.
template <bool IS_NEAR>
__device__ __forceinline__ void int8_of_move(const ProjectMove &o, Part *to) {
    u32 lane = threadIdx.x % 16, half_warp = threadIdx.x / 16, turn = half_warp % 2;
    u32 parts = o.parts, all = (o.m.end - o.m.begin) * parts, group_of = o.w.group;
    u32 block = group_of < 64 ? group_of : 64, group_bytes = 16 * group_of;
    u32 tile_bytes = o.w.pairs * o.w.pair_bytes;
    const u8 *all_codes = IS_NEAR ? room + near_of(o.codes) : o.codes;
#pragma unroll 1
    for (u32 i = (half_warp - o.m.n) % (THREADS / 16); i < all; i += THREADS / 16) {
        u32 tile = parts == 1 ? i : __umulhi(i, o.inverse), part = i - tile * parts;
        u32 column = part * block, group = column / group_of;
        const u8 *pair = all_codes + tile * tile_bytes + (u64)(group / 2) * o.w.pair_bytes;
        float scale =
            half_to_float(((const u16 *)(pair + 2 * group_bytes))[16 * (group % 2) + lane]);
        const u8 *codes = pair + group % 2 * group_bytes + column % group_of * 16 + 4 * lane;
        const Int8Group *x = o.x.int8 + column / 64;
        const u32 *xs = (const u32 *)x->codes + column % 64 / 4;
        float of_x = x->scale;
        int acc = 0;
        for (u32 first = 0; first < block / 4; first += 8) {
            u32 w[8], v[8];
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                w[j] = *(const u32 *)(codes + 64 * (first + (j ^ turn)));
                v[j] = xs[first + (j ^ turn)];
            }
#pragma unroll
            for (u32 j = 0; j < 8; j++) acc = dot(w[j] ^ 0x80808080u, v[j], acc);
        }
        to[16 * i] = {(float)acc, scale * of_x};
    }
}

__device__ __noinline__ void other_of_move(u32 at) {
    const ProjectMove &o = *(const ProjectMove *)(room + at);
    u32 lane = threadIdx.x % 16, half_warp = threadIdx.x / 16;
    u32 parts = o.parts, all = (o.m.end - o.m.begin) * parts;
    Part *to = (Part *)room + lane + 16 * o.m.n;
    Cut cut(o.w);
    for (u32 i = (half_warp - o.m.n) % (THREADS / 16); i < all; i += THREADS / 16)
        to[16 * i] = part_of(o.w, o.x, cut, o.m.begin + i / parts, i % parts, 0, lane);
}

// The parts of the move at `at`: functions of their own, so that none keeps what others need.
template <bool IS_NEAR, bool IS_X_NEAR, u32 ITEMS> __device__ __noinline__ void int4_at(u32 at) {
    const ProjectMove &o = *(const ProjectMove *)(room + at);
    int4_of_move<IS_NEAR, IS_X_NEAR, ITEMS>(o, (Part *)room + threadIdx.x % 16 + 16 * o.m.n);
}

template <bool IS_NEAR> __device__ __noinline__ void int8_at(u32 at) {
    const ProjectMove &o = *(const ProjectMove *)(room + at);
    int8_of_move<IS_NEAR>(o, (Part *)room + threadIdx.x % 16 + 16 * o.m.n);
}

__device__ __forceinline__ void parts_at(u32 at) {
    const ProjectMove &o = *(const ProjectMove *)(room + at);
    bool is_near = __isShared(o.codes);
    if (o.w.format == INT4) {
        if (!is_near || !__isShared(o.scales)) return int4_at<false, false, 2>(at);
        if ((o.m.end - o.m.begin) * o.parts <= THREADS / 8) return int4_at<true, false, 1>(at);
        if (__isShared(o.x.int8)) return int4_at<true, true, 2>(at);
        return int4_at<true, false, 2>(at);
    }
    if (o.w.format != INT8) return other_of_move(at);
    if (is_near) return int8_at<true>(at);
    return int8_at<false>(at);
}

// A thread adds up a row, which is of one of so many moves.
__device__ __noinline__ void rows_of(u32 at, u32 together) {
    const ProjectMove *first = (const ProjectMove *)(room + at);
    u32 mine = together;
#pragma unroll 4
    for (u32 i = 0; i < together; i++) {
        const ProjectMove &o = first[i];
        u32 rows = 16 * (o.m.end - o.m.begin);
        if (threadIdx.x - o.first_row < rows) mine = i;
    }
    if (mine == together) return;
    const ProjectMove &o = first[mine];
    u32 tile = (threadIdx.x - o.first_row) / 16, lane = threadIdx.x % 16;
    u32 n = o.parts, row = (o.m.begin + tile) * 16 + lane;
    const Part *of_row = (const Part *)room + lane + 16 * (o.m.n + tile * n);
    float acc = 0.0f;
    if (has_steps(o.w.format)) {
        u16 step = ((const u16 *)(o.scales + tile * (32 + 32 * o.w.pairs)))[lane];
        in_order<16, 16>(of_row, n, [&](Part p) { acc = fmaf(p.sum, p.scale, acc); });
        acc = acc * half_to_float(step);
    } else {
        in_order<16, 16>(of_row, n, [&](Part p) { acc = acc + p.sum * p.scale; });
    }
    o.y.set(row, acc);
}
