// Products of many columns on integer tensor cores: 16 rows × 32 columns of a matrix with eight
// tokens, sums exact in 32 bits, then one fma per part in ascending order: the bits of one token's
// product.
//
//   A   a tile's part: lane 4 g + t has the codes of rows g and g + 8 in columns 8 t … 8 t + 7
//   B   eight tokens' part, lane 4 g + t has token g's in the same columns, in the order of the
//       nibbles (`Eight`): which column stands where is no matter to a sum
//   C   lane 4 g + t: rows g and g + 8 of tokens 2 t and 2 t + 1
//
// Tiles and tokens come through `ring.cuh`'s ring.

#if __CUDA_ARCH__ >= 900

// A sum begins at 1.5 · 2²³, so that its bits are a float's, of which the sum is the distance.
#define SUM_BEGIN 0x4b400000u
#define SUM_BEGIN_FLOAT 12582912.0f

__device__ inline void multiply(u32 d[4], const u32 a[4], uint2 b, const u32 c[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(c[0]), "r"(c[1]),
          "r"(c[2]), "r"(c[3]));
}

// The sum whose bits these are.
__device__ inline float sum_of(u32 bits) { return __uint_as_float(bits) - SUM_BEGIN_FLOAT; }

// Values of four codes of int4 as signed bytes: six bits of value + 32, whose highest one turned is
// the sign.
__device__ inline u32 signed_lookup(const u32 table[4], u32 codes) {
    u32 value = lookup(table, codes) ^ 0x20202020u, sign = value & 0x20202020u;
    return value | sign * 6;
}

// A tile's codes of 64 columns as A, and what sums of rows g and g + 8 are multiplied by.
template <bool IS_INT4>
__device__ __forceinline__ void decode(const u8 *codes, const u8 *scales_at, const u32 table[4],
                                       u32 group, u32 of_group, u32 pair_bytes, u32 g, u32 t,
                                       u32 a[2][4], float by[2][2]) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (IS_INT4) {
            // Lanes of the upper columns begin with the other row: all banks at once.
            const u32 *from = (const u32 *)(codes + 512 * group + 256 * half + 64 * t) + g;
            u32 one = from[t >= 2 ? 8 : 0], other = from[t >= 2 ? 0 : 8];
            u32 low = t >= 2 ? other : one, high = t >= 2 ? one : other;
            a[half][0] = signed_lookup(table, low);
            a[half][1] = signed_lookup(table, high);
            a[half][2] = signed_lookup(table, low >> 16);
            a[half][3] = signed_lookup(table, high >> 16);
            const signed char *of = (const signed char *)scales_at + 32 * group + 16 * half + g;
            by[half][0] = (float)of[0];
            by[half][1] = (float)of[8];
        } else {
            u32 column = 64 * group + 32 * half, of = column / of_group, bytes = 16 * of_group;
            const u8 *pair = codes + of / 2 * pair_bytes;
            const u32 *from =
                (const u32 *)(pair + of % 2 * bytes + column % of_group * 16 + 128 * t) + g;
            // Eight columns in the order of the nibbles.
#pragma unroll
            for (u32 row = 0; row < 2; row++) {
                u32 lower = from[8 * row] ^ 0x80808080u, upper = from[8 * row + 16] ^ 0x80808080u;
                a[half][row] = __byte_perm(lower, upper, 0x5140);
                a[half][row + 2] = __byte_perm(lower, upper, 0x7362);
            }
            const u16 *of_rows = (const u16 *)(pair + 2 * bytes) + 16 * (of % 2);
            by[half][0] = half_to_float(of_rows[g]);
            by[half][1] = half_to_float(of_rows[g + 8]);
        }
    }
}

// The number that all lanes of a warp have: said so that the compiler knows it, and lets nothing
// wait for lanes that might have gone another way.
__device__ __forceinline__ u32 of_warp(u32 x) { return __shfl_sync(~0u, x, 0); }

// What a row of a tile of int4 is multiplied by at its end.
__device__ __forceinline__ float row_step(const Matrix &w, u64 tile, u32 row) {
    return half_to_float(__ldg((const u16 *)(w.sheet + 64 + tile * (32 + 32 * w.pairs)) + row));
}

// Tiles with many tokens: a warp has a tile with `EIGHTS` times eight of them. Each tile's codes
// are decoded once, by the warps that have the least to multiply first, one turn ahead.
template <u32 EIGHTS, bool IS_INT4>
__device__ __noinline__ void tiles_of(const Op &op, const Tensor &plan, u32 first_tile, u32 tiles,
                                      u32 c0, u32 tokens) {
    __shared__ __align__(8) u64 bars[TURNS_AHEAD];
    const Matrix &w = op.w;
    u32 warp = of_warp(threadIdx.x / 32), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 side_by_side = of_warp((tokens + 8 * EIGHTS - 1) / (8 * EIGHTS));
    u32 mine = of_warp(warp / side_by_side), eights = of_warp(warp % side_by_side * EIGHTS);
    tiles = of_warp(tiles);
    bool is_mine = mine < tiles;
    const Ring ring(op, plan, first_tile, tiles, c0, (tokens + 7) / 8, bars);
    Decoded *decoded = (Decoded *)(room + ROOM + 2 * STAGE_BYTES);
    u32 ahead = of_warp(ring.turn.ahead), count = of_warp(ring.count);
    u32 apart = of_warp(ring.turn.groups), of_turn = of_warp(plan.at_once) * apart;
    u32 of_group = w.group, pair_bytes = w.pair_bytes;
    u8 *turns = (u8 *)(decoded + 2 * of_turn);
    u32 table[4] = {0, 0, 0, 0};
    if (IS_INT4) read_table(w, table);
    auto decode_turn = [&](u32 i, u32 place) {
        const u8 *here = turns + place * ring.turn.bytes;
        u32 n = of_warp(ring.of(i));
#pragma unroll 1
        for (u32 at = THREADS / 32 - 1 - warp; at < tiles * apart; at += THREADS / 32) {
            u32 tile = at * ring.turn.inverse >> 16, group = at - tile * apart, a[2][4];
            float by[2][2];
            if (group >= n) continue;
            decode<IS_INT4>(here + tile * ring.turn.code_bytes,
                            here + ring.turn.scales_at + tile * ring.turn.scale_bytes, table, group,
                            of_group, pair_bytes, g, t, a, by);
            Decoded *to = decoded + i % 2 * of_turn + at;
#pragma unroll
            for (u32 half = 0; half < 2; half++)
                to->a[half][lane] = {a[half][0], a[half][1], a[half][2], a[half][3]};
            if (t == 0) to->by[g] = {by[0][0], by[0][1], by[1][0], by[1][1]};
        }
    };
    const u32 begin[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN};
    bool is_whole = !IS_INT4 && of_group > 32;
    float acc[EIGHTS][4];
#pragma unroll
    for (u32 n = 0; n < EIGHTS; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
    RingPlace here = {0, 0}, next = {0, 0};
    wait_near(ring.bars, 0);
    decode_turn(0, 0);
    __syncthreads();
#pragma unroll 1
    for (u32 i = 0; i < count; i++) {
        next.next(ahead);
        if (i + 1 < count) {
            wait_near(ring.bars + 8 * next.at, next.phase);
            decode_turn(i + 1, next.at);
        }
        if (is_mine) {
            u32 n_groups = of_warp(ring.of(i));
            const Decoded *tile = decoded + i % 2 * of_turn + mine * apart;
            const Eight *x = (const Eight *)(turns + here.at * ring.turn.bytes +
                                             ring.turn.eights_at + eights * ring.turn.eight_bytes);
#pragma unroll (EIGHTS == 1 ? 4 : 2)
            for (u32 group = 0; group < n_groups; group++, tile++, x++) {
                u32 a[2][4];
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    uint4 all = tile->a[half][lane];
                    a[half][0] = all.x, a[half][1] = all.y, a[half][2] = all.z, a[half][3] = all.w;
                }
                const float4 by = tile->by[g];
                uint4 b[EIGHTS];
                float2 of_token[EIGHTS];
#pragma unroll
                for (u32 n = 0; n < EIGHTS; n++) {
                    const Eight &of = x[n * apart];
                    b[n] = of.codes[lane];
                    of_token[n] = *(const float2 *)(of.scales + 2 * t);
                }
#pragma unroll
                for (u32 n = 0; n < EIGHTS; n++) {
                    u32 c[2][4];
                    multiply(c[0], a[0], {b[n].x, b[n].y}, begin);
                    multiply(c[1], a[1], {b[n].z, b[n].w}, is_whole ? c[0] : begin);
#pragma unroll
                    for (u32 half = 0; half < 2; half++) {
                        // Scales are those of 32 columns, or of whole groups.
                        if (!IS_INT4 && half == 0 && is_whole) continue;
#pragma unroll
                        for (u32 j = 0; j < 4; j++) {
                            float of_row = half ? (j / 2 ? by.w : by.z) : (j / 2 ? by.y : by.x);
                            float scale = of_row * (j % 2 ? of_token[n].y : of_token[n].x);
                            float sum = sum_of(c[half][j]);
                            acc[n][j] = IS_INT4 ? fmaf(sum, scale, acc[n][j])
                                                : acc[n][j] + sum * scale;
                        }
                    }
                }
            }
        }
        __syncthreads();
        // All are behind this turn: its place is free.
        ring.ask(i + ahead, here.at);
        here.next(ahead);
    }
    ring.end();
    if (!is_mine) return;
    u64 tile = first_tile + mine;
    float steps[2] = {1.0f, 1.0f};
    if (IS_INT4) steps[0] = row_step(w, tile, g), steps[1] = row_step(w, tile, g + 8);
#pragma unroll
    for (u32 n = 0; n < EIGHTS; n++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 c = 8 * (eights + n) + 2 * t + j % 2;
            float y = IS_INT4 ? acc[n][j] * steps[j / 2] : acc[n][j];
            if (c < tokens)
                op.y.first[(u64)(c0 + c) * op.y.stride + tile * 16 + g + j / 2 * 8] = y;
        }
    }
}

// Tiles with few tokens: warps share the columns, too. What they find, each with what it is
// multiplied by, stands in the block's own memory, from where threads add it up in ascending order.
template <bool IS_INT4>
__device__ __noinline__ void tiles_of_few(const Op &op, const Tensor &plan, u32 first_tile,
                                          u32 tiles, u32 c0, u32 tokens) {
    __shared__ __align__(8) u64 bars[TURNS_AHEAD];
    const Matrix &w = op.w;
    u32 warp = of_warp(threadIdx.x / 32), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    tiles = of_warp(tiles);
    u32 eights = of_warp((tokens + 7) / 8), blocks = tiles * eights;
    const Ring ring(op, plan, first_tile, tiles, c0, eights, bars);
    // Two parts of a group, 128 values with their scales each.
    float2 *found = (float2 *)(room + ROOM + 2 * STAGE_BYTES);
    u32 apart = of_warp(ring.turn.groups);
    u8 *turns = (u8 *)found + apart * plan.beside;
    u32 ahead = of_warp(ring.turn.ahead), count = of_warp(ring.count);
    u32 of_group = w.group, pair_bytes = w.pair_bytes;
    bool is_whole = !IS_INT4 && of_group > 32;
    u32 table[4] = {0, 0, 0, 0};
    if (IS_INT4) read_table(w, table);
    const u32 begin[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN};
    float acc[FEW_VALUES];
#pragma unroll
    for (u32 v = 0; v < FEW_VALUES; v++) acc[v] = 0.0f;
    RingPlace here = {0, 0};
#pragma unroll 1
    for (u32 i = 0; i < count; i++) {
        u32 n = of_warp(ring.of(i));
        const u8 *turn = turns + here.at * ring.turn.bytes;
        wait_near(ring.bars + 8 * here.at, here.phase);
#pragma unroll 1
        for (u32 at = warp; at < tiles * apart; at += THREADS / 32) {
            u32 tile = at * ring.turn.inverse >> 16, group = at - tile * apart, a[2][4];
            float by[2][2];
            if (group >= n) continue;
            decode<IS_INT4>(turn + tile * ring.turn.code_bytes,
                            turn + ring.turn.scales_at + tile * ring.turn.scale_bytes, table, group,
                            of_group, pair_bytes, g, t, a, by);
#pragma unroll 1
            for (u32 eight = 0; eight < eights; eight++) {
                const Eight *x = (const Eight *)(turn + ring.turn.eights_at +
                                                 eight * ring.turn.eight_bytes) +
                                 group;
                uint4 b = x->codes[lane];
                const float2 of_token = *(const float2 *)(x->scales + 2 * t);
                u32 c[2][4];
                multiply(c[0], a[0], {b.x, b.y}, begin);
                multiply(c[1], a[1], {b.z, b.w}, is_whole ? c[0] : begin);
                float2 *to = found + ((tile * eights + eight) * apart + group) * 256;
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    if (!IS_INT4 && half == 0 && is_whole) continue;
#pragma unroll
                    for (u32 row = 0; row < 2; row++) {
                        float one = by[half][row] * of_token.x, other = by[half][row] * of_token.y;
                        float sum = sum_of(c[half][2 * row]), next = sum_of(c[half][2 * row + 1]);
                        // Of int8 products are what is added.
                        if (!IS_INT4) sum = sum * one, next = next * other;
                        *(float4 *)(to + 128 * half + 8 * (g + 8 * row) + 2 * t) = {sum, one, next,
                                                                                    other};
                    }
                }
            }
        }
        __syncthreads();
        ring.ask(i + ahead, here.at);
#pragma unroll
        for (u32 v = 0; v < FEW_VALUES; v++) {
            u32 value = threadIdx.x + v * THREADS;
            if (value >= blocks * 128) break;
            const float2 *from = found + value / 128 * apart * 256 + value % 128;
            if (is_whole) {
#pragma unroll 4
                for (u32 part = 0; part < n; part++) acc[v] = acc[v] + from[256 * part + 128].x;
            } else {
#pragma unroll 8
                for (u32 part = 0; part < 2 * n; part++) {
                    const float2 of = from[128 * part];
                    acc[v] = IS_INT4 ? fmaf(of.x, of.y, acc[v]) : acc[v] + of.x;
                }
            }
        }
        __syncthreads();
        here.next(ahead);
    }
    ring.end();
#pragma unroll
    for (u32 v = 0; v < FEW_VALUES; v++) {
        u32 value = threadIdx.x + v * THREADS;
        if (value >= blocks * 128) break;
        u64 tile = first_tile + value / 128 / eights;
        u32 row = value % 128 / 8, c = value / 128 % eights * 8 + value % 8;
        float y = IS_INT4 ? acc[v] * row_step(w, tile, row) : acc[v];
        if (c < tokens) op.y.first[(u64)(c0 + c) * op.y.stride + tile * 16 + row] = y;
    }
}

template <bool IS_INT4>
__device__ void tiles_with(const Op &op, const Tensor &plan, u32 first, u32 tiles, u32 c0,
                           u32 tokens) {
    if (plan.is_few()) return tiles_of_few<IS_INT4>(op, plan, first, tiles, c0, tokens);
    // The fewest times eight tokens with which all tiles have their warps.
    u32 eights = (tokens + 7) / 8;
    if (tiles * eights <= 16) tiles_of<1, IS_INT4>(op, plan, first, tiles, c0, tokens);
    else if (tiles * ((eights + 1) / 2) <= 16)
        tiles_of<2, IS_INT4>(op, plan, first, tiles, c0, tokens);
    else tiles_of<4, IS_INT4>(op, plan, first, tiles, c0, tokens);
}

// Tiles from `first` to `end` with columns from `c0` to `c1`, of which the first is the first of
// eight.
__device__ void tensor_product(const Op &op, const Tensor &plan, u32 first, u32 end, u32 c0,
                               u32 c1) {
    for (u32 c = c0; c < c1; c += TOKENS) {
        u32 tokens = min(TOKENS, c1 - c);
        for (u32 tile = first; tile < end; tile += plan.at_once) {
            u32 tiles = min(plan.at_once, end - tile);
            if (op.w.format == INT4) tiles_with<true>(op, plan, tile, tiles, c, tokens);
            else tiles_with<false>(op, plan, tile, tiles, c, tokens);
        }
    }
}

#endif

// How many pieces of a product, each of so many tiles, a block takes at once: those with which all
// blocks are through soonest. Sixteen lanes find it, a number each. In cycles: a block's begin; of
// a group of 64 columns a tile's codes, and what a warp does with them and with eight tokens beside
// three others.
__device__ u32 pieces_at_once(const Matrix &w, u32 pieces, u32 tiles_each, u32 width) {
    const u32 BEGIN = 3000, TILE = 18, PART = 15, EIGHT = 40, FEW = 28;
    u32 n = threadIdx.x % 16 + 1, tiles = n * tiles_each, turns = (width + TOKENS - 1) / TOKENS;
    u32 eights = (min(width, TOKENS) + 7) / 8, each = 1;
    while (min(tiles, 16) * ((eights + each - 1) / each) > 16) each *= 2;
    u32 warps = min(tiles, 16) * ((eights + each - 1) / each);
    u32 rounds = ((pieces + n - 1) / n * turns + gridDim.x - 1) / gridDim.x;
    u32 group = TILE * tiles + (EIGHT * each + PART) * max((warps + 3) / 4, 2);
    if (eights <= 2) group = tiles * (TILE + FEW * eights);
    u32 cost = rounds * (BEGIN + w.pairs * w.group / 32 * group);
    if (n > 1 && (tiles > 16 || n > pieces)) cost = ~0u;
    u32 best = min(cost, 0x07ffffffu) << 4 | (n - 1), lanes = 0xffffu << threadIdx.x / 16 % 2 * 16;
    for (u32 other = 8; other > 0; other /= 2)
        best = min(best, __shfl_xor_sync(lanes, best, other));
    return best % 16 + 1;
}

// Whether tensor cores multiply a matrix.
__device__ inline bool is_for_tensor_cores(const Matrix &w) {
#if __CUDA_ARCH__ >= 900
    return w.format == INT8 || w.format == INT4;
#else
    return false;
#endif
}
