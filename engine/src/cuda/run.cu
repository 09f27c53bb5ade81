// The list of operations on a card: one kernel that goes through the stages of a pass.
//
// A block takes the prelude of a stage for itself, then every so-manieth piece of its chains.
// Started for one stage it ends there; started for all, cooperatively, blocks wait for each other
// between stages. Bits are those of the processor: see `math.cuh` and `product.cuh`.

#include "program.cuh"
#include "math.cuh"
#include "copies.cuh"
#include "rows.cuh"
#include "compiled.cuh"
#include "maps.cuh"
#include "fp8.cuh"
#include "product.cuh"
#include "tensor.cuh"
#include "norms.cuh"
#include "recurrence.cuh"
#include "span.cuh"
#include "attention.cuh"
#include "experts.cuh"
#include "place.cuh"
#include "past.cuh"
#include "chosen.cuh"
#include "cells.cuh"
#include "token.cuh"
#include "token_rows.cuh"
#include "token_product.cuh"
#include "token_heads.cuh"

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
    case HEADS:
#if __CUDA_ARCH__ >= 900
        if (is_span(op)) return span(op, p);
#endif
        heads(op, p);
        break;
    case SCAN: scan(op, p); break;
    case TURN: turn(op, p); break;
    case REMEMBER: remember(op, p); break;
    case ATTEND: attend(op, p); break;
    case EXACT: exact_rows(op, p); break;
    case CHOOSE: choose(op, p); break;
    case EXPERTS: experts(op, p); break;
    case FOLD: fold(op, p); break;
    case PLACE: place(op, p); break;
    case BLOCKS: blocks(op, p); break;
    case SLOTS: slots(op, p); break;
    case PAST: past(op, p); break;
    case CELLS: cells(op, p); break;
    case NGRAMS: ngrams(op, p); break;
    case BEST: best(op, p); break;
    case HEAD_CONVS: head_convs(op, p); break;
    default: average(op, p); break;
    }
}

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

__device__ inline bool is_serial(u32 kind) {
    return kind == SLOTS || kind == PAST || kind == NGRAMS || kind == CELLS || kind == FOLD ||
           kind == KEEP || kind == CONV || kind == HEADS || kind == SCAN || kind == AVERAGE;
}

// How a chain's pieces and columns are shared among blocks: ranges of so many pieces, times ranges
// of so many columns, or of what goes through a run's columns every run for itself.
struct Shares {
    u32 pieces, ranges, columns, all;

    __device__ Shares(const Stage &stage, const Chain &chain, const Pass &pass, u32 width) {
        const Op &op = stage.op(chain.first_op);
        pieces = 1;
        if (is_serial(op.kind)) {
            columns = 0;
            all = chain.pieces * pass.runs;
            ranges = chain.pieces;
            return;
        }
        if (op.kind == PROJECT) {
            columns = min(width, TOKENS);
            u32 tiles = (op.w.rows + 15) / 16 / chain.pieces;
            pieces = pieces_at_once(op.w, chain.pieces, max(tiles, 1), width);
        } else {
            // One share for each block: some columns of all pieces, or some pieces of a column.
            // Attention, whose columns are not alike, is shared more finely.
            u32 blocks = op.kind == ATTEND ? 8 * gridDim.x : gridDim.x;
            u32 each = (chain.pieces * width + blocks - 1) / blocks;
            pieces = min(each, chain.pieces);
            columns = min((each + pieces - 1) / pieces, width);
        }
        ranges = (chain.pieces + pieces - 1) / pieces;
        all = ranges * ((width + columns - 1) / columns);
    }
};

__device__ void run_stage(const Stage &stage, Pieces &p) {
    p.stage = &stage;
    u32 width = stage.is_wanted ? p.pass.wanted : p.pass.columns, all = 0;
    p.piece = 0;
    p.last = p.pieces = 1;
    p.from = p.first_run = 0;
    p.to = width;
    p.last_run = p.pass.runs;
    for (u32 i = 0; i < stage.preludes; i++) {
        operation(stage.op(i), p);
        __syncthreads();
    }
    // Chains one behind the other: the first block of one is that behind the last of the one
    // before.
    for (u32 j = 0; j < stage.chains; j++) {
        const Chain &chain = *stage.chain(j);
        Shares shares(stage, chain, p.pass, width);
        for (u32 at = (blockIdx.x + gridDim.x - all % gridDim.x) % gridDim.x; at < shares.all;
             at += gridDim.x) {
            u32 range = at % shares.ranges, turn = at / shares.ranges;
            p.piece = range * shares.pieces;
            p.last = min(p.piece + shares.pieces, chain.pieces);
            p.pieces = chain.pieces;
            if (shares.columns) {
                p.from = turn * shares.columns;
                p.to = min(p.from + shares.columns, width);
            } else {
                p.from = p.pass.spans[turn];
                p.to = p.pass.spans[turn + 1];
                p.first_run = turn;
                p.last_run = turn + 1;
            }
            for (u32 i = 0; i < chain.ops; i++) {
                operation(stage.op(chain.first_op + i), p);
                __syncthreads();
            }
        }
        all += shares.all;
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

#include "token_run.cuh"
