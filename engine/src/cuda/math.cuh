// The functions of `kernels/math.rs`, in the same order of the same operations. The file is
// compiled without contraction, so that a multiplication and an addition are fused only where it
// says fma.

__device__ inline float bits_to_float(u32 bits) { return __uint_as_float(bits); }

__device__ __forceinline__ float exp_(float x) {
    float clamped = x > 88.37f ? 88.37f : x;
    clamped = clamped < -87.33f ? -87.33f : clamped;
    float shifted = clamped * 1.44269504088896340736f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = clamped - n * 0.6933594f - n * -2.1219444e-4f;
    float r2 = r * r;
    float a = 1.6666665e-1f * r + 0.5f;
    float b = 8.333452e-3f * r + 4.1665796e-2f;
    float c = 1.9875691e-4f * r + 1.3981999e-3f;
    float p = ((c * r2 + b) * r2 + a) * r2 + (r + 1.0f);
    float power = __uint_as_float((__float_as_uint(shifted) << 23) + (127u << 23));
    return x < -87.33f ? 0.0f : p * power;
}

__device__ inline float exp2_negative(float x) {
    x = x > -126.0f ? x : -126.0f;
    float shifted = x + 12582912.0f;
    float f = x - (shifted - 12582912.0f);
    float f2 = f * f;
    float a = fmaf(f, 6.931472e-1f, 1.0f);
    float b = fmaf(f, 5.5503326e-2f, 2.4022648e-1f);
    float c = fmaf(f, 1.3398875e-3f, 9.618437e-3f);
    float p = fmaf(fmaf(fmaf(f2, 1.5353362e-4f, c), f2, b), f2, a);
    return p * __uint_as_float((__float_as_uint(shifted) << 23) + (127u << 23));
}

__device__ inline float sigmoid_(float x) { return 1.0f / (1.0f + exp_(-x)); }

__device__ inline float silu_(float x) { return x / (1.0f + exp_(-x)); }

__device__ __noinline__ float tanh_(float x) {
    float z = x * x;
    float p = -5.7049887e-3f;
    p = p * z + 2.063909e-2f;
    p = p * z + -5.3739716e-2f;
    p = p * z + 1.3331442e-1f;
    p = p * z + -3.333328e-1f;
    float small = p * z * x + x;
    float a = fabsf(x);
    float large = copysignf(1.0f - 2.0f / (exp_(a + a) + 1.0f), x);
    return a < 0.625f ? small : large;
}

__device__ __noinline__ float softplus_(float x) {
    float t = exp_(-fabsf(x));
    float s = t / (2.0f + t);
    float z = s * s;
    float p = 1.0f / 15.0f;
    p = p * z + 1.0f / 13.0f;
    p = p * z + 1.0f / 11.0f;
    p = p * z + 1.0f / 9.0f;
    p = p * z + 1.0f / 7.0f;
    p = p * z + 1.0f / 5.0f;
    p = p * z + 1.0f / 3.0f;
    p = p * z + 1.0f;
    float positive = x > 0.0f ? x : 0.0f;
    return positive + (s + s) * p;
}

__device__ inline float ln_(float x) {
    u32 above = __float_as_uint(x) - 0x3f3504f3u;
    float n = (float)((int)above >> 23);
    float m = __uint_as_float((above & 0x007fffffu) + 0x3f3504f3u);
    float s = (m - 1.0f) / (m + 1.0f);
    float z = s * s;
    float p = 1.0f / 9.0f;
    p = p * z + 1.0f / 7.0f;
    p = p * z + 1.0f / 5.0f;
    p = p * z + 1.0f / 3.0f;
    float log = n * 0.6933594f + (n * -2.1219444e-4f + ((s + s) * z * p + (s + s)));
    return x != x ? x : log;
}

__device__ __noinline__ float ln_softplus_(float x) {
    float log = ln_(softplus_(x < -15.0f ? -15.0f : x));
    return x < -15.0f ? x : log;
}

__device__ inline float relu_squared_(float x) {
    float y = x > 0.0f ? x : 0.0f;
    return y * y;
}

__device__ __noinline__ float gelu_tanh_(float x) {
    return 0.5f * x * (1.0f + tanh_(0.7978846f * (x + 0.044715f * (x * x * x))));
}

__device__ inline float erf_(float x) {
    const float small_p[7] = {7.8538614e-5f, -8.010194e-4f, 5.1883276e-3f, -2.6853812e-2f,
                              1.1283585e-1f, -3.7612626e-1f, 1.12837916709551257390f};
    const float near_p[9] = {2.32682e-2f,   -1.3870394e-1f, 3.6874247e-1f,
                             -5.824733e-1f, 6.2100046e-1f,  -4.944515e-1f,
                             3.40488e-1f,   -2.741127e-1f,  5.6382594e-1f};
    const float far_p[8] = {-1.0477664e1f, 1.29772e1f, -7.4955187f, 2.921019f, -1.0152653f,
                            4.2184634e-1f, -2.8207673e-1f, 5.641895e-1f};
    float a = fabsf(x);
    float z = x * x, small = 0.0f, near = 0.0f, far = 0.0f;
    for (int i = 0; i < 7; i++) small = small * z + small_p[i];
    small = x * small;
    float q = 1.0f / (a < 1.0f ? 1.0f : a);
    z = q * q;
    for (int i = 0; i < 9; i++) near = near * z + near_p[i];
    for (int i = 0; i < 8; i++) far = far * z + far_p[i];
    float large = 1.0f - exp_(-a * a) * q * (a < 2.0f ? near : far);
    return a < 1.0f ? small : copysignf(large, x);
}

__device__ __noinline__ float gelu_(float x) {
    return 0.5f * x * (1.0f + erf_(x * 0.70710678118654752440f));
}

__device__ inline float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

// The nearest f16 that is kept in a state: ±65504 at most.
__device__ inline u16 float_to_kept(float x) {
    x = x > 65504.0f ? 65504.0f : x;
    x = x < -65504.0f ? -65504.0f : x;
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

// The nearest bf16's bits.
__device__ inline u16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if (x != x) return (u16)(bits >> 16) | 0x40;
    return (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A function of a formula.
__device__ inline float function(u32 f, float a, float b) {
    switch (f) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return a > b ? a : b;
    case 5: return a < b ? a : b;
    case 6: return -a;
    case 7: return sqrtf(a);
    case 8: return exp_(a);
    case 9: return tanh_(a);
    case 10: return sigmoid_(a);
    case 11: return silu_(a);
    case 12: return softplus_(a);
    case 13: return relu_squared_(a);
    case 14: return gelu_(a);
    case 15: return gelu_tanh_(a);
    default: return ln_softplus_(a);
    }
}
