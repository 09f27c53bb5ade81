// The ring of a product on tensor cores: tiles and tokens come by copies that the card makes by
// itself, a few groups of 64 columns at a time: while warps multiply one turn of it, the next ones
// are on their way.
//
//   turn   tiles × codes of the groups · tiles × their scales · groups × eights of activations
//
// Warps go through turns each at its own pace. Behind a turn some of them ask for what comes into
// the place of the one before, which by then all have left.

// The ring, and its turns at most.
#define RING_BYTES (120 << 10)
#define TURNS_AHEAD 8

#if __CUDA_ARCH__ >= 900

// Tiles that a block takes at once, at most: a warp each.
#define MOST_TILES 16

// Eights that a warp may read behind the last of a turn, and does nothing with.
#define SPARE_BYTES (3 * (u32)sizeof(Eight))

// How a turn of the ring is laid out.
struct Turn {
    // Groups of a turn; bytes of a group: of a tile's codes and scales.
    u32 groups, codes, scales;
    // Bytes of a turn's tile, where scales and eights begin, and all of it; turns of the ring.
    u32 code_bytes, scale_bytes, scales_at, eights_at, bytes, ahead;

    __device__ Turn() {}

    // So many groups; those of a pair of the matrix's groups stay together.
    __device__ Turn(const Matrix &w, u32 tiles, u32 eights, u32 n) {
        groups = n;
        codes = 32 * w.pair_bytes / w.group;
        scales = has_steps(w.format) ? 32 : 0;
        code_bytes = n * codes;
        scale_bytes = n * scales;
        scales_at = tiles * code_bytes;
        eights_at = scales_at + tiles * scale_bytes;
        bytes = (eights_at + n * eights * (u32)sizeof(Eight) + 127) / 128 * 128;
        ahead = min((RING_BYTES - SPARE_BYTES) / bytes, TURNS_AHEAD);
    }
};

// How a product of a share is made: found once for each stage, before its blocks have come.
struct Tensor {
    Turn turn;
    // Tiles at once; groups of a row, turns of it, and groups of the last.
    u32 at_once, groups, count, last;

    // With a share of so many tiles and columns. As many tiles at once as let some turns be on
    // their way, and turns as long as let four.
    __device__ void plan(const Matrix &w, u32 tiles, u32 columns) {
        u32 eights = eights_of(columns), least = max(w.group / 32, 2);
        for (at_once = min(tiles, MOST_TILES);; at_once /= 2) {
            turn = Turn(w, at_once, eights, least);
            if (at_once == 1 || turn.ahead >= 3) break;
        }
        for (u32 n = 2 * least; n <= 16; n *= 2) {
            Turn longer(w, at_once, eights, n);
            if (longer.ahead < 4) break;
            turn = longer;
        }
        groups = (w.pairs * 2 * w.group + 63) / 64;
        count = (groups + turn.groups - 1) / turn.groups;
        last = groups - (count - 1) * turn.groups;
    }

    __device__ static u8 *turns() { return room + ROOM + 2 * STAGE_BYTES; }

    // The groups of turn `i`.
    __device__ u32 of(u32 i) const { return i + 1 < count ? turn.groups : last; }
};

// A turn's place in the ring, one after the other.
struct RingPlace {
    u32 at, phase;

    __device__ __forceinline__ void next(u32 ahead) {
        if (++at == ahead) at = 0, phase ^= 1;
    }
};

// What is asked for in every turn: so many bytes of each group, from where on, and where they go.
struct Request {
    const u8 *from;
    u32 to, bytes;
};

// What a product asks for in a turn, at most: eights, each tile's codes and scales.
#define REQUESTS (1 + 2 * MOST_TILES)
// Warps that ask for a turn, one copy of a warp after the other: each four of them in turn.
#define ASKING 4

// The ring of a product: what a turn asks for, and where it comes.
struct Ring {
    Request requests[REQUESTS];
    // Of each place that its turn has come, and that its warps have left it.
    u64 full[TURNS_AHEAD], empty[TURNS_AHEAD];
    // Requests, what a group of all of them has, and warps that go through turns.
    u32 n, group_bytes, warps;

    // By all threads of a block; behind it the first turns are asked for.
    __device__ __forceinline__ void begin(const Op &op, const Tensor &plan, u32 first_tile,
                                          u32 tiles, u32 c0, u32 eights, u32 n_warps) {
        const Matrix &w = op.w;
        const Turn &turn = plan.turn;
        u32 i = threadIdx.x, of_eights = eights * (u32)sizeof(Eight);
        if (i == 0) {
            requests[i] = {(const u8 *)eights_at(op, c0 / TOKENS), turn.eights_at, of_eights};
            n = 1 + (turn.scales ? 2 : 1) * tiles;
            group_bytes = tiles * (turn.codes + turn.scales) + of_eights;
            warps = n_warps;
        } else if (i <= tiles) {
            u32 tile = i - 1;
            requests[i] = {w.tiles + (u64)(first_tile + tile) * w.pairs * w.pair_bytes,
                           tile * turn.code_bytes, turn.codes};
        } else if (i <= 2 * tiles) {
            u32 tile = i - 1 - tiles;
            requests[i] = {w.sheet + 96 + (u64)(first_tile + tile) * (32 + 32 * w.pairs),
                           turn.scales_at + tile * turn.scale_bytes, turn.scales};
        }
        if (i < turn.ahead) {
            set_up(bar(full, i), 1);
            set_up(bar(empty, i), n_warps);
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        }
        // What others have written is there for copies, too.
        asm volatile("fence.proxy.async;" ::: "memory");
        __syncthreads();
        if (threadIdx.x / 32 >= n_warps) return;
        for (u32 i = threadIdx.x / 32 / ASKING; i < turn.ahead; i += askers()) ask(plan, i, i);
    }

    // Fours of warps that ask.
    __device__ __forceinline__ u32 askers() const { return (warps + ASKING - 1) / ASKING; }

    __device__ __forceinline__ static u32 bar(const u64 *of, u32 place) {
        return near_address(of + place);
    }

    // Waits until a turn has come.
    __device__ __forceinline__ void wait(RingPlace at) const {
        wait_near(bar(full, at.at), at.phase);
    }

    // Four warps ask for turn `i`, if there is one.
    __device__ __forceinline__ void ask(const Tensor &plan, u32 i, u32 place) const {
        if (i >= plan.count) return;
        u32 warp = threadIdx.x / 32, begin = warp / ASKING * ASKING;
        u32 each = min(warps - begin, ASKING), first = i * plan.turn.groups, groups = plan.of(i);
        u32 to = near_address(plan.turns()) + place * plan.turn.bytes, at = bar(full, place);
        if (threadIdx.x == begin * 32) expect(at, groups * group_bytes);
        for (u32 j = threadIdx.x % 32 * each + warp - begin; j < n; j += 32 * each) {
            const Request &of = requests[j];
            bring(to + of.to, of.from + first * of.bytes, groups * of.bytes, at);
        }
    }

    // A warp has read a turn.
    __device__ __forceinline__ void leave(RingPlace here) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) arrive_near(bar(empty, here.at));
    }

    // Asks for what comes into the place of the turn before, `i`, when all warps have left that:
    // most have long since.
    __device__ __forceinline__ void ask_behind(const Tensor &plan, u32 i, RingPlace before) const {
        if (i + plan.turn.ahead >= plan.count) return;
        wait_near(bar(empty, before.at), before.phase);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        ask(plan, i + plan.turn.ahead, before.at);
    }

    // By all threads of a block, which are through with all turns.
    __device__ __forceinline__ void end(const Tensor &plan) const {
        __syncthreads();
        if (threadIdx.x >= plan.turn.ahead) return;
        take_down(bar(full, threadIdx.x));
        take_down(bar(empty, threadIdx.x));
    }
};

// That of the product that a block is at.
__shared__ Ring ring;

#endif
