// Attention: heads turn by their position, states keep keys and values, queries read them. Orders
// of operations are those of `kernels/rope.rs`, `kernels/kept.rs` and `kernels/attention.rs`.
//
//   page    keys (d, 64) · values (64, d) · of int8 scales of both (2, 64)
//   scores  a thread for each key of eight pages     q · k, channel after channel
//   weights exp(score − largest so far), page after page, as keys pass
//   values  a thread for each channel                token after token

#define PAGE 64
// Pages whose scores are found at once.
#define PAGES (THREADS / PAGE)
#define MAX_HEAD 1024

// How a page keeps keys and values (`Op::is_half`).
enum KeptAs : u32 { KEPT_F32, KEPT_F16, KEPT_INT8 };

__device__ __noinline__ void turn(const Op &op, const Pieces &p) {
    u32 heads = op.rows, first = p.begin(heads), n = p.end(heads) - first;
    u32 pairs = op.n_key, d = op.n_value;
    // Pairs of neighbours have angles of their head's own, beside the cosines and sines.
    u32 by = op.over ? 2 : 1, apart = op.over ? 1 : pairs;
    for (u32 at = threadIdx.x; at < n * pairs * p.columns(); at += THREADS) {
        u32 c = p.from + at / (n * pairs), i = at % pairs, head = first + at / pairs % n;
        const float *angles = op.x.first + (u64)c * op.x.stride;
        if (op.over) angles += (3 * head + 1) * pairs;
        float *x = op.y.first + (u64)c * op.y.stride + head * d + i * by;
        float cos = angles[i], sin = angles[pairs + i], a = x[0], b = x[apart];
        x[0] = a * cos - b * sin;
        x[apart] = b * cos + a * sin;
    }
}

// Where head `head` of keys stands in page `page` of a run's text.
__device__ inline u8 *page_of(const Op &op, const Pass &pass, u32 run, u32 head, u32 page) {
    u32 place = page;
    if (op.window != ~0u) {
        u32 ring = (op.window - 1) / PAGE + 2;
        if (op.beginning) place = page == 0 ? 0 : 1 + (page - 1) % ring;
        else place = page % ring;
    }
    u32 first = pass.page_starts[run * pass.groups + op.line[1]];
    return pass.pages[first + place] + 64ull * (op.line[0] + head * op.line[2]);
}

__device__ inline u32 position_of(const Pass &pass, u32 run, u32 c) {
    return pass.positions[run] + (c - pass.spans[run]);
}

// A number of a page, without its scale.
template <u32 KEPT> __device__ __forceinline__ float number_at(const u8 *from, u32 i) {
    if (KEPT == KEPT_F16) return half_to_float(((const u16 *)from)[i]);
    if (KEPT == KEPT_INT8) return (float)((const signed char *)from)[i];
    return ((const float *)from)[i];
}

// The nearest code, ties to even; that of no number is 0.
__device__ inline signed char code_of(float x) {
    float rounded = x + 12582912.0f - 12582912.0f;
    if (rounded != rounded) return 0;
    rounded = rounded > 127.0f ? 127.0f : rounded;
    return (signed char)(rounded < -128.0f ? -128.0f : rounded);
}

// A warp keeps a token's key or value of a head: `apart` codes from one to the next.
__device__ void keep_numbers(u32 kept, const float *x, u32 d, u8 *to, u32 first, u32 apart,
                             float *scale) {
    u32 lane = threadIdx.x % 32;
    if (kept != KEPT_INT8) {
        for (u32 i = lane; i < d; i += 32) {
            if (kept == KEPT_F16) ((u16 *)to)[first + i * apart] = float_to_kept(x[i]);
            else ((float *)to)[first + i * apart] = x[i];
        }
        return;
    }
    // Magnitudes are ordered as their bits are; those of what is no finite number are the largest.
    u32 bits = 0;
    for (u32 i = lane; i < d; i += 32) bits = max(bits, __float_as_uint(fabsf(x[i])));
    bits = largest_of_warp(bits);
    float largest = __uint_as_float(bits), by;
    if (bits >= 0x7f800000u) by = __uint_as_float(0x7fc00000u);
    else if (largest < 1e-30f) by = 0.0f;
    else by = __uint_as_float((__float_as_uint(largest / 127.0f) + 0xffu) & ~0xffu);
    for (u32 i = lane; i < d; i += 32)
        ((signed char *)to)[first + i * apart] = code_of(x[i] / by);
    if (lane == 0) *scale = by;
}

__device__ __noinline__ void remember(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first, d = op.n_value;
    // Keys, then values, of each head and column.
    for (u32 at = threadIdx.x / 32; at < 2 * n * p.columns(); at += THREADS / 32) {
        u32 is_value = at % 2, head = first + at / 2 % n, c = p.from + at / 2 / n;
        u32 run = p.pass.run_of[c], position = position_of(p.pass, run, c);
        // Of a block its last token's column has the keys, and there are no values.
        if ((position + 1) % op.over != 0 || (is_value && !op.v.from)) continue;
        u32 token = position / op.over, in = token % PAGE;
        u8 *page = page_of(op, p.pass, run, head, token / PAGE);
        const float *x = of_head(is_value ? op.v : op.k, head, c);
        float *scales = (float *)(page + 2 * PAGE * d);
        if (is_value) keep_numbers(op.is_half, x, d, page, (PAGE + in) * d, 1, scales + PAGE + in);
        else keep_numbers(op.is_half, x, d, page, in, PAGE, scales + in);
    }
}

// What a query has read so far, beside its sum of values.
struct Seen {
    float max, sum;
};

__device__ inline float larger(float a, float b) { return b > a ? b : a; }

// What a head of column c adds to the score of a key so many tokens back
// (`kernels/relative.rs`).
__device__ inline float by_distance(const Op &op, u32 head, u32 c, u32 back) {
    u32 profiles = op.over, distances = op.is_per_key;
    if (back >= distances) return 0.0f;
    const float *mix = op.scale.first + (u64)c * op.scale.stride + head * profiles;
    float sum = 0.0f;
    for (u32 i = 0; i < profiles; i++)
        sum = sum + mix[i] * __ldg(op.weight + (u64)i * distances + back);
    return sum;
}

// Whether column c, behind which token `end` comes, sees a token: it is in one of its blocks, or
// behind the last whole one (`kernels/chosen.rs`).
__device__ inline bool is_chosen(const Op &op, u32 c, u32 token, u32 end) {
    u32 block = token / op.delta, first = 0, n = op.factor.rows;
    if (block >= end / op.delta) return true;
    const float *blocks = op.factor.first + (u64)c * op.factor.stride;
    while (n > 0) {
        u32 half = n / 2;
        if (blocks[first + half] < (float)block) first += half + 1, n -= half + 1;
        else n = half;
    }
    return first < op.factor.rows && blocks[first] == (float)block;
}

// One head of one column; a thread has so many channels.
template <u32 KEPT, u32 CHANNELS>
__device__ __noinline__ void attend_to(const Op &op, const Pieces &p, u32 head, u32 c) {
    u32 d = op.n_value, of_keys = head / op.n_key, run = p.pass.run_of[c];
    u32 end = position_of(p.pass, run, c) + 1, start = end > op.window ? end - op.window : 0;
    u32 beginning = min(op.beginning, start);
    float *q = (float *)room, *weights = q + MAX_HEAD, *lanes = weights + THREADS;
    float *sums = lanes + PAGES * 16, *maxima = sums + PAGES;
    u32 *seen_of = (u32 *)(maxima + THREADS / 32);
    u32 t = threadIdx.x, key = t % PAGE, part = t / PAGE;
    for (u32 i = t; i < d; i += THREADS) q[i] = op.x.first[(u64)c * op.x.stride + head * d + i];
    __syncthreads();
    Seen seen = {__uint_as_float(0xff800000u), 0.0f};
    float y[CHANNELS];
#pragma unroll
    for (u32 w = 0; w < CHANNELS; w++) y[w] = 0.0f;
    // The page of the beginning is the window's first, or stands apart.
    u32 first = start / PAGE, apart = beginning > 0 && first > 0;
    u32 count = apart + (end - 1) / PAGE - first + 1;
    for (u32 at = 0; at < count; at += PAGES) {
        u32 n = min(PAGES, count - at), index = at + part;
        u32 page = !apart ? first + index : index == 0 ? 0 : first + index - 1;
        u32 token = page * PAGE + key;
        bool is_visible = part < n && (token < beginning || (token >= start && token < end));
        const u8 *from = part < n ? page_of(op, p.pass, run, of_keys, page) : 0;
        float score = __uint_as_float(0xff800000u);
        if (is_visible) {
            score = 0.0f;
#pragma unroll 8
            for (u32 i = 0; i < d; i++)
                score = fmaf(number_at<KEPT>(from, i * PAGE + key), q[i], score);
            if (KEPT == KEPT_INT8) score = score * ((const float *)(from + 2 * PAGE * d))[key];
            if (op.over) score = score + by_distance(op, head, c, end - 1 - token);
        }
        // What is not chosen has no score, and a page without any chosen is passed over.
        bool is_seen = is_visible && (op.delta == 0 || is_chosen(op, c, token, end));
        if (!is_seen) score = __uint_as_float(0xff800000u);
        bool is_any = __any_sync(~0u, is_seen);
        if (t % 32 == 0) seen_of[t / 32] = is_any;
        // What is no number does not count.
        float largest = score == score ? score : __uint_as_float(0xff800000u);
        for (u32 other = 16; other > 0; other /= 2)
            largest = larger(largest, __shfl_xor_sync(~0u, largest, other));
        if (t % 32 == 0) maxima[t / 32] = largest;
        __syncthreads();
        float so_far = seen.max;
        for (u32 i = 0; i < 2 * (part + 1); i++) so_far = larger(so_far, maxima[i]);
        float weight = is_visible ? exp_(score - so_far) : 0.0f;
        weights[t] = weight;
        __syncthreads();
        if (key < 16) {
            const float *of = weights + part * PAGE + key;
            lanes[part * 16 + key] = of[0] + of[16] + of[32] + of[48];
        }
        __syncthreads();
        if (key == 0) {
            float sum = 0.0f;
            for (u32 i = 0; i < 16; i++) sum = sum + lanes[part * 16 + i];
            sums[part] = sum;
        }
        if (KEPT == KEPT_INT8 && part < n)
            weights[t] = weight * ((const float *)(from + 2 * PAGE * d))[PAGE + key];
        __syncthreads();
        for (u32 i = 0; i < n; i++) {
            if (op.delta && !seen_of[2 * i] && !seen_of[2 * i + 1]) continue;
            float most = larger(larger(seen.max, maxima[2 * i]), maxima[2 * i + 1]);
            float scale = seen.sum == 0.0f ? 0.0f : exp_(seen.max - most);
            seen = {most, seen.sum * scale + sums[i]};
            u32 which = !apart ? first + at + i : at + i == 0 ? 0 : first + at + i - 1;
            const u8 *values = page_of(op, p.pass, run, of_keys, which);
            u32 begin = which * PAGE, until = begin + PAGE;
            const float *of = weights + i * PAGE;
            u32 last = min(until, end);
#pragma unroll
            for (u32 w = 0; w < CHANNELS; w++) {
                u32 channel = t + w * THREADS;
                if (channel >= d) continue;
                float sum = scale != 1.0f ? y[w] * scale : y[w];
                for (u32 j = begin; j < min(until, beginning); j++)
                    sum = fmaf(number_at<KEPT>(values, (PAGE + j - begin) * d + channel),
                               of[j - begin], sum);
#pragma unroll 8
                for (u32 j = max(begin, start); j < last; j++)
                    sum = fmaf(number_at<KEPT>(values, (PAGE + j - begin) * d + channel),
                               of[j - begin], sum);
                y[w] = sum;
            }
        }
        __syncthreads();
    }
    float inverse = 1.0f / seen.sum;
#pragma unroll
    for (u32 w = 0; w < CHANNELS; w++)
        if (t + w * THREADS < d)
            op.y.first[(u64)c * op.y.stride + head * d + t + w * THREADS] = y[w] * inverse;
    __syncthreads();
}

__device__ __noinline__ void attend(const Op &op, const Pieces &p) {
    u32 first = p.begin(op.rows), n = p.end(op.rows) - first;
    for (u32 at = 0; at < n * p.columns(); at++) {
        u32 head = first + at % n, c = p.from + at / n;
        bool is_wide = op.n_value > THREADS;
        if (is_wide && op.is_half == KEPT_F16) attend_to<KEPT_F16, 2>(op, p, head, c);
        else if (is_wide && op.is_half == KEPT_INT8) attend_to<KEPT_INT8, 2>(op, p, head, c);
        else if (is_wide) attend_to<KEPT_F32, 2>(op, p, head, c);
        else if (op.is_half == KEPT_F16) attend_to<KEPT_F16, 1>(op, p, head, c);
        else if (op.is_half == KEPT_INT8) attend_to<KEPT_INT8, 1>(op, p, head, c);
        else attend_to<KEPT_F32, 1>(op, p, head, c);
    }
}
