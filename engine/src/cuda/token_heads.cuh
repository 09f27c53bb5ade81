// Heads of one token, by all threads of a block. The order of operations is that of `token` in
// `recurrence.cuh`: along the keys only two sums of each value have one, what is between them has
// none.
//
//   reads   rules of delta: a thread a value, key after key, what the state reads → old
//   rows    keys × values among all threads: each takes what the token brings    → state, seen
//   sums    a thread a value: what is seen of it times r, key after key           → y
//
// What a token brings to a head stands in the block's own memory, and so does what is seen, of as
// many keys at once as have room. The state comes from there, too, where it was brought near.

// Rows of the state that are read before any is used.
#define KEYS 16
// Elements of a state that a thread reads before it writes any.
#define AT_ONCE 4

// Element `at` of a state and those of the rows behind it. The compiler would read each just before
// its use, and wait each time, if nothing kept it from that.
template <bool IS_HALF>
__device__ __forceinline__ void read_rows(float s[KEYS], const u8 *from, u32 at, u32 n_value) {
#pragma unroll
    for (u32 j = 0; j < KEYS; j++) s[j] = kept_at<IS_HALF>(from, at + j * n_value);
    __syncwarp();
}

// Where a token's numbers of a head stand.
struct HeadRoom {
    float *r, *k, *decay, *a, *b, *v, *old, *seen;

    __device__ HeadRoom(u32 n_key, u32 n_value) {
        r = (float *)room;
        k = r + n_key, decay = k + n_key, a = decay + n_key, b = a + n_key, v = b + n_key;
        old = v + n_value, seen = old + n_value;
    }
};

// What the state reads of a value's keys; the rule's value changes by it. By all lanes of a warp:
// those that have no value read another's.
template <bool IS_HALF, u32 DELTA>
__device__ __forceinline__ void reads_of_value(const HeadsMove &o, const HeadRoom &own,
                                               const u8 *from, u32 head, u32 value) {
    u32 n_value = o.n_value, read = min(value, n_value - 1), is_per_key = o.is_per_key;
    const float *reads = DELTA == 1 ? own.a : own.k;
    float s[KEYS], old = 0.0f, decay = own.decay[0];
    Four by[KEYS / 4], d[KEYS / 4];
#pragma unroll 1
    for (u32 first = 0; first < o.n_key; first += KEYS) {
#pragma unroll
        for (u32 i = 0; i < KEYS / 4; i++) {
            by[i] = Four(reads + first + 4 * i);
            if (DELTA == 2) d[i] = Four(is_per_key ? own.decay + first + 4 * i : own.k);
        }
        read_rows<IS_HALF>(s, from, first * n_value + read, n_value);
#pragma unroll
        for (u32 j = 0; j < KEYS; j++) {
            float of_key = by[j / 4].v[j % 4];
            if (DELTA == 2) of_key = of_key * (is_per_key ? d[j / 4].v[j % 4] : decay);
            old = fmaf(s[j], of_key, old);
        }
    }
    if (value >= n_value) return;
    own.old[value] = old;
    if (DELTA == 2) own.v[value] = fmaf(old, o.factor[head], own.v[value]);
}

// Keys from `first` to `end` of all values take the token in.
template <bool IS_HALF, u32 DELTA>
__device__ __forceinline__ void rows_of_head(const HeadsMove &o, const HeadRoom &own,
                                             const u8 *from, u8 *to, u32 head, u32 first,
                                             u32 end) {
    u32 n_value = o.n_value, apart = o.apart, begin = divided(threadIdx.x, o.inverse);
    u32 value = threadIdx.x - begin * n_value, is_per_key = o.is_per_key;
    const float *bonus = o.bonus ? o.bonus + head * o.n_key : 0;
    float v = own.v[value], old = DELTA == 1 ? own.old[value] : 0.0f;
#pragma unroll 1
    for (u32 key = first; key < end; key += AT_ONCE * apart) {
        float s[AT_ONCE], k[AT_ONCE], b[AT_ONCE], d[AT_ONCE], u[AT_ONCE];
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            u32 i = min(key + begin + j * apart, end - 1);
            s[j] = kept_at<IS_HALF>(from, i * n_value + value);
            k[j] = own.k[i], d[j] = own.decay[is_per_key ? i : 0];
            if (DELTA == 1) b[j] = own.b[i];
            if (bonus) u[j] = bonus[i];
        }
        __syncwarp();
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            u32 i = key + begin + j * apart;
            float kv = v * k[j], fresh = DELTA == 1 ? fmaf(old, b[j], kv) : kv;
            float next = fmaf(s[j], d[j], fresh);
            if (begin >= apart || i >= end) continue;
            own.seen[(i - first) * n_value + value] = bonus ? fmaf(kv, u[j], s[j]) : next;
            keep_at<IS_HALF>(to, i * n_value + value, next);
        }
    }
}

// What is seen of keys from `first` to `end`, added to `sum`: likewise.
__device__ __forceinline__ float sum_of_value(const HeadRoom &own, u32 n_value, u32 first, u32 end,
                                              u32 value, float sum) {
    const float *seen = own.seen + min(value, n_value - 1);
#pragma unroll 1
    for (u32 i = first; i < end; i += KEYS, seen += KEYS * n_value) {
        float now[KEYS];
        Four r[KEYS / 4];
#pragma unroll
        for (u32 j = 0; j < KEYS / 4; j++) r[j] = Four(own.r + i + 4 * j);
#pragma unroll
        for (u32 j = 0; j < KEYS; j++) now[j] = seen[j * n_value];
        __syncwarp();
#pragma unroll
        for (u32 j = 0; j < KEYS; j++) sum = fmaf(now[j], r[j / 4].v[j % 4], sum);
    }
    return sum;
}

// What a token brings to a head comes near: a field each, all of them on their way at once.
__device__ __noinline__ void bring_head(u32 at, u32 head) {
    const HeadsMove &o = *(const HeadsMove *)(room + at);
    u32 n_key = o.n_key, n_value = o.n_value, i = threadIdx.x, value = THREADS - 1 - i;
    const HeadRoom own(n_key, n_value);
    // What was there has been used.
    if (head > o.m.begin) __syncthreads();
    if (i < n_key) {
        float r = o.r.of(head)[i], k = o.k.of(head)[i], a = 0.0f, b = 0.0f;
        float decay = o.decay.of(head)[o.is_per_key ? i : 0];
        if (o.delta == 1) a = o.a.of(head)[i], b = o.b.of(head)[i];
        own.r[i] = r, own.k[i] = k, own.decay[i] = decay, own.a[i] = a, own.b[i] = b;
    }
    if (value < n_value) {
        float v = o.v.of(head)[value];
        own.v[value] = o.scale ? o.scale[head] * v : v;
    }
    __syncthreads();
}

template <bool IS_HALF, u32 DELTA, bool IS_NEAR>
__device__ __noinline__ void heads_of_token(u32 at) {
    const HeadsMove &o = *(const HeadsMove *)(room + at);
    for (u32 head = o.m.begin; head < o.m.end; head++) {
        bring_head(at, head);
        u32 n_key = o.n_key, n_value = o.n_value, value = threadIdx.x;
        u32 bytes = n_key * n_value * (IS_HALF ? 2 : 4);
        bool has_values = value / 32 * 32 < n_value;
        const HeadRoom own(n_key, n_value);
        u8 *to = o.state + (u64)head * bytes;
        const u8 *from = IS_NEAR ? room + near_of(o.held) + (head - o.m.begin) * bytes : to;
        if (DELTA) {
            if (has_values) reads_of_value<IS_HALF, DELTA>(o, own, from, head, value);
            __syncthreads();
        }
        u32 at_once = o.at_once;
        float sum = 0.0f;
#pragma unroll 1
        for (u32 first = 0; first < n_key; first += at_once) {
            u32 end = min(first + at_once, n_key);
            // What was seen before has been added up.
            if (first > 0) __syncthreads();
            rows_of_head<IS_HALF, DELTA>(o, own, from, to, head, first, end);
            __syncthreads();
            if (has_values) sum = sum_of_value(own, n_value, first, end, value, sum);
        }
        if (value < n_value) o.y.set(head * n_value + value, sum);
    }
}

template <bool IS_HALF, bool IS_NEAR>
__device__ __forceinline__ void heads_with(u32 at, u32 delta) {
    if (delta == 0) heads_of_token<IS_HALF, 0, IS_NEAR>(at);
    else if (delta == 1) heads_of_token<IS_HALF, 1, IS_NEAR>(at);
    else heads_of_token<IS_HALF, 2, IS_NEAR>(at);
}

__device__ __noinline__ void move_heads(u32 at) {
    const HeadsMove &o = *(const HeadsMove *)(room + at);
    if (o.is_half) {
        if (o.held) heads_with<true, true>(at, o.delta);
        else heads_with<true, false>(at, o.delta);
    } else {
        if (o.held) heads_with<false, true>(at, o.delta);
        else heads_with<false, false>(at, o.delta);
    }
}
