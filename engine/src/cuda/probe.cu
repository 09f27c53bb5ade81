// The card's own limits: how fast it reads memory, how fast it multiplies 8-bit integers. Sums show
// the host that the work was done (`probe.rs`).

typedef unsigned int u32;
typedef unsigned long long u64;

// Loads of 16 bytes that a thread has under way.
#define LOADS 8
// Accumulators that do not wait for each other.
#define CHAINS 8

// Reads n words of 16 bytes so many times over, all threads side by side. Each thread leaves the
// sum of its words.
extern "C" __global__ void __launch_bounds__(1024)
read_all(const uint4 *from, u64 n, u64 times, u32 *out) {
    u64 all = (u64)gridDim.x * blockDim.x, me = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 sum = 0;
    for (u64 time = 0; time < times; time++) {
        u64 i = me;
        for (; i + (LOADS - 1) * all < n; i += LOADS * all) {
            uint4 x[LOADS];
#pragma unroll
            for (u32 j = 0; j < LOADS; j++) x[j] = __ldcs(from + i + j * all);
#pragma unroll
            for (u32 j = 0; j < LOADS; j++) sum += x[j].x + x[j].y + x[j].z + x[j].w;
        }
        for (; i < n; i += all) {
            uint4 x = __ldcs(from + i);
            sum += x.x + x.y + x.z + x.w;
        }
    }
    out[me] = sum;
}

// Cards of capability 7.5 have no such instruction, and some of them no tensor cores.
#if __CUDA_ARCH__ >= 800

__device__ inline void multiply_add(u32 c[4], const u32 a[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Each warp multiplies 16 × 32 by 32 × 8 values, CHAINS times in a round, and adds that up. Each
// thread leaves its last sum less that of the rounds' products found otherwise: zero.
extern "C" __global__ void __launch_bounds__(512) multiply(u64 rounds, u32 *out) {
    u32 me = blockIdx.x * blockDim.x + threadIdx.x;
    u32 a[4], b0 = 0x85ebca6bu * (me + 1), b1 = 0xc2b2ae35u * (me + 1);
    for (u32 i = 0; i < 4; i++) a[i] = 0x9e3779b1u * (4 * me + i + 1);
    u32 once[4] = {}, c[CHAINS][4] = {};
    multiply_add(once, a, b0, b1);
    for (u64 round = 0; round < rounds; round++) {
#pragma unroll
        for (u32 j = 0; j < CHAINS; j++) multiply_add(c[j], a, b0, b1);
    }
    u32 sum = 0;
    for (u32 i = 0; i < 4; i++) {
        for (u32 j = 0; j < CHAINS; j++) sum += c[j][i];
        sum -= CHAINS * (u32)rounds * once[i];
    }
    out[me] = sum;
}

#endif
