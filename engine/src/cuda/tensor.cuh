// Products of many columns on integer tensor cores: 16 rows × 32 columns of a matrix with eight
// tokens, sums exact in 32 bits, then one fma per part in ascending order: the bits of one token's
// product.
//
//   A   a tile's part: lane 4 g + t has the codes of rows 2 g and 2 g + 1 in columns 8 t … 8 t + 7
//   B   eight tokens' part, lane 4 g + t has token g's in the same columns, in the order of the
//       nibbles (`Eight`): which column stands where is no matter to a sum
//   C   lane 4 g + t: rows 2 g and 2 g + 1 of tokens 2 t and 2 t + 1
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

// Codes of int4; of int8 with scales of 32 columns; of int8 with scales of 64 or more.
enum CodeKind : u32 { FOURS, HALVES, WHOLES };

// The sum whose bits these are: of int4, whose codes stand for four times their values, a quarter.
template <CodeKind KIND> __device__ inline float sum_of(u32 bits) {
    float sum = __uint_as_float(bits);
    return KIND == FOURS ? fmaf(sum, 0.25f, -0.25f * SUM_BEGIN_FLOAT) : sum - SUM_BEGIN_FLOAT;
}

// Four times the values of four codes of int4, as signed bytes, by a table of twice the value + 32:
// seven bits, of which the highest one turned is the sign.
__device__ inline u32 signed_lookup(const u32 table[4], u32 codes, u32 turned) {
    u32 lower, upper;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(lower) : "r"(table[0]), "r"(table[1]), "r"(codes));
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(upper) : "r"(table[2]), "r"(table[3]), "r"(turned));
    return ((lower | upper) ^ 0x40404040u) << 1;
}

// 64 columns of a tile as A, both halves, and what sums of rows 2 g and 2 g + 1 are multiplied by.
struct Decoded {
    u32 a[2][4];
    float by[2][2];
};

// Where a lane reads a tile's codes and scales in a turn.
template <CodeKind KIND> struct Codes {
    // As in `lookup`, twice. Of int8 2 to the `shift` columns share a scale.
    u32 table[4], shift, pair_bytes;
    const u8 *codes, *scales;

    __device__ __forceinline__ Codes(const Matrix &w) {
        shift = 31 - __clz(w.group), pair_bytes = w.pair_bytes;
        if (KIND != FOURS) return;
        read_table(w, table);
#pragma unroll
        for (u32 i = 0; i < 4; i++) table[i] <<= 1;
    }

    __device__ __forceinline__ void at(const u8 *codes_at, const u8 *scales_at, u32 lane) {
        codes = codes_at + (KIND == FOURS ? 64 : 128) * (lane % 4) + lane / 4 * 8;
        scales = (KIND == FOURS ? scales_at : codes_at) + lane / 4 * (KIND == FOURS ? 2 : 4);
    }

    // A group of the turn's tile.
    __device__ __forceinline__ Decoded decode(u32 group) const {
        Decoded of;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (KIND == FOURS) {
                // Two rows of eight columns.
                const uint2 rows = *(const uint2 *)(codes + 512 * group + 256 * half);
                u32 x = rows.x ^ 0x88888888u, y = rows.y ^ 0x88888888u;
                of.a[half][0] = signed_lookup(table, rows.x, x);
                of.a[half][1] = signed_lookup(table, rows.y, y);
                of.a[half][2] = signed_lookup(table, rows.x >> 16, x >> 16);
                of.a[half][3] = signed_lookup(table, rows.y >> 16, y >> 16);
                const char2 by = *(const char2 *)(scales + 32 * group + 16 * half);
                of.by[half][0] = (float)by.x, of.by[half][1] = (float)by.y;
            } else {
                u32 column = 64 * group + 32 * half, at = column >> shift, bytes = 16 << shift;
                const u8 *from = codes + at / 2 * pair_bytes + at % 2 * bytes +
                                 (column & ((1 << shift) - 1)) * 16;
                // Four columns of two rows, and the next four.
                const uint2 first = *(const uint2 *)from, next = *(const uint2 *)(from + 64);
                u32 lower[2] = {first.x ^ 0x80808080u, first.y ^ 0x80808080u};
                u32 upper[2] = {next.x ^ 0x80808080u, next.y ^ 0x80808080u};
                // Eight columns in the order of the nibbles.
#pragma unroll
                for (u32 row = 0; row < 2; row++) {
                    of.a[half][row] = __byte_perm(lower[row], upper[row], 0x5140);
                    of.a[half][row + 2] = __byte_perm(lower[row], upper[row], 0x7362);
                }
                const u32 by =
                    *(const u32 *)(scales + at / 2 * pair_bytes + 2 * bytes + at % 2 * 32);
                of.by[half][0] = half_to_float(by & 0xffff);
                of.by[half][1] = half_to_float(by >> 16);
            }
        }
        return of;
    }
};

// The number that all lanes of a warp have: said so that the compiler knows it, and lets nothing
// wait for lanes that might have gone another way.
__device__ __forceinline__ u32 of_warp(u32 x) { return __shfl_sync(~0u, x, 0); }

// What rows 2 g and 2 g + 1 of a tile of int4 are multiplied by at their end.
__device__ __forceinline__ float2 row_steps(const Matrix &w, u64 tile, u32 g) {
    u32 both = __ldg((const u32 *)(w.sheet + 64 + tile * (32 + 32 * w.pairs)) + g);
    return {half_to_float(both & 0xffff), half_to_float(both >> 16)};
}

// Tiles with many tokens: a warp has a tile with `EIGHTS` times eight of them, and decodes it for
// itself.
template <u32 EIGHTS, CodeKind KIND>
__device__ __noinline__ void tiles_of(const Op &op, const Tensor &plan, u32 first_tile, u32 tiles,
                                      u32 c0, u32 tokens) {
    const Matrix &w = op.w;
    u32 warp = of_warp(threadIdx.x / 32), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 eights = (tokens + 7) / 8, side_by_side = of_warp((eights + EIGHTS - 1) / EIGHTS);
    u32 mine = of_warp(warp / side_by_side), first = of_warp(warp % side_by_side * EIGHTS);
    u32 warps = of_warp(tiles * side_by_side);
    ring.begin(op, plan, first_tile, tiles, c0, eights, warps);
    if (warp < warps) {
        Codes<KIND> codes(w);
        const u32 begin[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN};
        u32 ahead = of_warp(plan.turn.ahead), count = of_warp(plan.count);
        u32 all = of_warp(plan.turn.groups), last = of_warp(plan.last);
        u32 bytes = of_warp(plan.turn.bytes), group_bytes = of_warp(eights * (u32)sizeof(Eight));
        const u8 *codes_at = plan.turns() + mine * plan.turn.code_bytes;
        const u8 *scales_at = plan.turns() + plan.turn.scales_at + mine * plan.turn.scale_bytes;
        const u8 *tokens_at = plan.turns() + plan.turn.eights_at + first * sizeof(Eight);
        // Turns until this warp asks for one.
        u32 askers = of_warp(ring.askers()), until = of_warp(warp / ASKING + 1);
        float acc[EIGHTS][4];
#pragma unroll
        for (u32 n = 0; n < EIGHTS; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
        RingPlace here = {0, 0}, before = here;
#pragma unroll 1
        for (u32 i = 0; i < count; i++) {
            ring.wait(here);
            u32 at = here.at * bytes, n_groups = i + 1 < count ? all : last;
            codes.at(codes_at + at, scales_at + at, lane);
            const u8 *x_codes = tokens_at + at + 16 * lane;
            const u8 *x_scales = tokens_at + at + sizeof(Eight::codes) + 8 * t;
#pragma unroll 1
            for (u32 group = 0; group < n_groups; group++) {
                const Decoded tile = codes.decode(group);
#pragma unroll
                for (u32 n = 0; n < EIGHTS; n++) {
                    const uint4 b = *(const uint4 *)(x_codes + n * sizeof(Eight));
                    const float2 of_token = *(const float2 *)(x_scales + n * sizeof(Eight));
                    u32 c[2][4];
                    multiply(c[0], tile.a[0], {b.x, b.y}, begin);
                    multiply(c[1], tile.a[1], {b.z, b.w}, KIND == WHOLES ? c[0] : begin);
#pragma unroll
                    for (u32 half = 0; half < 2; half++) {
                        // Scales are those of 32 columns, or of whole groups.
                        if (KIND == WHOLES && half == 0) continue;
#pragma unroll
                        for (u32 j = 0; j < 4; j++) {
                            float of_one = j % 2 ? of_token.y : of_token.x;
                            float scale = tile.by[half][j / 2] * of_one;
                            float sum = sum_of<KIND>(c[half][j]);
                            acc[n][j] = KIND == FOURS ? fmaf(sum, scale, acc[n][j])
                                                      : acc[n][j] + sum * scale;
                        }
                    }
                }
                x_codes += group_bytes, x_scales += group_bytes;
            }
            ring.leave(here);
            if (--until == 0) {
                if (i > 0) ring.ask_behind(plan, i - 1, before);
                until = askers;
            }
            before = here;
            here.next(ahead);
        }
        u64 tile = first_tile + mine;
        float2 steps = {1.0f, 1.0f};
        if (KIND == FOURS) steps = row_steps(w, tile, g);
#pragma unroll
        for (u32 n = 0; n < EIGHTS; n++) {
#pragma unroll
            for (u32 token = 0; token < 2; token++) {
                u32 c = 8 * (first + n) + 2 * t + token;
                if (c >= tokens) continue;
                float2 y = {acc[n][token], acc[n][2 + token]};
                if (KIND == FOURS) y.x *= steps.x, y.y *= steps.y;
                *(float2 *)(op.y.first + (u64)(c0 + c) * op.y.stride + tile * 16 + 2 * g) = y;
            }
        }
    }
    ring.end(plan);
}

template <CodeKind KIND>
__device__ void tiles_with(const Op &op, const Tensor &plan, u32 first, u32 tiles, u32 c0,
                           u32 tokens) {
    // Warps share a tile's tokens, and each decodes it, until a scheduler has two to choose among.
    u32 eights = (tokens + 7) / 8, all = tiles * eights;
    if (all <= 8) tiles_of<1, KIND>(op, plan, first, tiles, c0, tokens);
    else if (all <= 16) tiles_of<2, KIND>(op, plan, first, tiles, c0, tokens);
    else if (tiles * ((eights + 3) / 4) <= MOST_TILES)
        tiles_of<4, KIND>(op, plan, first, tiles, c0, tokens);
    else tiles_of<8, KIND>(op, plan, first, tiles, c0, tokens);
}

// Tiles from `first` to `end` with columns from `c0` to `c1`; `c0` is a multiple of `TOKENS`.
__device__ void tensor_product(const Op &op, const Tensor &plan, u32 first, u32 end, u32 c0,
                               u32 c1) {
    for (u32 c = c0; c < c1; c += TOKENS) {
        u32 tokens = min(TOKENS, c1 - c);
        for (u32 tile = first; tile < end; tile += plan.at_once) {
            u32 tiles = min(plan.at_once, end - tile);
            if (op.w.format == INT4) tiles_with<FOURS>(op, plan, tile, tiles, c, tokens);
            else if (op.w.group == 32) tiles_with<HALVES>(op, plan, tile, tiles, c, tokens);
            else tiles_with<WHOLES>(op, plan, tile, tiles, c, tokens);
        }
    }
}

#endif

// Whether tensor cores multiply a matrix.
__device__ inline bool is_for_tensor_cores(const Matrix &w) {
#if __CUDA_ARCH__ >= 900
    return w.format == INT8 || w.format == INT4;
#else
    return false;
#endif
}

// Groups of 64 columns of all tiles.
__device__ inline u32 product_size(const Matrix &w) {
    return (w.rows + 15) / 16 * (w.pairs * w.group / 32);
}

// How many pieces of a product, each of so many tiles, one of so many blocks takes at once: those
// with which all are through soonest. Sixteen lanes find it, a number each. In cycles, measured on
// an H200: a share's begin; of a group of 64 columns what its warps wait for, and a tile's part.
__device__ u32 pieces_at_once(const Matrix &w, u32 pieces, u32 tiles_each, u32 width, u32 blocks,
                              u32 *share_cost) {
    u32 n = threadIdx.x % LANES + 1, tiles = n * tiles_each, eights = eights_of(width);
    u32 turns = (width + TOKENS - 1) / TOKENS;
    u32 rounds = ((pieces + n - 1) / n * turns + blocks - 1) / blocks;
    u32 groups = w.pairs * w.group / 32, tile = 15 + 25 * eights / 2;
    u32 cost = rounds * (3000 + groups * (250 + 12 * eights + tiles * tile));
    if (n > 1 && (tiles > 16 || n > pieces)) cost = ~0u;
    u32 best = min(cost, 0x07ffffffu) << 4 | (n - 1), lanes = 0xffffu << threadIdx.x / 16 % 2 * 16;
    for (u32 other = 8; other > 0; other /= 2)
        best = min(best, __shfl_xor_sync(lanes, best, other));
    *share_cost = 3000 + groups * (250 + 12 * eights + (best % 16 + 1) * tiles_each * tile);
    return best % 16 + 1;
}
