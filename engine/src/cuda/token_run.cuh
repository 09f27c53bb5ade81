// The kernel of one token: a block goes through its tasks, and waits for all others between them.
//
//   stage s      moves ──────────────► all here? ► moves of s + 1
//   copies       weights of s + 1 come near ─────► weights of s + 2 …

// Asks for what the stage behind `task` reads, and for its words, which lie behind it: a thread of
// each warp for some, since a warp's threads would ask one after the other.
__device__ __forceinline__ void fetch(const Task &task, const u8 *next, u8 *to, u32 words_bar,
                                      u32 weights_bar) {
#if __CUDA_ARCH__ >= 900
    u32 warp = threadIdx.x / 32;
    if (threadIdx.x % 32 != 0) return;
    if (warp == 1) {
        expect(words_bar, task.next_bytes);
        bring(near_address(to), next, task.next_bytes, words_bar);
        expect(weights_bar, task.near_bytes);
    }
    for (u32 i = (warp + THREADS / 32 - 2) % (THREADS / 32); i < task.fetches; i += THREADS / 32) {
        const Fetch f = *task.fetch(i);
        if (f.to == CACHE_ONLY)
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(f.from), "r"(f.bytes)
                         : "memory");
        else
            bring(near_address(room) + f.to, f.from, f.bytes, weights_bar);
    }
#endif
}

// The same where there is nothing that copies by itself: by all threads.
__device__ void fetch_words(const u8 *next, u8 *to, u32 bytes) {
    for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16)
        *(uint4 *)(to + i) = __ldg((const uint4 *)(next + i));
}

// Makes addresses of what is counted from the block's own memory or from the state.
__device__ void settle(u8 *task_at, u64 state) {
    const Task &task = *(const Task *)task_at;
    const u32 *places = (const u32 *)(task_at + task.places_at);
    for (u32 i = threadIdx.x; i < task.places; i += THREADS) {
        u32 at = places[i];
        *(u64 *)(task_at + (at & ~OF_STATE)) += at & OF_STATE ? state : (u64)room;
    }
#if __CUDA_ARCH__ >= 900
    // Copies will overwrite this.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __noinline__ void move_other(u32 at, const Pass *pass) {
    const OtherMove &o = *(const OtherMove *)(room + at);
    Pieces p;
    p.pass = *pass;
    p.of_pass = pass;
    p.beginnings = 0;
    p.from = p.first_run = 0;
    p.to = p.last_run = 1;
    p.piece = o.m.begin;
    p.last = o.m.end;
    p.pieces = o.m.n;
    // Operations that have no move of their own, or not for every format and size.
    switch (o.op.kind) {
    case EMBED: embed(o.op, p); break;
    case GATHER: gather(o.op, p); break;
    case PROJECT: float_products(o.op, p); break;
    case HEADS: heads(o.op, p); break;
    case SCAN: channels(o.op, p); break;
    case TURN: turn(o.op, p); break;
    case REMEMBER: remember(o.op, p); break;
    case ATTEND: attend(o.op, p); break;
    case EXACT: exact_rows(o.op, p); break;
    case CHOOSE: choose(o.op, p); break;
    case EXPERTS: experts(o.op, p); break;
    case PLACE: place(o.op, p); break;
    case BLOCKS: blocks(o.op, p); break;
    case SLOTS: slots(o.op, p); break;
    case SPIN: spin(o.op, p); break;
    case LEVELS: levels(o.op, p); break;
    case SPREAD: spread(o.op, p); break;
    case MESA: mesa(o.op, p); break;
    case CONV: conv_of_any(o.op, p); break;
    case PAST: past(o.op, p); break;
    case CELLS: cells(o.op, p); break;
    case NGRAMS: ngrams(o.op, p); break;
    case BEST: best(o.op, p); break;
    case HEAD_CONVS: head_convs(o.op, p); break;
    default: average(o.op, p); break;
    }
}

// How far a warp is in a task. It stands in the block's own memory: across a call the compiler
// would keep it in a thread's memory, which is 200 to 330 cycles away, since the block's own leaves
// the first cache nothing.
struct __align__(16) Way {
    // The move that comes, moves that are left, warps that moves beside each other have taken: the
    // next one has others.
    u32 at, left, spread;
    // Of products that run together the one that comes, and the first.
    u32 product, first;
    u32 unused[3];
};

// How far a block is: the stage, where its words lie, and the state.
struct __align__(16) Stages {
    u64 words, state;
    u32 stage;
};

__shared__ Way ways[THREADS / 32];
__shared__ Stages stages_of_block;

// Where the warp's way stands: found anew each time, so that nothing has to be kept for it.
__device__ __forceinline__ u32 way_at() {
    u32 thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return near_address(ways) + thread / 32 * (u32)sizeof(Way);
}

// The move that comes, those left, warps taken, the product that comes. All lanes are here before
// one reads, and have read before one writes.
__device__ __forceinline__ uint4 way() {
    uint4 way;
    __syncwarp();
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(way.x), "=r"(way.y), "=r"(way.z), "=r"(way.w)
                 : "r"(way_at())
                 : "memory");
    __syncwarp();
    return way;
}

__device__ __forceinline__ u32 first_product() {
    u32 first;
    asm volatile("ld.shared.u32 %0, [%1 + 16];" : "=r"(first) : "r"(way_at()) : "memory");
    return first;
}

// All lanes write the same.
__device__ __forceinline__ void set_way(u32 at, u32 left, u32 spread) {
    asm volatile("st.shared.v2.u32 [%0], {%1,%2};\n\tst.shared.u32 [%0 + 8], %3;" ::"r"(way_at()),
                 "r"(at), "r"(left), "r"(spread)
                 : "memory");
}

__device__ __forceinline__ void set_product(u32 product) {
    asm volatile("st.shared.u32 [%0 + 12], %1;" ::"r"(way_at()), "r"(product) : "memory");
}

__device__ __forceinline__ void set_first_product(u32 first) {
    asm volatile("st.shared.u32 [%0 + 16], %1;" ::"r"(way_at()), "r"(first) : "memory");
}

// The products of the moves that run together, from `first` to the move that comes.
__device__ __forceinline__ void run_products(u32 first) {
    set_first_product(first);
    set_product(first);
    while (true) {
        const uint4 here = way();
        if (here.w == here.x) break;
        set_product(here.w + (u32)sizeof(ProjectMove));
        parts_at(here.w);
    }
    __syncthreads();
    u32 of = first_product();
    rows_of(of, (way().x - of) / (u32)sizeof(ProjectMove));
}

// Moves are functions, so that the code of this loop is little.
__device__ __forceinline__ void run_moves(const Pass *pass) {
    while (true) {
        const uint4 own = way();
        u32 here = own.x, spread = own.z;
        if (own.y == 0) break;
        // All that a move says first, at once.
        const uint4 head = *(const uint4 *)(room + here);
        u32 kind = head.x & 0xff, flags = head.x >> 8 & 0xff, begin = head.y, end = head.z;
        u32 together = 1, taken = 0;
        if (kind == MOVE_PROJECT) together = ((const ProjectMove *)(room + here))->together;
        if (kind == MOVE_SUM) taken = (end - begin + 1) / 2;
        if (kind == MOVE_PACK) taken = warps_of_pack(here, begin, end);
        set_way(here + together * (head.x >> 16), own.y - together, spread + taken);
        if (flags & 1) {
#if __CUDA_ARCH__ >= 900
            asm volatile("cp.async.wait_all;" ::: "memory");
#endif
            __syncthreads();
        }
        switch (kind) {
        case MOVE_MAP: move_map(here, begin, end, head.w); break;
        case MOVE_SUM: move_sum(here, begin, end, head.w, spread); break;
        case MOVE_PACK: move_pack(here, begin, end, head.w, spread); break;
        case MOVE_NORM: move_norm(here); break;
        case MOVE_CONV: move_conv(here); break;
        case MOVE_COPY: move_copy(here, end); break;
        case MOVE_KEEP: move_keep(here); break;
        case MOVE_HEADS: move_heads(here); break;
        case MOVE_PROJECT: run_products(here); break;
        default: move_other(here, pass);
        }
    }
}

// `starts` has for each block where its first task lies, and its bytes. `tasks_at` is where in a
// block's own memory the two tasks lie.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    token(const u8 *words, const u64 *starts, const Pass *pass, u32 *arrived, u32 tasks_at,
          u32 task_room, u32 count, u64 *times) {
    __shared__ __align__(8) u64 bars[4];
    const u32 words_bars = near_address(bars), weights_bars = words_bars + 16;
    {
        const u8 *at = words + starts[2 * blockIdx.x];
        fetch_words(at, room + tasks_at, (u32)starts[2 * blockIdx.x + 1]);
        if (threadIdx.x == 0) stages_of_block = {(u64)at, (u64)pass->states[0], 0};
    }
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < 4; i++)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(words_bars + 8 * i)
                         : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        // The first stage has nothing brought: its turns are over.
        expect(words_bars, 0);
        expect(weights_bars, 0);
    }
#endif
    __syncthreads();
    while (true) {
        const volatile Stages &block = stages_of_block;
        u32 s = block.stage;
        if (s == count) break;
        u32 odd = s % 2, here = tasks_at + odd * task_room;
        u8 *other = room + tasks_at + (1 - odd) * task_room;
        const Task &task = *(const Task *)(room + here);
        const u8 *next = (const u8 *)block.words;
#if __CUDA_ARCH__ >= 900
        wait_near(words_bars + 8 * odd, s / 2 % 2);
#endif
        settle(room + here, block.state);
        next += task.bytes;
        set_way(here + task.moves_at, task.moves, 0);
        __syncthreads();
        if (threadIdx.x == 0) stages_of_block.stage = s + 1, stages_of_block.words = (u64)next;
        if (s + 1 < count)
            fetch(task, next, other, words_bars + 8 * (1 - odd), weights_bars + 8 * (1 - odd));
        if (s > 0 && threadIdx.x == 0) wait_for_all(arrived, s);
        __syncthreads();
        if (times && threadIdx.x == 0) times[2 * (s * gridDim.x + blockIdx.x)] = clock64();
#if __CUDA_ARCH__ >= 900
        // Vectors have come with the weights: whatever reads one finds it.
        wait_near(weights_bars + 8 * odd, s / 2 % 2);
#endif
        run_moves(pass);
        __syncthreads();
        s = block.stage;
        if (times && threadIdx.x == 0)
            times[2 * ((s - 1) * gridDim.x + blockIdx.x) + 1] = clock64();
        if (threadIdx.x == 0 && s < count) arrive(arrived);
#if __CUDA_ARCH__ < 900
        if (s < count) {
            const Task &done = *(const Task *)(room + tasks_at + (1 - s % 2) * task_room);
            fetch_words((const u8 *)block.words, room + tasks_at + s % 2 * task_room,
                        done.next_bytes);
        }
        __syncthreads();
#endif
    }
}
