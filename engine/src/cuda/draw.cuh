// The draw of a token among likely ones by one block: the sampler's chain (`sampler/chain.rs`,
// `truncate.rs`, `select.rs`) where no logit is changed, in the same order of the same sums.
//
// Candidates stand in the order of their ids. Sums of weights are those of chunks of 64 in eight
// lanes, chunk after chunk. Sums of buckets alone may be found in any order: weights of a bucket
// have one exponent, so that they are exact.

// `exp_` of this is 0, as of everything below it.
#define NO_WEIGHT -100.0f
#define CHUNK 64
// Buckets of the first step of a selection; the others have 512.
#define BUCKETS 4307
// Bits of 1.0, the largest weight.
#define ONE 0x3f800000u

// Tokens that are left, which are near the best one, and their weights.
struct Candidates {
    u32 *ids;
    float *weights;
    // Of each chunk.
    double *masses;
    u32 n;
    float max;
};

struct Tally {
    u32 count;
    double mass;

    __device__ void add(Tally other) {
        count += other.count;
        mass += other.mass;
    }
};

// Whether tokens are enough: so many, or such a mass.
struct Enough {
    bool is_count;
    u32 count;
    double mass;

    __device__ bool operator()(Tally all) const {
        return is_count ? all.count >= count : all.count > 0 && all.mass >= mass;
    }
};

// The block's own memory.
struct Room {
    double masses[BUCKETS];
    u32 counts[BUCKETS];
    // Which buckets have something.
    u32 filled[(BUCKETS + 31) / 32];
    u32 of_warps[32];
    float largest[32];
    // One thread's result for all.
    double sum;
    u32 border, token;
    Tally above;
};

// `alone.rs` asks for so much.
static_assert(sizeof(Room) <= 53 << 10);

__device__ inline Room &room() {
    extern __shared__ __align__(16) u8 bytes[];
    return *(Room *)bytes;
}

// The sum of what the threads have, for all of them.
__device__ inline u32 sum_of_threads(u32 x) {
    Room &r = room();
    for (u32 away = 16; away > 0; away /= 2) x += __shfl_xor_sync(~0u, x, away);
    if (threadIdx.x % 32 == 0) r.of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    u32 sum = 0;
    for (u32 warp = 0; warp < THREADS / 32; warp++) sum += r.of_warps[warp];
    __syncthreads();
    return sum;
}

// How many threads before this one have something, and how many in all.
__device__ inline u32 before(bool has, u32 &all) {
    Room &r = room();
    u32 votes = __ballot_sync(~0u, has), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) r.of_warps[warp] = __popc(votes);
    __syncthreads();
    u32 first = 0;
    all = 0;
    for (u32 w = 0; w < THREADS / 32; w++) {
        if (w == warp) first = all;
        all += r.of_warps[w];
    }
    __syncthreads();
    return first + __popc(votes & ((1u << lane) - 1));
}

// The largest number; -∞ where there is none.
__device__ __noinline__ float largest(const float *values, u32 n) {
    Room &r = room();
    float max = __int_as_float(0xff800000);
    for (u32 i = threadIdx.x; i < n; i += THREADS) max = values[i] > max ? values[i] : max;
    for (u32 away = 16; away > 0; away /= 2) {
        float other = __shfl_xor_sync(~0u, max, away);
        max = other > max ? other : max;
    }
    if (threadIdx.x % 32 == 0) r.largest[threadIdx.x / 32] = max;
    __syncthreads();
    max = r.largest[0];
    for (u32 warp = 1; warp < THREADS / 32; warp++)
        max = r.largest[warp] > max ? r.largest[warp] : max;
    __syncthreads();
    return max;
}

__device__ __noinline__ u32 count(const float *values, u32 n, float floor) {
    u32 mine = 0;
    for (u32 i = threadIdx.x; i < n; i += THREADS) mine += values[i] >= floor;
    return sum_of_threads(mine);
}

__device__ inline float weigh(float logit, float max, float temperature) {
    float x = logit == max ? 0.0f : (logit - max) / temperature;
    return exp_(x > NO_WEIGHT ? x : NO_WEIGHT);
}

// The masses of chunks, of weights from `floor` up: eight threads for a chunk.
__device__ inline void sum_chunks(const Candidates &c, float floor) {
    u32 chunks = (c.n + CHUNK - 1) / CHUNK, lane = threadIdx.x % 8;
    // All threads of a warp go on as long as one has a chunk: they exchange sums.
    for (u32 first = 0; first < chunks; first += THREADS / 8) {
        u32 chunk = first + threadIdx.x / 8;
        double mine = 0.0;
        for (u32 e = lane; e < CHUNK; e += 8) {
            u32 i = chunk * CHUNK + e;
            float weight = i < c.n ? c.weights[i] : 0.0f;
            mine += (double)(weight >= floor ? weight : 0.0f);
        }
        double mass = __shfl_sync(~0u, mine, 0, 8);
        for (u32 l = 1; l < 8; l++) mass += __shfl_sync(~0u, mine, l, 8);
        if (lane == 0 && chunk < chunks) c.masses[chunk] = mass;
    }
    __syncthreads();
}

// The sum of all weights from `floor` up, chunk after chunk, by one warp.
__device__ __noinline__ double mass(const Candidates &c, float floor) {
    Room &r = room();
    sum_chunks(c, floor);
    if (threadIdx.x < 32) {
        u32 chunks = (c.n + CHUNK - 1) / CHUNK;
        double sum = 0.0;
        for (u32 first = 0; first < chunks; first += 32) {
            u32 chunk = first + threadIdx.x;
            double mine = chunk < chunks ? c.masses[chunk] : 0.0;
#pragma unroll 8
            for (u32 l = 0; l < 32; l++) sum += __shfl_sync(~0u, mine, l);
        }
        if (threadIdx.x == 0) r.sum = sum;
    }
    __syncthreads();
    double sum = r.sum;
    __syncthreads();
    return sum;
}

// Keeps the candidates of which `wanted` is true; it is asked by all threads at once, in the order
// of ids.
template <class Wanted>
__device__ inline void keep(Candidates &c, Wanted wanted) {
    u32 kept = 0;
    for (u32 first = 0; first < c.n; first += THREADS) {
        u32 i = first + threadIdx.x, id = 0, all;
        bool is_there = i < c.n;
        float weight = is_there ? c.weights[i] : 0.0f;
        if (is_there) id = c.ids[i];
        bool is_wanted = wanted(weight, is_there);
        u32 at = kept + before(is_wanted, all);
        if (is_wanted) {
            c.ids[at] = id;
            c.weights[at] = weight;
        }
        kept += all;
        __syncthreads();
    }
    c.n = kept;
    __syncthreads();
}

__device__ __noinline__ void keep_from(Candidates &c, float floor) {
    keep(c, [=](float weight, bool is_there) { return is_there && weight >= floor; });
}

__device__ inline u32 key_of(float weight) {
    u32 bits = __float_as_uint(weight);
    return bits < ONE ? ONE - bits : 0;
}

// The key of the last candidate that is needed until there is `enough`, and the tally of all keys
// below it; false where all together are not enough.
__device__ __noinline__ bool find_border(const Candidates &c, Enough enough, u32 &last,
                                         Tally &above) {
    const u32 shifts[3] = {18, 9, 0}, prefixes[3] = {31, 18, 9};
    Room &r = room();
    u32 prefix = 0;
    above = {0, 0.0};
    for (u32 step = 0; step < 3; step++) {
        u32 shift = shifts[step], first = step == 0 ? 0 : prefix << 9;
        u32 buckets = step == 0 ? BUCKETS : 512;
        for (u32 b = threadIdx.x; b < buckets; b += THREADS) {
            r.masses[b] = 0.0;
            r.counts[b] = 0;
            if (b % 32 == 0) r.filled[b / 32] = 0;
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < c.n; i += THREADS) {
            float weight = c.weights[i];
            u32 key = key_of(weight);
            if (weight > 0.0f && (step == 0 || key >> prefixes[step] == prefix)) {
                u32 bucket = (key >> shift) - first;
                atomicAdd(&r.masses[bucket], (double)weight);
                atomicAdd(&r.counts[bucket], 1);
                atomicOr(&r.filled[bucket / 32], 1u << bucket % 32);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            Tally sum = above, at = {0, 0.0};
            u32 border = ~0u;
            bool reached = false;
            for (u32 word = 0; word < (buckets + 31) / 32 && !reached; word++) {
                for (u32 left = r.filled[word]; left && !reached; left &= left - 1) {
                    if (border != ~0u) sum.add(at);
                    border = word * 32 + __ffs(left) - 1;
                    at = {r.counts[border], r.masses[border]};
                    Tally with = sum;
                    with.add(at);
                    reached = enough(with);
                }
            }
            // In later steps only rounding can make the sum fall short: the last bucket is meant.
            r.border = border != ~0u && (reached || step > 0) ? first + border : ~0u;
            r.above = sum;
        }
        __syncthreads();
        prefix = r.border;
        above = r.above;
        __syncthreads();
        if (prefix == ~0u) return false;
    }
    last = prefix;
    return true;
}

// Keeps the heaviest candidates up to the first that makes them enough.
__device__ __noinline__ void keep_until(Candidates &c, Enough enough) {
    const float nears[2] = {7.0f, 14.0f};
    for (u32 i = 0; i < 2; i++) {
        float floor = exp_(-nears[i]);
        Tally near = {count(c.weights, c.n, floor), 0.0};
        if (!enough.is_count) near.mass = mass(c, floor);
        if (enough(near)) {
            keep_from(c, floor);
            break;
        }
    }
    u32 last;
    Tally above;
    if (!find_border(c, enough, last, above)) return;
    // Of those with the last key, which weigh the same, so many as are needed.
    float weight = __uint_as_float(ONE - last);
    u32 needed = 0;
    while (needed < c.n && !enough(above)) {
        above.add({1, (double)weight});
        needed++;
    }
    u32 equals = 0;
    keep(c, [&](float weight, bool is_there) {
        u32 key = key_of(weight), all;
        bool counts = is_there && weight > 0.0f, is_equal = counts && key == last;
        u32 rank = equals + before(is_equal, all);
        equals += all;
        return counts && (key < last || (is_equal && rank < needed));
    });
}

// The candidate at the share `u` of all weight.
__device__ inline u32 draw(const Candidates &c, double u) {
    Room &r = room();
    double left = u * mass(c, 0.0f);
    if (threadIdx.x < 32) {
        u32 chunks = (c.n + CHUNK - 1) / CHUNK, token = ~0u;
        for (u32 first = 0; first < chunks && token == ~0u; first += 32) {
            u32 chunk = first + threadIdx.x;
            double mine = chunk < chunks ? c.masses[chunk] : 0.0;
            u32 here = min(32u, chunks - first);
            for (u32 l = 0; l < here && token == ~0u; l++) {
                double mass = __shfl_sync(~0u, mine, l);
                if (left >= mass) {
                    left -= mass;
                    continue;
                }
                u32 end = min(c.n, (first + l + 1) * CHUNK);
                for (u32 i = (first + l) * CHUNK; i < end; i++) {
                    left -= (double)c.weights[i];
                    if (left < 0.0) {
                        token = c.ids[i];
                        break;
                    }
                }
            }
        }
        if (token == ~0u) {
            // Rounding ate the rest: the last that has weight.
            token = 0;
            for (u32 i = c.n; i > 0; i--) {
                if (c.weights[i - 1] > 0.0f) {
                    token = c.ids[i - 1];
                    break;
                }
            }
        }
        if (threadIdx.x == 0) r.token = token;
    }
    __syncthreads();
    return r.token;
}

// How a token is drawn, as `sampler/rule.rs` has it.
struct Rule {
    // The temperature that comes first, and one that comes later.
    float temperature, later;
    // So many tokens have to be among those that are taken in: those with the largest logits.
    u32 at_least;
    u32 top_k;
    float top_p, min_p;
    // A byte for each step, 0 behind the last.
    u32 steps;
};

enum Cut : u32 { TOP_K = 1, TOP_P, MIN_P, LATER };

// A token among n logits, of which one is above -∞, at the share `u`.
__device__ inline u32 draw(const float *logits, u32 n, float max, const Rule &rule, double u,
                           Candidates c) {
    c.max = max;
    // Where logits near the best are enough, the others need no exponential.
    float floor = max - 7.0f * rule.temperature;
    u32 near = count(logits, n, floor);
    if (near < rule.at_least) {
        floor = max - 14.0f * rule.temperature;
        near = count(logits, n, floor);
    }
    bool is_near = near >= rule.at_least;
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        c.ids[i] = i;
        c.weights[i] = logits[i];
    }
    c.n = n;
    __syncthreads();
    if (is_near) keep_from(c, floor);
    for (u32 i = threadIdx.x; i < c.n; i += THREADS)
        c.weights[i] = weigh(c.weights[i], max, rule.temperature);
    __syncthreads();
    for (u32 steps = rule.steps; steps; steps >>= 8) {
        switch (steps & 0xff) {
        case TOP_K:
            if (rule.top_k < c.n) keep_until(c, {true, rule.top_k, 0.0});
            break;
        case TOP_P: {
            double target = (double)rule.top_p * mass(c, 0.0f);
            keep_until(c, {false, 0, target});
            break;
        }
        case MIN_P: keep_from(c, rule.min_p * largest(c.weights, c.n)); break;
        default:
            for (u32 i = threadIdx.x; i < c.n; i += THREADS)
                c.weights[i] = weigh(logits[c.ids[i]], max, rule.later);
            __syncthreads();
        }
    }
    return draw(c, u);
}
