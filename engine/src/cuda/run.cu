// The list of operations on a card: one kernel that goes through the stages of a pass.
//
// A block takes the prelude of a stage for itself, then every so-manieth piece of its chains. Started
// for one stage it ends there; started for all, cooperatively, blocks wait for each other between
// stages. Bits are those of the processor: see `math.cuh` and `product.cuh`.

#include "program.cuh"
#include "math.cuh"
#include "rows.cuh"
#include "product.cuh"
#include "recurrence.cuh"

__device__ __noinline__ void operation(const Op &op, const Pieces &p) {
    switch (op.kind) {
    case EMBED: embed(op, p); break;
    case GATHER: gather(op, p); break;
    case MAP: map(op, p); break;
    case SUM: sum(op, p); break;
    case LAYER_NORM:
    case RMS_NORM: norm(op, p); break;
    case PACK: pack(op, p); break;
    case PROJECT: project(op, p); break;
    case KEEP: keep(op, p); break;
    case CONV: conv(op, p); break;
    case HEADS: heads(op, p); break;
    case SCAN: scan(op, p); break;
    default: average(op, p); break;
    }
}

__device__ inline bool is_integer(const Op &op) { return op.kind == PROJECT && op.w.format >= INT8; }

// Waits until all blocks are here for the `turn`th time.
__device__ void wait_for_all(u32 *arrived, u32 turn) {
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
        u32 seen;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
        } while (seen < turn * gridDim.x);
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
run(const Program program, const Pass *pass, u32 *arrived, u32 first_stage, u32 end_stage) {
    Pieces p;
    p.pass = *pass;
    p.of_pass = pass;
    p.program = &program;
    for (u32 s = first_stage; s < end_stage; s++) {
        const Stage stage = program.stages[s];
        p.columns = stage.is_wanted ? p.pass.wanted : p.pass.columns;
        p.piece = 0;
        p.pieces = 1;
        for (u32 i = 0; i < stage.preludes; i++) {
            operation(program.ops[program.order[stage.first_prelude + i]], p);
            __syncthreads();
        }
        for (u32 at = blockIdx.x; at < stage.pieces; at += gridDim.x) {
            const Chain *chain = program.chains + stage.first_chain;
            p.piece = at;
            while (p.piece >= chain->pieces) {
                p.piece -= chain->pieces;
                chain++;
            }
            p.pieces = chain->pieces;
            const u32 *order = program.order + chain->first_op;
            for (u32 i = 0; i < chain->ops; i++) {
                // Products in a row need nothing of each other: none reads what another writes.
                u32 n = 0;
                while (i + n < chain->ops && is_integer(program.ops[order[i + n]])) n++;
                if (n > 1 && projects(program, order + i, n, p)) {
                    i += n - 1;
                    continue;
                }
                operation(program.ops[order[i]], p);
                __syncthreads();
            }
        }
        if (s + 1 < end_stage) wait_for_all(arrived, s + 1 - first_stage);
    }
}
