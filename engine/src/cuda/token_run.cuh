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

// Moves are functions, so that nothing of this loop is kept in memory while they run: what a block
// has there is far away after every barrier.
__device__ __forceinline__ void run_task(u32 task_at, const Pass *pass, u32 weights_bar,
                                         u32 phase) {
    const Task &task = *(const Task *)(room + task_at);
    // Warps that moves beside each other have taken: the next one has others.
    u32 at = task_at + task.moves_at, spread = 0;
#if __CUDA_ARCH__ >= 900
    // Vectors have come with the weights: whatever reads one finds it.
    wait_near(weights_bar, phase);
#endif
#pragma unroll 1
    for (u32 i = 0; i < task.moves; i++) {
        // All that a move says first, at once.
        const uint4 head = *(const uint4 *)(room + at);
        u32 kind = head.x & 0xff, flags = head.x >> 8 & 0xff, begin = head.y, end = head.z;
        if (flags & 1) {
#if __CUDA_ARCH__ >= 900
            asm volatile("cp.async.wait_all;" ::: "memory");
#endif
            __syncthreads();
        }
        u32 here = at;
        at += head.x >> 16;
        switch (kind) {
        case MOVE_MAP: move_map(here, begin, end, head.w); break;
        case MOVE_SUM:
            move_sum(here, begin, end, head.w, spread);
            spread += (end - begin + 1) / 2;
            break;
        case MOVE_PACK:
            move_pack(here, begin, end, head.w, spread);
            spread += end - begin;
            break;
        case MOVE_NORM: move_norm(here); break;
        case MOVE_CONV: move_conv(here); break;
        case MOVE_COPY: move_copy(here, end); break;
        case MOVE_KEEP: move_keep(here); break;
        case MOVE_HEADS: move_heads(here); break;
        case MOVE_PROJECT: {
            u32 together = move_project(here);
            i += together - 1;
            at = here + together * (u32)sizeof(ProjectMove);
            break;
        }
        default: move_other(here, pass);
        }
    }
}

// `starts` has for each block where its first task lies, and its bytes. `places` are where in a
// block's own memory the two tasks lie.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    token(const u8 *words, const u64 *starts, const Pass *pass, u32 *arrived, u32 tasks_at,
          u32 task_room, u32 count, u64 *times) {
    __shared__ __align__(8) u64 bars[4];
    u64 state = (u64)pass->states[0];
    const u8 *at = words + starts[2 * blockIdx.x];
    u32 words_bars = near_address(bars), weights_bars = words_bars + 16;
    fetch_words(at, room + tasks_at, (u32)starts[2 * blockIdx.x + 1]);
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
    for (u32 s = 0; s < count; s++) {
        u32 odd = s % 2, phase = s / 2 % 2;
        u8 *task_at = room + tasks_at + odd * task_room,
           *other = room + tasks_at + (1 - odd) * task_room;
        const Task &task = *(const Task *)task_at;
#if __CUDA_ARCH__ >= 900
        wait_near(words_bars + 8 * odd, phase);
#endif
        settle(task_at, state);
        __syncthreads();
        if (s + 1 < count)
            fetch(task, at + task.bytes, other, words_bars + 8 * (1 - odd),
                  weights_bars + 8 * (1 - odd));
        if (s > 0 && threadIdx.x == 0) wait_for_all(arrived, s);
        __syncthreads();
        if (times && threadIdx.x == 0) times[2 * (s * gridDim.x + blockIdx.x)] = clock64();
        run_task(tasks_at + odd * task_room, pass, weights_bars + 8 * odd, phase);
        __syncthreads();
        if (times && threadIdx.x == 0) times[2 * (s * gridDim.x + blockIdx.x) + 1] = clock64();
        if (threadIdx.x == 0 && s + 1 < count) arrive(arrived);
        at += task.bytes;
#if __CUDA_ARCH__ < 900
        if (s + 1 < count) fetch_words(at, other, task.next_bytes);
        __syncthreads();
#endif
    }
}
