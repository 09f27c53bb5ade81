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

// Says that a block is here.
__device__ inline void arrive(u32 *arrived) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
}

// Waits until all blocks are here for the `turn`th time.
__device__ inline void wait_for_all(u32 *arrived, u32 turn) {
    u32 seen;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
    } while (seen < turn * gridDim.x);
}

// Asks for bytes that will be read soon.
__device__ __noinline__ void ahead(const void *first, u64 bytes) {
    const u8 *from = (const u8 *)first;
    for (u64 at = threadIdx.x * 128ull; at < bytes; at += THREADS * 128ull)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(from + at));
}

// Asks for the weights and states that a piece of an operation will read.
__device__ __noinline__ void ahead_of(const Op &op, const Pieces &p) {
    if (op.kind == PROJECT) {
        u32 all = (op.w.rows + 15) / 16, first = p.begin(all), n = p.end(all) - first;
        u64 tile_bytes = (u64)op.w.pairs * op.w.pair_bytes, scale_bytes = 32 + 32 * op.w.pairs;
        ahead(op.w.tiles + first * tile_bytes, n * tile_bytes);
        if (has_steps(op.w.format)) ahead(op.w.sheet + 64 + first * scale_bytes, n * scale_bytes);
    } else if (op.kind == HEADS) {
        u64 each = (u64)op.n_key * op.n_value * (op.is_half ? 2 : 4);
        u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
        for (u32 run = 0; run < p.pass.runs; run++)
            ahead(p.pass.states[run] + 64ull * op.line[0] + first * each, n * each);
    } else if (op.kind == LAYER_NORM || op.kind == RMS_NORM) {
        u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
        if (op.n_key == 0) ahead(op.weight + first, n * 4);
        if (op.bias) ahead(op.bias + first, n * 4);
    }
    u32 rows = op.kind == PACK ? op.inputs.k : op.rows, first = p.begin(rows), n = p.end(rows) - first;
    for (u32 i = 0; i < op.terms; i++) {
        const Term &t = p.stage->terms()[op.first_term + i];
        if (t.kind == 1 && t.each == 1) ahead(t.from + first, n * 4);
    }
}

// The piece `at` of all chains of a stage; its chain.
__device__ inline const Chain *piece_of(const Stage &stage, u32 at, Pieces &p) {
    const Chain *chain = stage.chain(0);
    while (at >= chain->pieces) {
        at -= chain->pieces;
        chain++;
    }
    p.piece = at;
    p.pieces = chain->pieces;
    return chain;
}

__device__ void run_stage(const Stage &stage, Pieces &p) {
    p.stage = &stage;
    p.columns = stage.is_wanted ? p.pass.wanted : p.pass.columns;
    p.piece = 0;
    p.pieces = 1;
    for (u32 i = 0; i < stage.preludes; i++) {
        operation(stage.op(i), p);
        __syncthreads();
    }
    for (u32 at = blockIdx.x; at < stage.pieces; at += gridDim.x) {
        const Chain *chain = piece_of(stage, at, p);
        for (u32 i = 0; i < chain->ops; i++) {
            const Op *ops = &stage.op(chain->first_op + i);
            // Products in a row need nothing of each other: none reads what another writes.
            u32 n = 0;
            while (i + n < chain->ops && is_integer(ops[n])) n++;
            if (n > 1 && projects(ops, n, p)) {
                i += n - 1;
                continue;
            }
            operation(*ops, p);
            __syncthreads();
        }
    }
}

// Asks for what this block will read of a stage.
__device__ void ahead_of_stage(const Stage &stage, Pieces &p) {
    p.stage = &stage;
    p.piece = 0;
    p.pieces = 1;
    for (u32 i = 0; i < stage.preludes; i++) ahead_of(stage.op(i), p);
    for (u32 at = blockIdx.x; at < stage.pieces; at += gridDim.x) {
        const Chain *chain = piece_of(stage, at, p);
        for (u32 i = 0; i < chain->ops; i++) ahead_of(stage.op(chain->first_op + i), p);
    }
}

// `count` stages, of which the first lies at `at` and has so many bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
run(const u8 *stages, const Pass *pass, u32 *arrived, u32 at, u32 bytes, u32 count) {
    Pieces p;
    p.pass = *pass;
    p.of_pass = pass;
    for (u32 s = 0; s < count; s++) {
        u8 *here = room + ROOM + s % 2 * STAGE_BYTES;
        for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16)
            *(uint4 *)(here + i) = __ldg((const uint4 *)(stages + at + i));
        __syncthreads();
        const Stage &stage = *(const Stage *)here;
        if (s > 0) {
            // While others come, what this block needs of its stage.
            ahead_of_stage(stage, p);
            if (threadIdx.x == 0) wait_for_all(arrived, s);
            __syncthreads();
        }
        run_stage(stage, p);
        // All threads of the block are here: the last operation ended with that.
        if (threadIdx.x == 0 && s + 1 < count) arrive(arrived);
        at = stage.next_at;
        bytes = stage.next_bytes;
    }
}
