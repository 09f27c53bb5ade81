// The choice of the next token by the card itself, as `sampler/rule.rs` has it: the likeliest, or
// one that is drawn. It goes to where the next pass reads its token, so that passes follow each
// other without the host. One block.

#include "program.cuh"
#include "math.cuh"

#define THREADS 1024

#include "draw.cuh"

#define NO_LOGIT __int_as_float(0xff800000)
// No logit is above -∞: the host takes token 0, and draws nothing.
#define NOTHING ~0u

// `pass` is the one that has been: its only token becomes the one that is chosen, and none of its
// blocks has arrived.
__device__ inline void put(u32 token, const Pass *pass, u32 *arrived, u32 *chosen) {
    if (threadIdx.x > 0) return;
    *chosen = token;
    *(u32 *)pass->tokens = token == NOTHING ? 0 : token;
    *arrived = 0;
}

struct Best {
    float logit;
    u32 id;

    // A NaN is larger than nothing. Of equal logits the lower id.
    __device__ void add(float other, u32 other_id) {
        if (other > logit || (other == logit && other_id < id)) {
            logit = other;
            id = other_id;
        }
    }

    __device__ void add_lanes() {
        for (u32 away = 16; away > 0; away /= 2) {
            float other = __shfl_down_sync(~0u, logit, away);
            u32 other_id = __shfl_down_sync(~0u, id, away);
            add(other, other_id);
        }
    }
};

// The likeliest of n logits, which stand at a multiple of 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
choose(const float *logits, u32 n, const Pass *pass, u32 *arrived, u32 *chosen) {
    __shared__ Best of_warps[THREADS / 32];
    Best best = {NO_LOGIT, NOTHING};
    u32 whole = n / 4;
    for (u32 i = threadIdx.x; i < whole; i += THREADS) {
        float4 x = ((const float4 *)logits)[i];
        best.add(x.x, 4 * i);
        best.add(x.y, 4 * i + 1);
        best.add(x.z, 4 * i + 2);
        best.add(x.w, 4 * i + 3);
    }
    u32 rest = 4 * whole + threadIdx.x;
    if (rest < n) best.add(logits[rest], rest);
    best.add_lanes();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 warp = 1; warp < THREADS / 32; warp++)
        best.add(of_warps[warp].logit, of_warps[warp].id);
    put(best.logit == NO_LOGIT ? NOTHING : best.id, pass, arrived, chosen);
}

// One of n logits by a rule, at the share `u`. `space` is for so many candidates.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
draw_one(const float *logits, u32 n, const Pass *pass, u32 *arrived, u32 *chosen, u8 *space,
         double u, float temperature, float later, u32 at_least, u32 top_k, float top_p,
         float min_p, u32 steps) {
    Candidates c;
    c.masses = (double *)space;
    c.weights = (float *)(c.masses + (n + CHUNK - 1) / CHUNK);
    c.ids = (u32 *)(c.weights + n);
    float max = largest(logits, n);
    u32 token = NOTHING;
    Rule rule = {temperature, later, at_least, top_k, top_p, min_p, steps};
    if (max > NO_LOGIT) token = draw(logits, n, max, rule, u, c);
    put(token, pass, arrived, chosen);
}
