// The ring of a product on tensor cores: tiles and tokens come by copies that the card makes by
// itself, a few groups of 64 columns at a time: while warps multiply one turn of it, the next ones
// are on their way.
//
//   turn   tiles × codes of the groups · tiles × their scales · eights × groups of activations
//
// What is made of a turn stands before the ring: decoded tiles, or sums with their scales.

#define TOKENS 64
// The ring with what is made of its tiles, and its turns at most.
#define RING_BYTES (88 << 10)
#define TURNS_AHEAD 8

#if __CUDA_ARCH__ >= 900

// 16 rows × 64 columns as the tensor cores take them: both halves' A by lanes, then the scales of
// rows g and g + 8, each of the first half and of the second.
struct Decoded {
    uint4 a[2][32];
    float4 by[8];
};

// Eights of tokens that are few, and tiles that go with one of them at once: each thread adds up so
// many rows of tokens.
#define FEW_EIGHTS 2
#define FEW_TILES 8
#define FEW_VALUES (FEW_TILES * 128 / THREADS)
// Groups of tiles and eights of a turn, at most.
#define FEW_GROUPS 32

// How a turn of the ring is laid out.
struct Turn {
    // Groups of a turn, and 2¹⁶ / that, rounded up; bytes of a group: of a tile's codes and scales.
    u32 groups, inverse, codes, scales;
    // Bytes of a turn's tile and eight, where they begin, and all of it.
    u32 code_bytes, scale_bytes, eight_bytes, scales_at, eights_at, bytes;
    // Turns that the ring holds beside what is made of each, so many bytes a group.
    u32 ahead;

    __device__ Turn() {}

    // So many groups; those of a pair of the matrix's groups stay together.
    __device__ Turn(const Matrix &w, u32 tiles, u32 eights, u32 n, u32 beside) {
        groups = n;
        inverse = (1u << 16) / n + 1;
        codes = 32 * w.pair_bytes / w.group;
        scales = has_steps(w.format) ? 32 : 0;
        code_bytes = n * codes;
        scale_bytes = n * scales;
        eight_bytes = n * (u32)sizeof(Eight);
        scales_at = tiles * code_bytes;
        eights_at = scales_at + tiles * scale_bytes;
        bytes = (eights_at + eights * eight_bytes + 127) / 128 * 128;
        u32 used = n * beside;
        ahead = used < RING_BYTES ? min((RING_BYTES - used) / bytes, TURNS_AHEAD) : 0;
    }
};

// How a product of a share is made: found once for each stage, before its blocks have come.
struct Tensor {
    Turn turn;
    // Tiles at once; eights, and the places that they have; groups of a row, and turns of it.
    u32 at_once, eights, places, groups, count;
    // Bytes of a group beside the ring: decoded tiles, or what was found.
    u32 beside;

    // With a share of so many tiles and columns. As many tiles at once as let some turns be on
    // their way, and turns as long as let four.
    __device__ void plan(const Matrix &w, u32 tiles, u32 columns) {
        eights = (min(columns, TOKENS) + 7) / 8;
        places = is_few() ? eights : eights <= 4 ? 4 : 8;
        // With more no warp could take all tokens of a tile.
        at_once = min(tiles, is_few() ? FEW_TILES / eights : 64 / places);
        u32 least = max(w.group / 32, 2);
        for (;; at_once /= 2) {
            beside = at_once * (is_few() ? eights * 2 * 128 * 8 : 2 * (u32)sizeof(Decoded));
            turn = Turn(w, at_once, places, least, beside);
            if (at_once == 1 || turn.ahead >= 3) break;
        }
        u32 most = is_few() ? min(FEW_GROUPS / (at_once * eights), 16) : 8;
        for (u32 n = 2 * least; n <= most; n *= 2) {
            Turn longer(w, at_once, places, n, beside);
            if (longer.ahead < 4) break;
            turn = longer;
        }
        groups = (w.pairs * 2 * w.group + 63) / 64;
        count = (groups + turn.groups - 1) / turn.groups;
    }

    __device__ bool is_few() const { return eights <= FEW_EIGHTS; }
};

// What a thread asks for in every turn: eight tokens, or a tile's codes or scales; one says how
// much.
struct Request {
    const u8 *from;
    u32 to, group_bytes, bar_bytes;

    __device__ Request(const Op &op, const Turn &turn, u32 tile, u32 tiles, u32 c0, u32 eights) {
        const Matrix &w = op.w;
        // Each warp asks for some: its threads do so one after the other.
        u32 thread = threadIdx.x % 32 * (THREADS / 32) + threadIdx.x / 32;
        from = 0;
        to = group_bytes = bar_bytes = 0;
        if (thread < eights) {
            from = (const u8 *)(op.eights + (u64)(c0 / 8 + thread) * op.inputs.groups);
            to = turn.eights_at + thread * turn.eight_bytes;
            group_bytes = sizeof(Eight);
        } else if (thread < eights + tiles) {
            u32 mine = thread - eights;
            from = w.tiles + (u64)(tile + mine) * w.pairs * w.pair_bytes;
            to = mine * turn.code_bytes;
            group_bytes = turn.codes;
        } else if (turn.scales && thread < eights + 2 * tiles) {
            u32 mine = thread - eights - tiles;
            from = w.sheet + 96 + (u64)(tile + mine) * (32 + 32 * w.pairs);
            to = turn.scales_at + mine * turn.scale_bytes;
            group_bytes = turn.scales;
        } else if (thread == THREADS - 1) {
            bar_bytes = tiles * (turn.codes + turn.scales) + eights * (u32)sizeof(Eight);
        }
    }

    // Groups from `first` on, so many, to a place of the ring.
    __device__ __forceinline__ void ask(u32 first, u32 n, u32 place, u32 bar) const {
        if (group_bytes) bring(place + to, from + first * group_bytes, n * group_bytes, bar);
        if (bar_bytes) expect(bar, n * bar_bytes);
    }
};

// The ring of a product: what a block's threads ask for, and where it comes.
struct Ring {
    const Turn turn;
    const Request request;
    u32 count, groups, at, bars;

    // Asks for the first turns.
    __device__ __forceinline__ Ring(const Op &op, const Tensor &plan, u32 first_tile, u32 tiles,
                                    u32 c0, u32 eights, u64 *bars_at)
        : turn(plan.turn), request(op, plan.turn, first_tile, tiles, c0, eights),
          count(plan.count), groups(plan.groups) {
        at = near_address(room + ROOM + 2 * STAGE_BYTES) + turn.groups * plan.beside;
        bars = near_address(bars_at);
        // What others have written is there for copies, too.
        asm volatile("fence.proxy.async;" ::: "memory");
        if (threadIdx.x == 0) {
            for (u32 i = 0; i < turn.ahead; i++)
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bars + 8 * i)
                             : "memory");
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        }
        __syncthreads();
        for (u32 i = 0; i < turn.ahead; i++) ask(i, i);
    }

    // The groups of turn `i`.
    __device__ __forceinline__ u32 of(u32 i) const {
        return min(turn.groups, groups - i * turn.groups);
    }

    __device__ __forceinline__ void ask(u32 i, u32 place) const {
        if (i < count)
            request.ask(i * turn.groups, of(i), at + place * turn.bytes, bars + 8 * place);
    }

    // Behind a barrier of the block: all turns have come.
    __device__ __forceinline__ void end() const {
        if (threadIdx.x == 0)
            for (u32 i = 0; i < turn.ahead; i++)
                asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(bars + 8 * i) : "memory");
    }
};

// A turn's place in the ring, one after the other.
struct RingPlace {
    u32 at, phase;

    __device__ __forceinline__ void next(u32 ahead) {
        if (++at == ahead) at = 0, phase ^= 1;
    }
};

#endif
