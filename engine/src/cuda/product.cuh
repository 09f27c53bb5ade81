// Products y = W x over tiles of 16 rows, in the orders of sums of `kernels/matmul/scalar.rs`.
//
// Integer formats: exact sums of 32 or 64 columns are independent of each other, and half-warps
// take them in any order, a lane a row. What they find stands in the block's own memory, from where
// one thread per row adds it up in ascending order. Float formats: a row's chains, one after the
// other.

// A sum, and what it is multiplied by.
struct Part {
    float sum;
    float scale;
};

__device__ inline int dot(u32 w, u32 x, int acc) {
    return __dp4a((int)w, (int)x, acc);
}

// The values, plus 32, of four codes of int4: the selectors are the lower 16 bits of `codes`. A
// selector of 8 or more takes a byte's sign eight times, and these have none: it finds 0. So one
// half of the table gives the lower codes' values, the other, asked for with highest bits turned,
// the upper ones'.
__device__ inline u32 lookup(const u32 table[4], u32 codes) {
    u32 lower, upper;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(lower) : "r"(table[0]), "r"(table[1]), "r"(codes));
    asm("prmt.b32 %0, %1, %2, %3;"
        : "=r"(upper)
        : "r"(table[2]), "r"(table[3]), "r"(codes ^ 0x88888888u));
    return lower | upper;
}

// The table of a matrix of int4.
__device__ inline void read_table(const Matrix &w, u32 table[4]) {
    const uint4 from = __ldg((const uint4 *)w.sheet);
    table[0] = from.x & 0x3f3f3f3fu;
    table[1] = from.y & 0x3f3f3f3fu;
    table[2] = from.z & 0x3f3f3f3fu;
    table[3] = from.w & 0x3f3f3f3fu;
}

// The exact sum of `n` columns (32 or 64) from column `first` of a group on, for row `lane`.
__device__ __forceinline__ int exact(u32 format, const u8 *step, const Int8Group *x, u32 first,
                                     u32 n, u32 lane, const u32 table[4]) {
    int acc = 0;
    u32 half = first / 32 % 2;
    if (format == INT8) {
        const u32 *codes = (const u32 *)x->codes + first % 64 / 4;
#pragma unroll 8
        for (u32 i = 0; i < n / 4; i++) {
            u32 w = __ldg((const u32 *)(step + 64 * i) + lane);
            acc = dot(w ^ 0x80808080u, codes[i], acc);
        }
        return acc;
    }
    const u32 *codes = (const u32 *)x->nibbles + first % 64 / 4;
    u32 planes[2] = {0, 0};
    if (format == INT5 || format == INT6) planes[0] = __ldg((const u32 *)(step + 256) + lane);
    if (format == INT6) planes[1] = __ldg((const u32 *)(step + 320) + lane);
#pragma unroll 4
    for (u32 i = 0; i < n / 8; i++) {
        u32 w = __ldg((const u32 *)(step + 64 * i) + lane);
        u32 a, b;
        if (format == INT4) {
            a = lookup(table, w & 0xffff);
            b = lookup(table, w >> 16);
        } else {
            // Columns 0 to 3 and 4 to 7; of planes bits 2 i and 2 i + 1.
            u32 low = w & 0x0f0f0f0fu, high = w >> 4 & 0x0f0f0f0fu;
            if (format != INT4_V1) {
                low |= (planes[0] >> 2 * i & 0x01010101u) << 4;
                high |= (planes[0] >> (2 * i + 1) & 0x01010101u) << 4;
                low |= (planes[1] >> 2 * i & 0x01010101u) << 5;
                high |= (planes[1] >> (2 * i + 1) & 0x01010101u) << 5;
            }
            // In the order of nibbles: 0, 4, 1, 5 and 2, 6, 3, 7.
            a = __byte_perm(low, high, 0x5140);
            b = __byte_perm(low, high, 0x7362);
        }
        acc = dot(a, codes[2 * i], acc);
        acc = dot(b, codes[2 * i + 1], acc);
    }
    int sums = n == 64 ? x->sums[0] + x->sums[1] : x->sums[half];
    int bias = format == INT4 ? 32 : format == INT4_V1 ? 8 : format == INT5 ? 16 : 32;
    return acc - bias * sums;
}

// Whether sums of products are exact.
__device__ inline bool is_integer(u32 format) { return format >= INT8 && format <= INT6; }

__device__ inline bool has_steps(u32 format) { return format >= INT4 && format <= INT6; }

// How a matrix of an integer format is cut: columns of a part, parts of a row, bits of a code.
struct Cut {
    u32 block;
    u32 parts;
    u32 bits;

    __device__ Cut(const Matrix &w) {
        block = has_steps(w.format) ? 32 : w.group < 64 ? w.group : 64;
        parts = w.pairs * 2 * w.group / block;
        bits = w.format == INT8 ? 8 : w.format == INT5 ? 5 : w.format == INT6 ? 6 : 4;
    }
};

// One part of a row of a tile, and what it is multiplied by.
__device__ __noinline__ Part part_of(const Matrix &w, const Inputs &inputs, const Cut &cut,
                                     u32 tile, u32 part, u32 c, u32 lane) {
    u32 column = part * cut.block;
    const u8 *codes = w.tiles + (u64)tile * w.pairs * w.pair_bytes;
    u32 table[4] = {0, 0, 0, 0};
    float scale;
    if (has_steps(w.format)) {
        if (w.format == INT4) read_table(w, table);
        codes += (u64)part * (2 * cut.bits * cut.block);
        const u8 *scales = w.sheet + 64 + (u64)tile * (32 + 32 * w.pairs) + 32;
        scale = (float)(signed char)__ldg(scales + 16 * part + lane);
    } else {
        u32 group = column / w.group, group_bytes = (w.pair_bytes - 64) / 2;
        codes += (u64)(group / 2) * w.pair_bytes;
        const u16 *scales = (const u16 *)(codes + 2 * group_bytes) + 16 * (group % 2);
        scale = half_to_float(__ldg(scales + lane));
        codes += group % 2 * group_bytes + column % w.group * 2 * cut.bits;
    }
    const Int8Group *x = inputs.int8 + (u64)c * inputs.groups + column / 64;
    int found = exact(w.format, codes, x, column, cut.block, lane, table);
    return {(float)found, scale * x->scale};
}

// A row's parts one after the other, from `acc` on.
__device__ __noinline__ float added(const Matrix &w, const Part *parts, u32 n, float acc) {
    if (has_steps(w.format)) {
#pragma unroll 4
        for (u32 i = 0; i < n; i++) acc = fmaf(parts[16 * i].sum, parts[16 * i].scale, acc);
    } else {
#pragma unroll 4
        for (u32 i = 0; i < n; i++) acc = acc + parts[16 * i].sum * parts[16 * i].scale;
    }
    return acc;
}

// What a row's parts came to.
__device__ __noinline__ float of_row(const Matrix &w, u32 tile, u32 lane, float acc) {
    if (!has_steps(w.format)) return acc;
    const u16 *of_rows = (const u16 *)(w.sheet + 64 + (u64)tile * (32 + 32 * w.pairs));
    return acc * half_to_float(__ldg(of_rows + lane));
}

// The product of some tiles with a column, of an integer format.
__device__ void integers(const Op &op, u32 first_tile, u32 tiles, u32 c) {
    Part *parts = (Part *)room;
    Cut cut(op.w);
    u32 lane = threadIdx.x % 16, half_warp = threadIdx.x / 16;
    // The sum so far of a thread's row.
    float acc = 0.0f;
    u32 per_tile = PARTS / tiles;
    for (u32 from = 0; from < cut.parts; from += per_tile) {
        u32 here = min(per_tile, cut.parts - from);
        for (u32 at = half_warp; at < tiles * here; at += THREADS / 16) {
            Part *to = parts + (at / here * per_tile + at % here) * 16 + lane;
            *to = part_of(op.w, op.inputs, cut, first_tile + at / here, from + at % here, c, lane);
        }
        __syncthreads();
        if (threadIdx.x < tiles * 16)
            acc = added(op.w, parts + half_warp * per_tile * 16 + lane, here, acc);
        __syncthreads();
    }
    if (threadIdx.x < tiles * 16) {
        u32 tile = first_tile + half_warp;
        op.y.first[(u64)c * op.y.stride + tile * 16 + lane] = of_row(op.w, tile, lane, acc);
    }
}

// The product of a tile with a column, of a float format: a warp, a lane for each row and chain.
__device__ void floats(const Op &op, u32 tile, u32 c) {
    const Matrix &w = op.w;
    if (w.format == FP8_E4M3) return small_floats<FP8_E4M3>(op, tile, c);
    if (w.format == FP8_E5M2) return small_floats<FP8_E5M2>(op, tile, c);
    if (w.format == LMUL) return small_floats<LMUL>(op, tile, c);
    u32 lane = threadIdx.x % 16, chain = threadIdx.x / 16 % 2;
    u64 column = (u64)c * op.inputs.groups * 64;
    const u8 *codes = w.tiles + (u64)tile * w.pairs * w.pair_bytes;
    // Values behind the last of x are zeros, as far as its last group goes; weights are, too.
    u32 k = min(w.pairs * (w.format == F32 ? 16 : 32), op.inputs.groups * 64);
    float acc = 0.0f;
    if (w.format == F32) {
        const float *x = op.inputs.f32 + column;
#pragma unroll 8
        for (u32 i = 0; i < k; i++)
            acc = fmaf(__ldg((const float *)(codes + 64 * i) + lane), x[i], acc);
    } else if (w.format == F16) {
        const float *x = op.inputs.f32 + column;
#pragma unroll 8
        for (u32 i = 0; i < k / 2; i++) {
            u16 half = __ldg((const u16 *)(codes + 64 * i) + 2 * lane + chain);
            acc = fmaf(half_to_float(half), x[2 * i + chain], acc);
        }
    } else {
        // Of four columns chain 0 takes 1, then 0; chain 1 takes 3, then 2.
        const u16 *x = op.inputs.bf16 + column;
#pragma unroll 4
        for (u32 i = 0; i < k / 4; i++) {
            u32 pair = __ldg((const u32 *)(codes + 64 * (2 * i + chain)) + lane);
            const u16 *of = x + 4 * i + 2 * chain;
            float second = __uint_as_float(pair & 0xffff0000u), first = __uint_as_float(pair << 16);
            acc = acc + second * __uint_as_float((u32)of[1] << 16);
            acc = acc + first * __uint_as_float((u32)of[0] << 16);
        }
    }
    float other = __shfl_down_sync(~0u, acc, 16);
    if (w.format != F32) acc = acc + other;
    if (chain == 0) op.y.first[(u64)c * op.y.stride + tile * 16 + lane] = acc;
}

__device__ void float_products(const Op &op, const Pieces &p) {
    u32 all = (op.w.rows + 15) / 16, first = p.begin(all), n = p.end(all) - first;
    for (u32 at = threadIdx.x / 32; at < n * p.columns(); at += THREADS / 32)
        floats(op, first + at % n, p.from + at / n);
}

// Column `i` of row `row`, as the codecs decode it.
__device__ float decoded(const Matrix &w, u32 row, u32 i) {
    u32 lane = row % 16;
    u64 tile = row / 16;
    const u8 *codes = w.tiles + tile * w.pairs * w.pair_bytes;
    if (w.format == F32) return ((const float *)(codes + 64ull * i))[lane];
    if (w.format == F16 || w.format == BF16) {
        u16 half = ((const u16 *)(codes + 64ull * (i / 2)))[2 * lane + i % 2];
        return w.format == F16 ? half_to_float(half) : __uint_as_float((u32)half << 16);
    }
    bool is_byte = w.format == INT8 || !is_integer(w.format);
    u32 bits = is_byte ? 8 : w.format == INT5 ? 5 : w.format == INT6 ? 6 : 4;
    bool steps = has_steps(w.format);
    u32 group = i / w.group, in = i % w.group;
    const u8 *pair = codes + (u64)(group / 2) * w.pair_bytes;
    u32 group_bytes = 2 * bits * w.group;
    const u8 *step = pair + group % 2 * group_bytes;
    const u16 *scales = (const u16 *)(pair + 2 * group_bytes) + 16 * (group % 2);
    if (w.format == FP8_E5M2)
        return value_of_code<FP8_E5M2>(step, in, lane) * half_to_float(scales[lane]);
    if (!is_integer(w.format))
        return value_of_code<FP8_E4M3>(step, in, lane) * half_to_float(scales[lane]);
    int value;
    if (w.format == INT8) {
        value = (int)step[in / 4 * 64 + 4 * lane + in % 4] - 128;
    } else {
        // Planes stand behind the nibbles of 32 columns.
        u32 of_step = in % 32;
        const u8 *codes_of = step + in / 32 * 64 * bits;
        u32 at = 4 * lane + of_step % 4;
        u32 code = codes_of[of_step / 8 * 64 + at] >> (of_step % 8 / 4 * 4) & 15;
        for (u32 plane = 4; plane < bits; plane++)
            code |= (u32)(codes_of[256 + 64 * (plane - 4) + at] >> (of_step / 4) & 1) << plane;
        value = w.format == INT4      ? (int)(w.sheet[code] & 63) - 32
                : w.format == INT4_V1 ? (int)code - 8
                : w.format == INT5    ? (int)code - 16
                                      : (int)code - 32;
    }
    if (steps) {
        const u8 *sheet = w.sheet + 64 + tile * (32 + 32 * w.pairs);
        float scale = (float)(signed char)sheet[32 + 16 * group + lane];
        return (float)value * scale * half_to_float(((const u16 *)sheet)[lane]);
    }
    return (float)value * half_to_float(scales[lane]);
}

__device__ void embed(const Op &op, const Pieces &p) {
    u32 n = op.w.cols;
    for (u32 at = threadIdx.x; at < n * p.columns(); at += THREADS) {
        u32 c = p.from + at / n, i = at % n;
        op.y.first[(u64)c * op.y.stride + i] = decoded(op.w, p.pass.tokens[c], i);
    }
}
