// Products of many columns on integer tensor cores: 16 rows × 32 columns of a matrix with eight
// tokens, sums exact in 32 bits, then one fma per part in ascending order: the bits of one token's
// product.
//
//   A   a tile's part: lane 4 g + t has the word of rows g and g + 8 that holds columns 8 t … 8 t +
//   7
//       (int8: words t and t + 4), as the file has them
//   B   eight tokens' part, from the block's own memory: all warps share it. Columns stand in the
//   order of
//       the nibbles, which is no matter to a sum
//   C   lane 4 g + t: rows g and g + 8 of tokens 2 t and 2 t + 1
//
// Two groups of 64 of all tokens come at a time, the next two while these are multiplied.

#define TOKENS 64
#define GROUPS 2
// Bytes of a token's group: without what makes eight tokens stand in different banks.
#define GROUP_BYTES 144
#define GROUP_STEP 160
#define CHUNK_BYTES (GROUPS * TOKENS * GROUP_STEP)

#if __CUDA_ARCH__ >= 900

__device__ inline void multiply(int c[4], const u32 a[4], uint2 b) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// Asks for groups `first`.. of some tokens.
__device__ inline void bring_groups(const Op &op, u32 first, u32 groups, u32 c0, u32 tokens,
                                    u32 to) {
    u32 all = tokens * GROUPS * (GROUP_BYTES / 16);
    for (u32 i = threadIdx.x; i < all; i += THREADS) {
        u32 q = i % 9, which = i / 9, group = which % GROUPS, c = which / GROUPS;
        if (first + group >= groups) continue;
        const u8 *from =
            (const u8 *)(op.inputs.int8 + (u64)(c0 + c) * op.inputs.groups + first + group) +
            16 * q;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                     ::"r"(to + (group * TOKENS + c) * GROUP_STEP + 16 * q), "l"(from) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Of a warp: a tile with `TURNS` times eight tokens.
template <u32 TURNS, bool IS_INT4>
__device__ __noinline__ void tiles_of(const Op &op, u32 first_tile, u32 tiles, u32 c0, u32 tokens) {
    const Matrix &w = op.w;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 mine = warp % (2 * TURNS), eights = warp / (2 * TURNS) * TURNS;
    bool is_mine = mine < tiles && eights * 8 < tokens;
    u64 tile = first_tile + (mine < tiles ? mine : 0);
    const u8 *codes = w.tiles + tile * w.pairs * w.pair_bytes;
    const u8 *sheet = w.sheet + 64 + tile * (32 + 32 * w.pairs);
    u32 groups = (w.pairs * 2 * w.group + 63) / 64, group_bytes = 16 * w.group;
    u8 *shared = room + ROOM + 2 * STAGE_BYTES;
    u32 shared_at = (u32)__cvta_generic_to_shared(shared);
    u32 table[4] = {0, 0, 0, 0};
    if (IS_INT4) read_table(w, table);
    float acc[TURNS][4];
#pragma unroll
    for (u32 n = 0; n < TURNS; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
    bring_groups(op, 0, groups, c0, tokens, shared_at);
    for (u32 first = 0, turn = 0; first < groups; first += GROUPS, turn ^= 1) {
        // Two words for each half of a group, of int8 four.
        u32 words[GROUPS][2][IS_INT4 ? 2 : 4];
        float scales[GROUPS][2][2];
#pragma unroll
        for (u32 i = 0; i < GROUPS; i++) {
            u32 group = first + i < groups ? first + i : first;
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                if (IS_INT4) {
                    u32 part = 2 * group + half;
                    const u32 *from = (const u32 *)(codes + 256 * part + 64 * t) + g;
                    words[i][half][0] = __ldg(from);
                    words[i][half][1] = __ldg(from + 8);
                    scales[i][half][0] = (float)(signed char)__ldg(sheet + 32 + 16 * part + g);
                    scales[i][half][1] = (float)(signed char)__ldg(sheet + 32 + 16 * part + g + 8);
                } else {
                    u32 column = 64 * group + 32 * half, of = column / w.group;
                    const u8 *pair = codes + (u64)(of / 2) * w.pair_bytes;
                    const u32 *from = (const u32 *)(pair + of % 2 * group_bytes +
                                                    column % w.group * 16 + 64 * t) +
                                      g;
                    words[i][half][0] = __ldg(from) ^ 0x80808080u;
                    words[i][half][1] = __ldg(from + 8) ^ 0x80808080u;
                    words[i][half][2] = __ldg(from + 64) ^ 0x80808080u;
                    words[i][half][3] = __ldg(from + 72) ^ 0x80808080u;
                    const u16 *of_rows = (const u16 *)(pair + 2 * group_bytes) + 16 * (of % 2);
                    scales[i][half][0] = half_to_float(__ldg(of_rows + g));
                    scales[i][half][1] = half_to_float(__ldg(of_rows + g + 8));
                }
            }
        }
        __syncthreads();
        bring_groups(op, first + GROUPS, groups, c0, tokens, shared_at + (turn ^ 1) * CHUNK_BYTES);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        if (!is_mine) continue;
#pragma unroll
        for (u32 i = 0; i < GROUPS; i++) {
            if (first + i >= groups) break;
            const u8 *all = shared + turn * CHUNK_BYTES + i * TOKENS * GROUP_STEP;
            u32 a[2][4];
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                if (IS_INT4) {
                    a[half][0] = lookup(table, words[i][half][0]);
                    a[half][1] = lookup(table, words[i][half][1]);
                    a[half][2] = lookup(table, words[i][half][0] >> 16);
                    a[half][3] = lookup(table, words[i][half][1] >> 16);
                } else {
#pragma unroll
                    for (u32 j = 0; j < 4; j++) a[half][j] = words[i][half][j];
                }
            }
#pragma unroll
            for (u32 n = 0; n < TURNS; n++) {
                const u8 *token = all + (8 * (eights + n)) * GROUP_STEP;
                // Two sums and the scale of the tokens that this lane's sums are of.
                const int4 one = *(const int4 *)(token + 2 * t * GROUP_STEP + 128);
                const int4 two = *(const int4 *)(token + (2 * t + 1) * GROUP_STEP + 128);
                float of_one = __int_as_float(one.z), of_two = __int_as_float(two.z);
                const u8 *x = token + g * GROUP_STEP;
                int c[4] = {0, 0, 0, 0};
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    if (IS_INT4) {
                        int bias_one = -32 * (half ? one.y : one.x),
                            bias_two = -32 * (half ? two.y : two.x);
                        c[0] = c[2] = bias_one;
                        c[1] = c[3] = bias_two;
                        multiply(c, a[half], *(const uint2 *)(x + 64 + 32 * half + 8 * t));
                        acc[n][0] = fmaf((float)c[0], scales[i][half][0] * of_one, acc[n][0]);
                        acc[n][1] = fmaf((float)c[1], scales[i][half][0] * of_two, acc[n][1]);
                        acc[n][2] = fmaf((float)c[2], scales[i][half][1] * of_one, acc[n][2]);
                        acc[n][3] = fmaf((float)c[3], scales[i][half][1] * of_two, acc[n][3]);
                    } else {
                        uint2 b = {*(const u32 *)(x + 32 * half + 4 * t),
                                   *(const u32 *)(x + 32 * half + 16 + 4 * t)};
                        multiply(c, a[half], b);
                        // Scales are those of 32 columns, or of whole groups.
                        if (half == 0 && w.group > 32) continue;
                        acc[n][0] = acc[n][0] + (float)c[0] * (scales[i][half][0] * of_one);
                        acc[n][1] = acc[n][1] + (float)c[1] * (scales[i][half][0] * of_two);
                        acc[n][2] = acc[n][2] + (float)c[2] * (scales[i][half][1] * of_one);
                        acc[n][3] = acc[n][3] + (float)c[3] * (scales[i][half][1] * of_two);
                        c[0] = c[1] = c[2] = c[3] = 0;
                    }
                }
            }
        }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    if (!is_mine) return;
    float steps[2] = {1.0f, 1.0f};
    if (IS_INT4) {
        steps[0] = half_to_float(__ldg((const u16 *)sheet + g));
        steps[1] = half_to_float(__ldg((const u16 *)sheet + g + 8));
    }
#pragma unroll
    for (u32 n = 0; n < TURNS; n++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 c = 8 * (eights + n) + 2 * t + j % 2, row = tile * 16 + g + j / 2 * 8;
            float y = IS_INT4 ? acc[n][j] * steps[j / 2] : acc[n][j];
            if (c < tokens) op.y.first[(u64)(c0 + c) * op.y.stride + row] = y;
        }
    }
}

template <u32 TURNS>
__device__ void tiles_with(const Op &op, u32 first, u32 tiles, u32 c0, u32 tokens) {
    if (op.w.format == INT4) tiles_of<TURNS, true>(op, first, tiles, c0, tokens);
    else tiles_of<TURNS, false>(op, first, tiles, c0, tokens);
}

// Tiles from `first` to `end` with columns from `c0` to `c1`.
__device__ void tensor_product(const Op &op, u32 first, u32 end, u32 c0, u32 c1) {
    for (u32 c = c0; c < c1; c += TOKENS) {
        u32 tokens = min(TOKENS, c1 - c);
        u32 at_once = 16;
        for (u32 tile = first; tile < end; tile += at_once) {
            u32 tiles = min(at_once, end - tile);
            if (tiles > 8) tiles_with<8>(op, tile, tiles, c, tokens);
            else if (tiles > 4) tiles_with<4>(op, tile, tiles, c, tokens);
            else if (tiles > 2) tiles_with<2>(op, tile, tiles, c, tokens);
            else tiles_with<1>(op, tile, tiles, c, tokens);
        }
    }
}

#endif

__device__ void project(const Op &op, const Pieces &p) {
    u32 all = (op.w.rows + 15) / 16;
    u32 first = p.begin(all), end = p.end(all);
    if (is_integer(op.w.format)) {
#if __CUDA_ARCH__ >= 900
        if (op.w.format == INT8 || op.w.format == INT4)
            return tensor_product(op, first, end, p.from, p.to);
#endif
        // So many tiles at once that each row has a thread.
        u32 most = THREADS / 16;
        for (u32 c = p.from; c < p.to; c++)
            for (u32 tile = first; tile < end; tile += most) {
                integers(op, tile, min(most, end - tile), c);
                __syncthreads();
            }
        return;
    }
    for (u32 at = threadIdx.x / 32; at < (end - first) * p.columns(); at += THREADS / 32)
        floats(op, first + at % (end - first), p.from + at / (end - first));
}

