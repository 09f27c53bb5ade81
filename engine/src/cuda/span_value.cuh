// The keys of one value that a thread has, over the tokens of a run. The order of operations is
// that of `token` in `recurrence.cuh`.
//
//   Streamed   a thread has many keys: it asks for what a token brings them as it goes
//   Held       a thread has few: what a token brings them is in registers before its turn
//
// Where a state reads before it is written, lanes of a warp share a value, each with the keys
// behind those of the lane before. A chain of sums goes through them in as many turns: all lanes do
// all turns, each on with what the lane before has found. Lane i's turn i is the one that counts:
//
//            turn 0      turn 1      turn 2      turn 3
//   lane 0   keys 0…15   -           -           -
//   lane 1   -           keys 16…31  -           -
//   lane 2   -           -           keys 32…47  -
//   lane 3   -           -           -           keys 48…63: the sum

#if __CUDA_ARCH__ >= 900

// Where a token's numbers stand in the block's own memory: r, k, decays, a and b by keys, then
// values, then the decay of all keys, the rule's factor and what values are multiplied by.
struct SpanToken {
    u32 k, decay, a, b, v, numbers, floats;

    __device__ __forceinline__ SpanToken(u32 n_key, u32 n_value, u32 delta, bool is_per_key) {
        k = n_key;
        decay = k + n_key;
        a = decay + (is_per_key ? n_key : 0);
        b = a + (delta == 1 ? n_key : 0);
        v = b + (delta == 1 ? n_key : 0);
        numbers = v + n_value;
        floats = numbers + 4;
    }
};

// A number of the block's own memory.
__device__ __forceinline__ float near_number(u32 at) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(at));
    return x;
}

// `N` numbers of the block's own memory, asked for where this stands: behind what `done` and `also`
// are made of, so that the compiler does not ask for all of them at once.
template <u32 N> struct Asked {
    float v[N];

    __device__ __forceinline__ void ask(u32 at, float done, float also) {
#pragma unroll
        for (u32 i = 0; i < N; i += 4) ask_four(i, at, done, also);
    }

    __device__ __forceinline__ void ask_four(u32 i, u32 at, float done, float also) {
        asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                     : "=f"(v[i]), "=f"(v[i + 1]), "=f"(v[i + 2]), "=f"(v[i + 3])
                     : "r"(at + 4 * i), "f"(done), "f"(also));
    }
};

// Where the keys of a thread stand, in bytes: from the beginning of a token, and once from that of
// all. What the compiler cannot see through it adds as a number of each read, not before it.
struct KeyPlaces {
    u32 r, k, decay;

    __device__ __forceinline__ KeyPlaces(const SpanToken &of, u32 begin) {
        r = 4 * begin, k = 4 * (of.k + begin), decay = 4 * (of.decay + begin);
    }

    __device__ __forceinline__ KeyPlaces(const KeyPlaces &from, u32 token) {
        r = from.r + token, k = from.k + token, decay = from.decay + token;
        asm volatile("" : "+r"(r), "+r"(k), "+r"(decay));
    }
};

// What all lanes know alike: the compiler sees it where it comes from one, and that warps which go
// by it stay together.
__device__ __forceinline__ u32 same_in_warp(u32 x) { return __shfl_sync(~0u, x, 0); }

// Lanes of a warp that share values: the first lane of all values, then the second of all, so that
// neighbours read the same keys.
template <u32 SHARERS> struct Lanes {
    static constexpr u32 VALUES = 32 / SHARERS;

    // What the lane before has found. The first lanes' own is behind their turn.
    static __device__ __forceinline__ float before(float x) {
        return SHARERS == 1 ? x : __shfl_up_sync(~0u, x, VALUES);
    }

    // What the last lane has found.
    static __device__ __forceinline__ float last(float x) {
        return SHARERS == 1 ? x : __shfl_sync(~0u, x, 32 - VALUES + threadIdx.x % VALUES);
    }
};

// Which keys of which value a thread has. Without delta the keys behind are other warps': a part of
// the head, which begins a batch of tokens later than the part before.
template <class Mine> struct Share {
    u32 value, part, begin;
    bool is_last;

    __device__ __forceinline__ Share(u32 thread, u32 n_value, u32 parts) {
        constexpr u32 VALUES = 32 / Mine::SHARERS;
        u32 lane = thread % 32 / VALUES;
        value = Mine::DELTA ? thread / 32 * VALUES + thread % VALUES : thread % n_value;
        part = Mine::DELTA ? 0 : same_in_warp(thread / n_value);
        begin = Mine::KEYS * (Mine::DELTA ? lane : part);
        is_last = Mine::DELTA ? lane + 1 == Mine::SHARERS : part + 1 == parts;
    }
};

// What `N` keys of a token bring.
template <u32 N, u32 DELTA, bool IS_PER_KEY, bool HAS_BONUS> struct Keys {
    Asked<N> r, k, d, reads, of_next, u;

    // From key `i` of the thread's on.
    __device__ __forceinline__ void ask(const KeyPlaces &own, const KeyPlaces &next, u32 bonus,
                                        u32 i, float done, float also) {
        k.ask(own.k + 4 * i, done, also);
        if (IS_PER_KEY) d.ask(own.decay + 4 * i, done, also);
        if (HAS_BONUS) u.ask(bonus + 4 * i, done, also);
        ask_sums(own, next, i, done, also);
    }

    // What sums alone need.
    __device__ __forceinline__ void ask_sums(const KeyPlaces &own, const KeyPlaces &next, u32 i,
                                             float done, float also) {
        r.ask(own.r + 4 * i, done, also);
        if (DELTA) reads.ask(next.k + 4 * i, done, also);
        if (DELTA && IS_PER_KEY) of_next.ask(next.decay + 4 * i, done, also);
        // The compiler would ask just before use, and wait each time.
        __syncwarp();
    }

    // What the state reads of the next token by key i.
    __device__ __forceinline__ float read(u32 i, float decay_next) const {
        return reads.v[i] * (IS_PER_KEY ? of_next.v[i] : decay_next);
    }
};

// Many keys: no delta, or a rule of it, which two lanes of a warp share.
template <bool HALF, u32 RULE, bool IS_PER_KEY, bool BONUS, u32 N> struct Streamed {
    static constexpr bool IS_HALF = HALF, HAS_DECAYS = IS_PER_KEY, HAS_BONUS = BONUS;
    // Keys of a head, 0 where there are more or fewer.
    static constexpr u32 DELTA = RULE, KEYS = N, SHARERS = RULE ? 2 : 1;
    static constexpr u32 ALL_KEYS = RULE ? 2 * N : 0;
    // Keys that are asked for while those before them are used.
    static constexpr u32 AHEAD = DELTA || BONUS ? 4 : 8;
    const SpanToken &of;
    const KeyPlaces places;
    u32 value, bonus;
    // Rows of the state behind the last token; what is kept of them may be f16.
    float s[KEYS];
    // What the state reads of the token that comes.
    float old;

    __device__ __forceinline__ Streamed(const SpanToken &of, const Share<Streamed> &share,
                                        const float *bonus_at)
        : of(of), places(of, share.begin), value(share.value),
          bonus(near_address(bonus_at + share.begin)), old(0.0f) {}

    __device__ __forceinline__ float kept(u32 i) const {
        return IS_HALF ? half_to_float(float_to_kept(s[i])) : s[i];
    }

    // The reads of the run's first token.
    __device__ __forceinline__ void read(u32 token, u32) {
        if (!DELTA) return;
        float sum = 0.0f, decay = near_number(token + 4 * of.numbers);
#pragma unroll 1
        for (u32 turn = 0; turn < SHARERS; turn++) {
            if (turn > 0) sum = Lanes<SHARERS>::before(sum);
#pragma unroll
            for (u32 i = 0; i < KEYS; i++) {
                float by = near_number(token + places.k + 4 * i);
                by = by * (IS_PER_KEY ? near_number(token + places.decay + 4 * i) : decay);
                sum = fmaf(kept(i), by, sum);
            }
        }
        old = Lanes<SHARERS>::last(sum);
    }

    // Takes a token in, where `sum` has come so far; reads the next one.
    __device__ __forceinline__ float take(u32 token, u32 next, u32, float sum) {
        const u32 numbers = token + 4 * of.numbers;
        float v = near_number(numbers + 8) * near_number(token + 4 * (of.v + value));
        float decay = near_number(numbers);
        float decay_next = DELTA ? near_number(next + 4 * of.numbers) : 0.0f;
        if (DELTA) v = fmaf(old, near_number(numbers + 4), v);
        const KeyPlaces own(places, token), then(places, next);
        old = 0.0f;
        Keys<AHEAD, DELTA, IS_PER_KEY, HAS_BONUS> here, coming;
        here.ask(own, then, bonus, 0, sum, old);
#pragma unroll
        for (u32 i = 0; i < KEYS; i += AHEAD) {
            if (i + AHEAD < KEYS) coming.ask(own, then, bonus, i + AHEAD, sum, old);
#pragma unroll
            for (u32 j = 0; j < AHEAD; j++) {
                float was = kept(i + j), kv = v * here.k.v[j];
                float after = fmaf(was, IS_PER_KEY ? here.d.v[j] : decay, kv);
                float seen = HAS_BONUS ? fmaf(kv, here.u.v[j], was) : after;
                sum = fmaf(seen, here.r.v[j], sum);
                s[i + j] = after;
                if (DELTA) old = fmaf(kept(i + j), here.read(j, decay_next), old);
            }
            here = coming;
        }
        if (DELTA) sum = second_turn(own, then, decay_next, sum);
        return sum;
    }

    // Both sums on from the first lane's.
    __device__ __forceinline__ float second_turn(const KeyPlaces &own, const KeyPlaces &then,
                                                 float decay_next, float sum) {
        sum = Lanes<SHARERS>::before(sum);
        old = Lanes<SHARERS>::before(old);
        Keys<8, DELTA, IS_PER_KEY, HAS_BONUS> here, coming;
        here.ask_sums(own, then, 0, sum, old);
#pragma unroll
        for (u32 i = 0; i < KEYS; i += 8) {
            if (i + 8 < KEYS) coming.ask_sums(own, then, i + 8, sum, old);
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                sum = fmaf(s[i + j], here.r.v[j], sum);
                old = fmaf(kept(i + j), here.read(j, decay_next), old);
            }
            here = coming;
        }
        old = Lanes<SHARERS>::last(old);
        return sum;
    }
};

// Few keys, of the general delta: four lanes of a warp share a value. What a token waits for is the
// chain of what the state reads, so all else is there before. While the chain runs the next k, b
// and decays come, and in its last turn, behind their last use, r and a.
template <bool HALF> struct Held {
    static constexpr bool IS_HALF = HALF, HAS_DECAYS = true, HAS_BONUS = false;
    static constexpr u32 DELTA = 1, KEYS = 16, SHARERS = 4, ALL_KEYS = 64;
    const SpanToken &of;
    u32 keys_at, value_at;
    // The state as it is kept, and what it reads of the token that comes.
    float s[KEYS], old;
    // What that brings; of a the next token's.
    Asked<KEYS> k, b, d, r, a;
    float v, scale;

    __device__ __forceinline__ Held(const SpanToken &of, const Share<Held> &share, const float *)
        : of(of), keys_at(4 * share.begin), value_at(4 * (of.v + share.value)), old(0.0f) {}

    // Where a token's numbers of the thread's keys stand: the compiler adds the field to it as a
    // number of each read.
    __device__ __forceinline__ u32 place(u32 token) const {
        u32 at = token + keys_at;
        asm volatile("" : "+r"(at));
        return at;
    }

    // Asks for what comes in with a token.
    __device__ __forceinline__ void ask(u32 token, float done, float also) {
        u32 own = place(token);
        v = near_number(token + value_at), scale = near_number(token + 4 * (of.numbers + 2));
        k.ask(own + 4 * of.k, done, also);
        b.ask(own + 4 * of.b, done, also);
        d.ask(own + 4 * of.decay, done, also);
    }

    // The reads of the run's first token, and what it brings.
    __device__ __forceinline__ void read(u32 token, u32 next) {
        a.ask(place(token) + 4 * of.a, 0.0f, 0.0f);
        float sum = 0.0f;
#pragma unroll
        for (u32 turn = 0; turn < SHARERS; turn++) {
            if (turn > 0) sum = Lanes<SHARERS>::before(sum);
#pragma unroll
            for (u32 i = 0; i < KEYS; i++) sum = fmaf(s[i], a.v[i], sum);
        }
        old = Lanes<SHARERS>::last(sum);
        ask(token, sum, sum);
        r.ask(place(token), sum, sum);
        a.ask(place(next) + 4 * of.a, sum, sum);
    }

    // Takes a token in; reads the next one.
    __device__ __forceinline__ float take(u32, u32 next, u32 behind, float) {
        float after[KEYS], by = scale * v;
#pragma unroll
        for (u32 i = 0; i < KEYS; i++) {
            after[i] = fmaf(s[i], d.v[i], fmaf(old, b.v[i], by * k.v[i]));
            s[i] = IS_HALF ? half_to_float(float_to_kept(after[i])) : after[i];
        }
        u32 r_at = place(next), a_at = place(behind) + 4 * of.a;
        float sum = 0.0f, reads = 0.0f;
#pragma unroll
        for (u32 turn = 0; turn < SHARERS; turn++) {
            if (turn > 0) sum = Lanes<SHARERS>::before(sum), reads = Lanes<SHARERS>::before(reads);
            if (turn == 1) ask(next, sum, reads);
            // The compiler would ask at the end of all: past both of these, of which no warp takes
            // the branch, it moves nothing.
            if (turn == 2) __syncwarp();
            if (turn == 2 && of.floats == 0) __trap();
#pragma unroll
            for (u32 i = 0; i < KEYS; i++) {
                sum = fmaf(after[i], r.v[i], sum);
                reads = fmaf(s[i], a.v[i], reads);
                if (turn + 1 == SHARERS && i % 4 == 3) {
                    r.ask_four(i - 3, r_at, sum, reads);
                    a.ask_four(i - 3, a_at, sum, reads);
                }
            }
        }
        old = Lanes<SHARERS>::last(reads);
        return sum;
    }
};

#endif
