// How a stage's chains are shared among blocks: ranges of so many pieces, times ranges of so many
// columns, or of so many runs of what goes through a run's columns.
//
// Shares of all chains stand one behind the other, and blocks take them in turn: the first to the
// last block, then the last to the first, and so on. A stage is shared out before its block waits
// for others: half-warps take a chain each, threads a product.

// Chains and operations of a stage, at most: `STAGE_BYTES` has no room for more.
#define MOST_OPS (STAGE_BYTES / (u32)sizeof(Op))

struct Shares {
    // Pieces of a share, and ranges of pieces; columns of a share, or runs where there are none.
    u32 pieces, ranges, columns, runs;
    // All shares; this block's first, and whether blocks are taken from the last on there; what one
    // costs, if that is known.
    u32 all, first, is_back, cost;

    // From a block's share to its next one.
    static __device__ u32 behind(u32 is_back) {
        return 2 * (is_back ? blockIdx.x : gridDim.x - 1 - blockIdx.x) + 1;
    }

    __device__ void of(const Stage &stage, const Chain &chain, const Pass &pass, u32 width) {
        const Op *op = &stage.op(chain.first_op);
        for (u32 i = 1; i < chain.ops && op->kind != PROJECT; i++)
            if (stage.op(chain.first_op + i).kind == PROJECT) op = &stage.op(chain.first_op + i);
        columns = runs = cost = 0;
        u32 along = width, each = 0;
        if (is_serial(op->kind)) {
            along = pass.runs;
            runs = each = alike(chain.pieces, along);
        } else if (op->kind == PROJECT) {
            columns = each = min(width, TOKENS);
            u32 tiles = (op->w.rows + 15) / 16 / chain.pieces;
            u32 all = size_of_products(stage), own = product_size(op->w);
            u32 blocks = max((u32)((u64)gridDim.x * own / max(all, own)), 1);
            pieces = pieces_at_once(op->w, chain.pieces, max(tiles, 1), width, blocks, &cost);
        } else {
            // Attention, whose columns are not alike, is shared more finely.
            u32 blocks = op->kind == ATTEND ? 8 * gridDim.x : gridDim.x;
            u32 least = stage.chains > 1 ? fill(*op, chain.pieces) : 1;
            columns = each = some(chain.pieces, along, blocks, least);
        }
        ranges = (chain.pieces + pieces - 1) / pieces;
        all = ranges * ((along + each - 1) / each);
    }

    // What the products of a stage have to do: sixteen lanes add it up.
    __device__ static u32 size_of_products(const Stage &stage) {
        u32 ops = (stage.terms_at - stage.ops_at) / (u32)sizeof(Op), all = 0;
        for (u32 i = threadIdx.x % LANES; i < ops; i += LANES)
            if (stage.op(i).kind == PROJECT) all += product_size(stage.op(i).w);
        u32 lanes = 0xffffu << threadIdx.x / LANES % 2 * LANES;
        for (u32 other = LANES / 2; other > 0; other /= 2)
            all += __shfl_xor_sync(lanes, all, other);
        return all;
    }

    // Shares with which all blocks are through soonest, of work that is alike for each piece of a
    // run: sixteen lanes look at one share, two, … for each block.
    __device__ u32 alike(u32 n, u32 width) {
        u32 lane = threadIdx.x % LANES, blocks = gridDim.x * (lane + 1);
        u32 each = some(n, width, blocks, 1);
        u32 shares = (n + pieces - 1) / pieces * ((width + each - 1) / each);
        u32 rounds = (shares + gridDim.x - 1) / gridDim.x;
        // A share takes about half a piece to begin.
        u32 all = rounds * (2 * pieces * each + 1);
        u32 best = min(all, 0x07ffffffu) << 4 | lane;
        u32 lanes = 0xffffu << threadIdx.x / LANES % 2 * LANES;
        for (u32 other = LANES / 2; other > 0; other /= 2)
            best = min(best, __shfl_xor_sync(lanes, best, other));
        return some(n, width, gridDim.x * (best % 16 + 1), 1);
    }

    // One share for each of so many: some columns or runs of all pieces, or some pieces of one.
    __device__ u32 some(u32 n, u32 width, u32 blocks, u32 least) {
        u32 each = max((n * width + blocks - 1) / blocks, least);
        pieces = min(each, n);
        return min((each + pieces - 1) / pieces, width);
    }

    // Pieces of a column that give each thread of a block something to do: beside other chains
    // fewer would only let it wait more often.
    __device__ u32 fill(const Op &op, u32 pieces) {
        u32 threads = op.kind == MAP    ? op.rows / (op.is_by_four ? 4 : 1)
                      : op.kind == PACK ? (op.inputs.k + 63) / 64 * LANES
                      : op.kind == SUM  ? op.rows * LANES
                                        : THREADS * pieces;
        return max(THREADS * pieces / max(threads, 1), 1);
    }

    static __device__ bool is_serial(u32 kind) {
        return kind == SLOTS || kind == PAST || kind == NGRAMS || kind == CELLS || kind == FOLD ||
               kind == KEEP || kind == CONV || kind == HEADS || kind == SCAN || kind == AVERAGE ||
               kind == SPIN || kind == LEVELS || kind == MESA;
    }
};

__shared__ Shares shares[MOST_OPS];
#if __CUDA_ARCH__ >= 900
__shared__ Tensor tensors[MOST_OPS];
#endif

// By all threads of a block; the next barrier makes it known.
__device__ void share_out(const Stage &stage, const Pass &pass) {
    u32 width = stage.is_wanted ? pass.wanted : pass.columns;
    for (u32 j = threadIdx.x / LANES; j < stage.chains; j += THREADS / LANES) {
        Shares own;
        own.of(stage, *stage.chain(j), pass, width);
        if (threadIdx.x % LANES == 0) shares[j] = own;
    }
    __syncthreads();
    // Those that cost most come first, so that the last ones find blocks that had less.
    if (threadIdx.x < stage.chains) {
        u32 all = 0, cost = shares[threadIdx.x].cost;
        for (u32 j = 0; j < stage.chains; j++)
            if (shares[j].cost > cost || (shares[j].cost == cost && j < threadIdx.x))
                all += shares[j].all;
        u32 round = all / gridDim.x, at = all % gridDim.x;
        // Where this block stands in that round, or in the next one.
        u32 place = round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
        if (place < at) place = 2 * gridDim.x - 1 - place, round++;
        shares[threadIdx.x].first = place - at;
        shares[threadIdx.x].is_back = round % 2;
    }
#if __CUDA_ARCH__ >= 900
    u32 i = threadIdx.x - THREADS / 2;
    if (i >= MOST_OPS || i * sizeof(Op) >= stage.terms_at - stage.ops_at) return;
    const Op &op = stage.op(i);
    if (op.kind != PROJECT || !is_for_tensor_cores(op.w)) return;
    u32 j = 0;
    while (j + 1 < stage.chains && i >= stage.chain(j)->first_op + stage.chain(j)->ops) j++;
    u32 tiles = (op.w.rows + 15) / 16 / stage.chain(j)->pieces * shares[j].pieces;
    tensors[i].plan(op.w, max(tiles, 1), min(width, TOKENS));
#endif
}

__device__ void project(const Op &op, const Pieces &p) {
    u32 all = (op.w.rows + 15) / 16;
    u32 first = p.begin(all), end = p.end(all);
#if __CUDA_ARCH__ >= 900
    if (is_for_tensor_cores(op.w))
        return tensor_product(op, tensors[&op - &p.stage->op(0)], first, end, p.from, p.to);
#endif
    if (!is_integer(op.w.format)) return float_products(op, p);
    // So many tiles at once that each row has a thread.
    u32 most = THREADS / 16;
    for (u32 c = p.from; c < p.to; c++)
        for (u32 tile = first; tile < end; tile += most) {
            integers(op, tile, min(most, end - tile), c);
            __syncthreads();
        }
}
