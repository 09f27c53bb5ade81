// Angles that grow as a text goes on, in doubles: the orders of operations are those of
// `kernels/rope.rs` and of `sin_cos` in `kernels/math.rs`.

__device__ inline float grown(float angle, float by) {
    const double tau = 6.283185307179586476925286766559;
    double next = (double)angle + (double)by;
    return (float)(next - tau * floor(next / tau));
}

struct SinCos {
    float sin, cos;
};

__device__ __noinline__ SinCos sin_cos(double x) {
    double quadrant = floor(x * 0.636619772367581343075535053490057448 + 0.5);
    double r = (x - quadrant * 1.5707963267341256) - quadrant * 6.077100506506192e-11;
    double r2 = r * r;
    double sin =
        r * (1.0 + r2 * (-1.0 / 6.0 +
                         r2 * (1.0 / 120.0 +
                               r2 * (-1.0 / 5040.0 + r2 * (1.0 / 362880.0 - r2 / 39916800.0)))));
    double cos =
        1.0 +
        r2 * (-0.5 +
              r2 * (1.0 / 24.0 + r2 * (-1.0 / 720.0 + r2 * (1.0 / 40320.0 - r2 / 3628800.0))));
    float s = (float)sin, c = (float)cos;
    switch ((long long)quadrant & 3) {
    case 0: return {s, c};
    case 1: return {c, -s};
    case 2: return {-s, -c};
    default: return {-c, s};
    }
}

// A thread goes through the columns of a run with the angle of a pair.
__device__ __noinline__ void spin(const Op &op, const Pieces &p) {
    u32 pairs = op.n_key, first = p.begin(op.rows), n = (p.end(op.rows) - first) * pairs;
    for (u32 at = threadIdx.x; at < n * p.runs(); at += THREADS) {
        u32 run = p.first_run + at / n, head = first + at % n / pairs, i = at % pairs;
        const float *state = (const float *)(p.pass.states[run] + 64ull * op.line[0]);
        float angle = state[head * op.n_value + op.over + i];
        for (u32 c = p.pass.spans[run]; c < p.pass.spans[run + 1]; c++) {
            float step = op.scale.first[(u64)c * op.scale.stride + head];
            angle = grown(angle, step * op.x.first[(u64)c * op.x.stride + i]);
            const SinCos of = sin_cos((double)angle);
            float *y = op.y.first + (u64)c * op.y.stride + 3 * head * pairs + i;
            y[0] = angle;
            y[pairs] = of.cos;
            y[2 * pairs] = of.sin;
        }
    }
}
