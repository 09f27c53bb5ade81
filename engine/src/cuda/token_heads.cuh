// Heads of one token: a thread for each value of a head has that column of its state. The order of
// operations is that of `token` in `recurrence.cuh`.

// Rows of the state that are read before any is used.
#define KEYS 16

// Element `at` of a state and those of the rows behind it.
template <bool IS_HALF>
__device__ __forceinline__ void read_rows(float s[KEYS], const u8 *from, u32 at, u32 n_value) {
#pragma unroll
    for (u32 j = 0; j < KEYS; j++) s[j] = kept_at<IS_HALF>(from, at + j * n_value);
}

// What a token brings to a head stands in the block's own memory: r, k, decay, a, b, a number for
// each key. The state comes from there, too, where it was brought near (`held`).
template <bool IS_HALF, u32 DELTA, bool IS_NEAR>
__device__ __noinline__ void value_of_head(u32 at, u32 held, u32 head, u32 value) {
    const HeadsMove &o = *(const HeadsMove *)(room + at);
    // Heads of 64 values, whose state was brought near, are those that have to be fast.
    u32 n_key = o.n_key, n_value = IS_NEAR ? 64 : o.n_value;
    u8 *to = o.state + (u64)head * n_key * n_value * (IS_HALF ? 2 : 4);
    const u8 *from = IS_NEAR ? room + held : to;
    const float *own = (const float *)room, *r = own, *k = r + n_key, *decays = k + n_key;
    const float *of_a = decays + n_key, *of_b = of_a + n_key;
    const float *bonus = o.bonus ? o.bonus + head * n_key : 0;
    bool is_per_key = o.is_per_key;
    float s[KEYS], old = 0.0f, decay = decays[0], v = o.v.of(head)[value];
    if (o.scale) v = o.scale[head] * v;
    if (DELTA) {
#pragma unroll 1
        for (u32 first = 0; first < n_key; first += KEYS) {
            read_rows<IS_HALF>(s, from, first * n_value + value, n_value);
#pragma unroll
            for (u32 i = 0; i < KEYS; i += 4) {
                Four a((DELTA == 1 ? of_a : k) + first + i), d(decays + first + i);
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    float reads = DELTA == 1 ? a.v[j] : a.v[j] * (is_per_key ? d.v[j] : decay);
                    old = fmaf(s[i + j], reads, old);
                }
            }
        }
        if (DELTA == 2) v = fmaf(old, o.factor[head], v);
    }
    float sum = 0.0f;
#pragma unroll 1
    for (u32 first = 0; first < n_key; first += KEYS) {
        read_rows<IS_HALF>(s, from, first * n_value + value, n_value);
#pragma unroll
        for (u32 i = 0; i < KEYS; i += 4) {
            u32 key = first + i;
            Four of_k(k + key), of_r(r + key), d(decays + key), b(of_b + key);
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                float kv = v * of_k.v[j];
                float fresh = DELTA == 1 ? fmaf(old, b.v[j], kv) : kv;
                float next = fmaf(s[i + j], is_per_key ? d.v[j] : decay, fresh);
                float seen = bonus ? fmaf(kv, bonus[key + j], s[i + j]) : next;
                sum = fmaf(seen, of_r.v[j], sum);
                keep_at<IS_HALF>(to, (key + j) * n_value + value, next);
            }
        }
    }
    o.y.set(head * n_value + value, sum);
}

template <bool IS_HALF, bool IS_NEAR>
__device__ __forceinline__ void value_with(u32 delta, u32 at, u32 held, u32 head, u32 value) {
    if (delta == 0) value_of_head<IS_HALF, 0, IS_NEAR>(at, held, head, value);
    else if (delta == 1) value_of_head<IS_HALF, 1, IS_NEAR>(at, held, head, value);
    else value_of_head<IS_HALF, 2, IS_NEAR>(at, held, head, value);
}

// Keys are whole times 16: `token.rs` leaves other heads to `heads`.
__device__ __noinline__ void move_heads(u32 at) {
    const HeadsMove &o = *(const HeadsMove *)(room + at);
    float *own = (float *)room;
    u32 n_key = o.n_key, decays = o.is_per_key ? n_key : 1;
    u32 head_bytes = n_key * o.n_value * (o.is_half ? 2 : 4);
    for (u32 head = o.m.begin; head < o.m.end; head++) {
        if (head > o.m.begin) __syncthreads();
        const float *of[5] = {o.r.of(head), o.k.of(head), o.decay.of(head), 0, 0};
        if (o.delta == 1) {
            of[3] = o.a.of(head);
            of[4] = o.b.of(head);
        }
        for (u32 i = threadIdx.x; i < n_key; i += THREADS) {
#pragma unroll
            for (u32 j = 0; j < 5; j++)
                if (of[j] && (j != 2 || i < decays)) own[j * n_key + i] = of[j][i];
        }
        __syncthreads();
        u32 held = o.held ? (u32)(o.held - room) + (head - o.m.begin) * head_bytes : 0;
        bool is_near = o.held && o.n_value == 64;
        for (u32 value = threadIdx.x; value < o.n_value; value += THREADS) {
            if (o.is_half) {
                if (is_near) value_with<true, true>(o.delta, at, held, head, value);
                else value_with<true, false>(o.delta, at, held, head, value);
            } else {
                if (is_near) value_with<false, true>(o.delta, at, held, head, value);
                else value_with<false, false>(o.delta, at, held, head, value);
            }
        }
    }
}
