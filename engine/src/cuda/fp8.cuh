// Weights of 8 bits that are floats, FP8 and L-Mul: their values, and products in the order of sums
// of `kernels/matmul/scalar.rs`. Activations come as f32 and are rounded where they are read.

// The value of a code, times 2⁻¹²⁰ (of E5M2 2⁻¹¹²): its bits are those of a float, but for what is
// no number.
template <u32 FORMAT> __device__ inline float shrunk(u32 code) {
    u32 sign = code << 24 & 0x80000000u, magnitude = code & 0x7f;
    if (FORMAT == FP8_E5M2)
        return __uint_as_float(sign | magnitude << 21 | (magnitude < 0x7c ? 0 : 0x7f800000u));
    return __uint_as_float(sign | (magnitude < 0x7f ? magnitude << 20 : 0x7fc00000u));
}

// 2¹²⁰, or 2¹¹².
template <u32 FORMAT> __device__ inline float grown() {
    return __uint_as_float((127u + (FORMAT == FP8_E5M2 ? 112 : 120)) << 23);
}

// Column `in` of row `lane` of a group of codes, without its scale.
template <u32 FORMAT> __device__ inline float value_of_code(const u8 *group, u32 in, u32 lane) {
    return shrunk<FORMAT>(group[in / 4 * 64 + 4 * lane + in % 4]) * grown<FORMAT>();
}

// L-Mul: bf16s are multiplied by adding their bits.
__device__ inline float lmul(u32 w, float x) {
    u32 rounded = to_bf16(x), of_x = rounded & 0x7fff, of_w = w & 0x7fff;
    // Activations below 2⁻¹⁰⁰ are zero, those above 2¹⁰⁰ are that; what is no number stays.
    if (x == x && of_x > (127 + 100) << 7) of_x = (127 + 100) << 7;
    if (x == x && of_x < (127 - 100) << 7) of_x = 0;
    int sum = min((int)(of_w + of_x) - (127 << 7) + 8, 0x7f7f);
    u32 magnitude = of_w == 0 || of_x == 0 || sum < 0x80 ? 0 : (u32)sum;
    return __uint_as_float(((w ^ rounded) & 0x8000 | magnitude) << 16);
}

// A code times an activation; of FP8 2⁴⁰ or 2³² times too small.
template <u32 FORMAT> __device__ inline float multiplied(u32 code, float x) {
    if (FORMAT == LMUL)
        return lmul(__float_as_uint(shrunk<FORMAT>(code) * grown<FORMAT>()) >> 16, x);
    u32 of_x = to_bf16(x * __uint_as_float((127u + 80) << 23));
    return shrunk<FORMAT>(code) * __uint_as_float(of_x << 16);
}

// The product of a tile with a column: a warp, a lane for each row and chain. Of four columns chain
// 0 takes 2, then 0; chain 1 takes 3, then 1.
template <u32 FORMAT> __device__ void small_floats(const Op &op, u32 tile, u32 c) {
    const Matrix &w = op.w;
    u32 lane = threadIdx.x % 16, chain = threadIdx.x / 16 % 2, group_bytes = 16 * w.group;
    const float *x = op.inputs.f32 + (u64)c * op.inputs.groups * 64 + chain;
    const u8 *pair = w.tiles + (u64)tile * w.pairs * w.pair_bytes;
    float factor = FORMAT == LMUL ? 1.0f : grown<FORMAT>() * __uint_as_float((127u - 80) << 23),
          acc = 0.0f;
    for (u32 group = 0; group < 2 * w.pairs; group++) {
        const u32 *codes = (const u32 *)(pair + group % 2 * group_bytes) + lane;
        const u16 *scales = (const u16 *)(pair + 2 * group_bytes) + 16 * (group % 2);
        float sum = 0.0f;
#pragma unroll 4
        for (u32 i = 0; i < w.group / 4; i++, x += 4) {
            u32 word = __ldg(codes + 16 * i) >> 8 * chain;
            sum = sum + multiplied<FORMAT>(word >> 16 & 0xff, x[2]);
            sum = sum + multiplied<FORMAT>(word & 0xff, x[0]);
        }
        float other = __shfl_down_sync(~0u, sum, 16);
        acc = acc + (sum + other) * (half_to_float(__ldg(scales + lane)) * factor);
        if (group % 2) pair += w.pair_bytes;
    }
    if (chain == 0) op.y.first[(u64)c * op.y.stride + tile * 16 + lane] = acc;
}
