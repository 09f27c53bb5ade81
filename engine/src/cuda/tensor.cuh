// Products of many columns on integer tensor cores: 16 rows × 32 columns of a matrix with eight
// tokens, sums exact in 32 bits, then one fma per part in ascending order: the bits of one token's
// product.
//
//   A   a tile's part: lane 4 g + t has the words of rows g and g + 8 that hold columns 8 t … 8 t +
//       7 (int8: words t and t + 4), as the file has them
//   B   eight tokens' part, which all warps share. Columns stand in the order of the nibbles, which
//       is no matter to a sum
//   C   lane 4 g + t: rows g and g + 8 of tokens 2 t and 2 t + 1
//
// Tiles and tokens come by copies that the card makes by itself, a few groups of 64 columns at a
// time, into a ring: while warps multiply one turn of it, the next ones are on their way.
//
//   turn   tiles × (codes of the groups · their scales) · tokens × groups of activations

#define TOKENS 64
// Bytes of a token's group.
#define GROUP_BYTES 144
// The ring, and its turns at most.
#define RING_BYTES (160 << 10)
#define TURNS_AHEAD 8

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

// How a turn of the ring is laid out, and what of it a thread asks for.
struct Turn {
    // Groups of a turn, and bytes of a group: of a tile's codes and scales.
    u32 groups, codes, scales;
    // Bytes of a turn's tile and token, where they begin, and all of it.
    u32 code_bytes, scale_bytes, token_bytes, scales_at, tokens_at, bytes;
    u32 ahead;

    // So many groups; those of a pair of the matrix's groups stay together.
    __device__ Turn(const Matrix &w, u32 tiles, u32 slots, u32 n) {
        groups = n;
        codes = 32 * w.pair_bytes / w.group;
        scales = has_steps(w.format) ? 32 : 0;
        code_bytes = n * codes;
        scale_bytes = n * scales;
        // Eight tokens in different banks: 8 or 24 words more than whole times 32.
        token_bytes = n * GROUP_BYTES + (n % 4 == 2 ? 0 : 32);
        scales_at = tiles * code_bytes;
        tokens_at = scales_at + tiles * scale_bytes;
        bytes = (tokens_at + slots * token_bytes + 127) / 128 * 128;
        ahead = min(RING_BYTES / bytes, TURNS_AHEAD);
    }
};

// The turn for so many tiles and places of tokens: as long as lets some be on their way.
__device__ inline Turn turn_for(const Matrix &w, u32 tiles, u32 slots) {
    u32 least = max(w.group / 32, 2);
    Turn turn(w, tiles, slots, least);
    for (u32 n = 2 * least; n <= 8; n *= 2) {
        Turn longer(w, tiles, slots, n);
        if (longer.ahead < 2) break;
        turn = longer;
    }
    return turn;
}

// What a thread asks for in every turn: a token, or a tile's codes or scales; one says how much.
struct Request {
    const u8 *from;
    u32 to, group_bytes, bar_bytes;

    __device__ Request(const Op &op, const Turn &turn, u32 tile, u32 tiles, u32 c0, u32 tokens) {
        const Matrix &w = op.w;
        // Each warp asks for some: its threads do so one after the other.
        u32 thread = threadIdx.x % 32 * (THREADS / 32) + threadIdx.x / 32;
        from = 0;
        to = group_bytes = bar_bytes = 0;
        if (thread < tokens) {
            from = (const u8 *)(op.inputs.int8 + (u64)(c0 + thread) * op.inputs.groups);
            to = turn.tokens_at + thread * turn.token_bytes;
            group_bytes = GROUP_BYTES;
        } else if (thread < tokens + tiles) {
            u32 mine = thread - tokens;
            from = w.tiles + (u64)(tile + mine) * w.pairs * w.pair_bytes;
            to = mine * turn.code_bytes;
            group_bytes = turn.codes;
        } else if (turn.scales && thread < tokens + 2 * tiles) {
            u32 mine = thread - tokens - tiles;
            from = w.sheet + 96 + (u64)(tile + mine) * (32 + 32 * w.pairs);
            to = turn.scales_at + mine * turn.scale_bytes;
            group_bytes = turn.scales;
        } else if (thread == THREADS - 1) {
            bar_bytes = tiles * (turn.codes + turn.scales) + tokens * GROUP_BYTES;
        }
    }

    // Groups from `first` on, so many, to a place of the ring.
    __device__ __forceinline__ void ask(u32 first, u32 n, u32 place, u32 bar) const {
        if (group_bytes) bring(place + to, from + first * group_bytes, n * group_bytes, bar);
        if (bar_bytes) expect(bar, n * bar_bytes);
    }
};

// A tile's codes of 64 columns, as its file has them, and what sums of rows g and g + 8 are
// multiplied by.
template <bool IS_INT4> struct TileGroup {
    u32 words[2][IS_INT4 ? 2 : 4];
    u16 scales[2][2];

    __device__ __forceinline__ void read(const Matrix &w, const u8 *codes, const u8 *scales_at,
                                         u32 group, u32 g, u32 t) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (IS_INT4) {
                // Lanes of the upper columns begin with the other row: all banks at once.
                const u32 *from = (const u32 *)(codes + 512 * group + 256 * half + 64 * t) + g;
                words[half][0] = from[t >= 2 ? 8 : 0];
                words[half][1] = from[t >= 2 ? 0 : 8];
                const u8 *of = scales_at + 32 * group + 16 * half + g;
                scales[half][0] = of[0];
                scales[half][1] = of[8];
            } else {
                u32 column = 64 * group + 32 * half, of = column / w.group, bytes = 16 * w.group;
                const u8 *pair = codes + of / 2 * w.pair_bytes;
                const u32 *from =
                    (const u32 *)(pair + of % 2 * bytes + column % w.group * 16 + 64 * t) + g;
                words[half][0] = from[0];
                words[half][1] = from[8];
                words[half][2 % (IS_INT4 ? 2 : 4)] = from[64];
                words[half][3 % (IS_INT4 ? 2 : 4)] = from[72];
                const u16 *of_rows = (const u16 *)(pair + 2 * bytes) + 16 * (of % 2);
                scales[half][0] = of_rows[g];
                scales[half][1] = of_rows[g + 8];
            }
        }
    }

    // As A.
    __device__ __forceinline__ void decode(const u32 table[4], u32 t, u32 a[2][4],
                                           float by[2][2]) const {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (IS_INT4) {
                u32 low = t >= 2 ? words[half][1] : words[half][0];
                u32 high = t >= 2 ? words[half][0] : words[half][1];
                a[half][0] = signed_lookup(table, low);
                a[half][1] = signed_lookup(table, high);
                a[half][2] = signed_lookup(table, low >> 16);
                a[half][3] = signed_lookup(table, high >> 16);
            } else {
#pragma unroll
                for (u32 j = 0; j < 4; j++)
                    a[half][j] = words[half][j % (IS_INT4 ? 2 : 4)] ^ 0x80808080u;
            }
#pragma unroll
            for (u32 j = 0; j < 2; j++)
                by[half][j] = IS_INT4 ? (float)(signed char)scales[half][j]
                                      : half_to_float(scales[half][j]);
        }
    }
};

// Eight tokens' 64 columns as B, and the scales of tokens 2 t and 2 t + 1.
template <bool IS_INT4> struct TokenGroup {
    uint2 b[2];
    float one, two;

    __device__ __forceinline__ void read(const u8 *eight, u32 token_bytes, u32 g, u32 t) {
        const u8 *x = eight + g * token_bytes, *pair = eight + 2 * t * token_bytes;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (IS_INT4) b[half] = *(const uint2 *)(x + 64 + 32 * half + 8 * t);
            else
                b[half] = {*(const u32 *)(x + 32 * half + 4 * t),
                           *(const u32 *)(x + 32 * half + 16 + 4 * t)};
        }
        one = *(const float *)(pair + 136);
        two = *(const float *)(pair + token_bytes + 136);
    }
};

// Sums of 64 columns, and what they are multiplied by.
template <bool IS_INT4> struct Found {
    u32 c[2][4];
    float by[2][2];
    float one, two;

    // Adds them to those of the columns before.
    __device__ __forceinline__ void add(float acc[4], bool is_whole) const {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            // Scales are those of 32 columns, or of whole groups.
            if (!IS_INT4 && half == 0 && is_whole) continue;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                float scale = by[half][j / 2] * (j % 2 ? two : one), sum = sum_of(c[half][j]);
                acc[j] = IS_INT4 ? fmaf(sum, scale, acc[j]) : acc[j] + sum * scale;
            }
        }
    }
};

// The number that all lanes of a warp have: said so that the compiler knows it, and lets nothing
// wait for lanes that might have gone another way.
__device__ __forceinline__ u32 of_warp(u32 x) { return __shfl_sync(~0u, x, 0); }

// Of a warp: a tile with `EIGHTS` times eight tokens.
template <u32 EIGHTS, bool IS_INT4>
__device__ __noinline__ void tiles_of(const Op &op, u32 first_tile, u32 tiles, u32 c0, u32 tokens) {
    __shared__ __align__(8) u64 bars[TURNS_AHEAD];
    const Matrix &w = op.w;
    u32 warp = of_warp(threadIdx.x / 32), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 side_by_side = of_warp((tokens + 8 * EIGHTS - 1) / (8 * EIGHTS));
    u32 mine = of_warp(warp / side_by_side), eights = of_warp(warp % side_by_side * EIGHTS);
    u32 groups = of_warp((w.pairs * 2 * w.group + 63) / 64);
    bool is_mine = mine < of_warp(tiles);
    Turn turn = turn_for(w, tiles, side_by_side * 8 * EIGHTS);
    turn.groups = of_warp(turn.groups);
    u8 *ring = room + ROOM + 2 * STAGE_BYTES;
    u32 ring_at = near_address(ring), bars_at = near_address(bars);
    u32 count = (groups + turn.groups - 1) / turn.groups;
    // What others have written is there for copies, too.
    asm volatile("fence.proxy.async;" ::: "memory");
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < turn.ahead; i++)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bars_at + 8 * i) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    const Request request(op, turn, first_tile, tiles, c0, tokens);
    auto ask_for = [&](u32 i, u32 at) {
        u32 first = i * turn.groups;
        if (i < count)
            request.ask(first, min(turn.groups, groups - first), ring_at + at * turn.bytes,
                          bars_at + 8 * at);
    };
    for (u32 i = 0; i + 1 < turn.ahead; i++) ask_for(i, i);
    u32 table[4] = {0, 0, 0, 0};
    if (IS_INT4) read_table(w, table);
    const u32 begin[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN};
    bool is_whole = !IS_INT4 && w.group > 32;
    float acc[EIGHTS][4];
#pragma unroll
    for (u32 n = 0; n < EIGHTS; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
    // Sums that wait to be added, of the last eight tokens.
    Found<IS_INT4> last;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        last.c[half][0] = last.c[half][1] = last.c[half][2] = last.c[half][3] = SUM_BEGIN;
        last.by[half][0] = last.by[half][1] = 0.0f;
    }
    last.one = last.two = 0.0f;
    u32 at = turn.ahead - 1, phase = 1;
#pragma unroll 1
    for (u32 i = 0; i < count; i++) {
        u32 before = at++;
        if (at == turn.ahead) at = 0, phase ^= 1;
        wait_near(bars_at + 8 * at, phase);
        // All are behind the turn before this one: its place is free.
        __syncthreads();
        ask_for(i + turn.ahead - 1, before);
        if (!is_mine) continue;
        const u8 *here = ring + at * turn.bytes, *codes = here + mine * turn.code_bytes;
        const u8 *scales_at = here + turn.scales_at + mine * turn.scale_bytes;
        const u8 *of_tokens = here + turn.tokens_at + eights * 8 * turn.token_bytes;
        u32 n_groups = min(turn.groups, groups - i * turn.groups);
        // All is read one step ahead: while eight tokens are multiplied, the next ones come, and
        // the sums of those before are added. Behind the last group stands what nobody uses.
        TileGroup<IS_INT4> tile;
        TokenGroup<IS_INT4> x, next;
        tile.read(w, codes, scales_at, 0, g, t);
        x.read(of_tokens, turn.token_bytes, g, t);
#pragma unroll 1
        for (u32 group = 0; group < n_groups; group++) {
            u32 a[2][4];
            float by[2][2];
            tile.decode(table, t, a, by);
            tile.read(w, codes, scales_at, group + 1, g, t);
#pragma unroll
            for (u32 n = 0; n < EIGHTS; n++) {
                u32 then = n + 1 < EIGHTS ? n + 1 : 0, of = n + 1 < EIGHTS ? group : group + 1;
                next.read(of_tokens + 8 * then * turn.token_bytes + of * GROUP_BYTES,
                          turn.token_bytes, g, t);
                Found<IS_INT4> now;
                multiply(now.c[0], a[0], x.b[0], begin);
                multiply(now.c[1], a[1], x.b[1], is_whole ? now.c[0] : begin);
                last.add(acc[n > 0 ? n - 1 : EIGHTS - 1], is_whole);
#pragma unroll
                for (u32 half = 0; half < 2; half++)
                    now.by[half][0] = by[half][0], now.by[half][1] = by[half][1];
                now.one = x.one, now.two = x.two;
                last = now;
                x = next;
            }
        }
    }
    last.add(acc[EIGHTS - 1], is_whole);
    __syncthreads();
    if (threadIdx.x == 0)
        for (u32 i = 0; i < turn.ahead; i++)
            asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(bars_at + 8 * i) : "memory");
    if (!is_mine) return;
    u64 tile = first_tile + mine;
    float steps[2] = {1.0f, 1.0f};
    if (IS_INT4) {
        const u16 *of_rows = (const u16 *)(w.sheet + 64 + tile * (32 + 32 * w.pairs));
        steps[0] = half_to_float(__ldg(of_rows + g));
        steps[1] = half_to_float(__ldg(of_rows + g + 8));
    }
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

template <u32 EIGHTS>
__device__ void tiles_with(const Op &op, u32 first, u32 tiles, u32 c0, u32 tokens) {
    if (op.w.format == INT4) tiles_of<EIGHTS, true>(op, first, tiles, c0, tokens);
    else tiles_of<EIGHTS, false>(op, first, tiles, c0, tokens);
}

// The fewest times eight tokens with which all tiles have their warps.
__device__ inline u32 eights_each(u32 tiles, u32 eights) {
    u32 each = 1;
    while (tiles * ((eights + each - 1) / each) > THREADS / 32) each *= 2;
    return each;
}

// Tiles that are multiplied at once.
__device__ inline u32 tiles_at_once(const Matrix &w) {
    u32 tiles = 16;
    while (tiles > 1 && Turn(w, tiles, TOKENS, max(w.group / 32, 2)).ahead < 2) tiles /= 2;
    return tiles;
}

// Tiles from `first` to `end` with columns from `c0` to `c1`: each warp has a tile with as few
// tokens as lets all tiles have a warp.
__device__ void tensor_product(const Op &op, u32 first, u32 end, u32 c0, u32 c1) {
    u32 at_once = tiles_at_once(op.w);
    for (u32 c = c0; c < c1; c += TOKENS) {
        u32 tokens = min(TOKENS, c1 - c), eights = (tokens + 7) / 8;
        for (u32 tile = first; tile < end; tile += at_once) {
            u32 tiles = min(at_once, end - tile), each = eights_each(tiles, eights);
            if (each == 8) tiles_with<8>(op, tile, tiles, c, tokens);
            else if (each == 4) tiles_with<4>(op, tile, tiles, c, tokens);
            else if (each == 2) tiles_with<2>(op, tile, tiles, c, tokens);
            else tiles_with<1>(op, tile, tiles, c, tokens);
        }
    }
}

#endif

// How many pieces of a product, each of so many tiles, a block takes at once: those with which all
// blocks are through soonest. A block multiplies for about so many cycles, and reads so fast.
__device__ u32 pieces_at_once(const Matrix &w, u32 pieces, u32 tiles_each, u32 width) {
    const u32 BEGIN = 4000, PART = 100, EIGHT = 26, TILE = 28;
    u32 n = threadIdx.x % 16 + 1, tiles = n * tiles_each, turns = (width + TOKENS - 1) / TOKENS;
    u32 eights = (min(width, TOKENS) + 7) / 8, each = 1;
    while (min(tiles, 16) * ((eights + each - 1) / each) > 16) each *= 2;
    u32 warps = min(tiles, 16) * ((eights + each - 1) / each);
    u32 rounds = ((pieces + n - 1) / n * turns + gridDim.x - 1) / gridDim.x;
    u32 group = max(TILE * tiles, (warps + 3) / 4 * (EIGHT * each + PART));
    u32 cost = rounds * (BEGIN + w.pairs * w.group / 32 * group);
    if (n > 1 && (tiles > 16 || n > pieces)) cost = ~0u;
    u32 best = min(cost, 0x07ffffffu) << 4 | (n - 1);
    for (u32 other = 8; other > 0; other /= 2)
        best = min(best, __shfl_xor_sync(~0u, best, other));
    return best % 16 + 1;
}

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
    float_products(op, p);
}
