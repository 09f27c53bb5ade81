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
#include "ring.cuh"
#include "tensor.cuh"
#include "shares.cuh"
#include "norms.cuh"
#include "recurrence.cuh"
#include "span_value.cuh"
#include "span.cuh"
#include "attention.cuh"
#include "experts.cuh"
#include "place.cuh"
#include "spin.cuh"
#include "levels.cuh"
#include "mesa.cuh"
#include "past.cuh"
#include "chosen.cuh"
#include "cells.cuh"
#include "token.cuh"
#include "token_rows.cuh"
#include "token_packs.cuh"
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
    case SPIN: spin(op, p); break;
    case LEVELS: levels(op, p); break;
    case SPREAD: spread(op, p); break;
    case MESA: mesa(op, p); break;
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

// `p` is the block's: one thread writes it.
__device__ void run_stage(const Stage &stage, Pieces &p) {
    u32 width = stage.is_wanted ? p.pass.wanted : p.pass.columns;
    bool is_first = threadIdx.x == 0;
    if (is_first) {
        p.stage = &stage;
        p.piece = 0;
        p.last = p.pieces = 1;
        p.from = p.first_run = 0;
        p.to = width;
        p.last_run = p.pass.runs;
    }
    __syncthreads();
    for (u32 i = 0; i < stage.preludes; i++) {
        operation(stage.op(i), p);
        __syncthreads();
    }
    for (u32 j = 0; j < stage.chains; j++) {
        const Chain &chain = *stage.chain(j);
        const Shares &own = shares[j];
        u32 is_back = own.is_back;
        for (u32 at = own.first; at < own.all; at += own.behind(is_back), is_back ^= 1) {
            u32 turn = at / own.ranges, range = at - turn * own.ranges;
            if (is_first) {
                p.piece = range * own.pieces;
                p.last = min(p.piece + own.pieces, chain.pieces);
                p.pieces = chain.pieces;
                if (own.columns) {
                    p.from = turn * own.columns;
                    p.to = min(p.from + own.columns, width);
                } else {
                    p.first_run = turn * own.runs;
                    p.last_run = min(p.first_run + own.runs, p.pass.runs);
                    p.from = p.pass.spans[p.first_run];
                    p.to = p.pass.spans[p.last_run];
                }
            }
            __syncthreads();
            for (u32 i = 0; i < chain.ops; i++) {
                operation(stage.op(chain.first_op + i), p);
                __syncthreads();
            }
        }
    }
}

// Columns that a block knows the beginnings of, at most: cards of capability 7.5 have 64 KB a
// block, of which `room` leaves 2.
#if __CUDA_ARCH__ >= 900
#define BEGINNINGS 512
#else
#define BEGINNINGS 32
#endif

// `count` stages, of which the first lies at `at` and has so many bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
run(const u8 *stages, const Pass *pass, u32 *arrived, u32 at, u32 bytes, u32 count) {
    // What all threads of a block know alike is near: their own memory is far away, since the ring
    // leaves the cache little.
    __shared__ Pieces p;
    __shared__ u64 beginnings[BEGINNINGS];
    if (threadIdx.x == 0) {
        p.pass = *pass;
        p.of_pass = pass;
        p.beginnings = pass->columns <= BEGINNINGS ? beginnings : 0;
    }
    for (u32 c = threadIdx.x; c < min(pass->columns, BEGINNINGS); c += THREADS) {
        u32 of = pass->run_of[c];
        beginnings[c] = pass->spans[of] == c ? (u64)pass->states[of] : 0;
    }
    for (u32 s = 0; s < count; s++) {
        u8 *here = room + ROOM + s % 2 * STAGE_BYTES;
        for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16)
            *(uint4 *)(here + i) = __ldg((const uint4 *)(stages + at + i));
        __syncthreads();
        const Stage &stage = *(const Stage *)here;
        share_out(stage, p.pass);
        if (s > 0 && threadIdx.x == 0) wait_for_all(arrived, s);
        __syncthreads();
        run_stage(stage, p);
        // All threads of the block are here: the last operation ended with that.
        if (threadIdx.x == 0 && s + 1 < count) arrive(arrived);
        at = stage.next_at;
        bytes = stage.next_bytes;
    }
}

#include "token_run.cuh"
