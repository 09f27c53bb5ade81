// The choice of the next token by the card itself: the likeliest, as `sampler/rule.rs` has it. It goes
// to where the next pass reads its token, so that passes follow each other without the host.

#include "program.cuh"

#define THREADS 1024

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

// Chooses among n logits, which stand at a multiple of 16 bytes. `pass` is the one that has been: its
// only token becomes the one that is chosen, and none of its blocks has arrived.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
choose(const float *logits, u32 n, const Pass *pass, u32 *arrived, u32 *chosen) {
    __shared__ Best of_warps[32];
    Best best = {__int_as_float(0xff800000), 0};
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
    if (threadIdx.x >= 32) return;
    best = of_warps[threadIdx.x];
    best.add_lanes();
    if (threadIdx.x > 0) return;
    // Where no logit is above -∞ that is token 0, with which all began.
    *chosen = best.id;
    *(u32 *)pass->tokens = best.id;
    *arrived = 0;
}
