// Formulas that are known when this is compiled (`formulas.cuh`): their steps unroll to straight
// code. Over several columns a thread takes four elements that stand side by side, where they do.

// The functions of a formula over the values of its terms: steps unroll to straight code. They are
// those of `value_of`.
template <u64 FIRST, u64 MORE, u32 I = 0, u32 TOP = 0, u32 NEXT = 0>
__device__ __forceinline__ void walk(float *stack, const float *a) {
    if constexpr (I < 16) {
        constexpr u32 step = (u32)((I < 8 ? FIRST >> 8 * (I % 8) : MORE >> 8 * (I % 8)) & 0xff);
        if constexpr (step == 1) {
            stack[TOP] = a[NEXT];
            walk<FIRST, MORE, I + 1, TOP + 1, NEXT + 1>(stack, a);
        } else if constexpr (step >= 8) {
            stack[TOP - 1] = function(step - 2, stack[TOP - 1], stack[TOP - 1]);
            walk<FIRST, MORE, I + 1, TOP, NEXT>(stack, a);
        } else if constexpr (step > 1) {
            stack[TOP - 2] = function(step - 2, stack[TOP - 2], stack[TOP - 1]);
            walk<FIRST, MORE, I + 1, TOP - 1, NEXT>(stack, a);
        }
    }
}

__device__ constexpr u32 pushes(u64 steps) {
    u32 n = 0;
    for (u32 i = 0; i < 8; i++) n += (steps >> 8 * i & 0xff) == 1;
    return n;
}

// Where the column before c has its numbers: in a buffer of so many floats a column, or, of the
// first of a run, in its state. A function, since all formulas would have it for each of their
// terms.
__device__ __noinline__ const float *column_before(const Pieces &p, const float *from, u32 stride,
                                                   u32 line, u32 c) {
    u64 state = 0;
    if (p.beginnings) {
        state = p.beginnings[c];
    } else {
        u32 run = p.of_pass->run_of[c];
        if (p.of_pass->spans[run] == c) state = (u64)p.of_pass->states[run];
    }
    return state ? (const float *)(state + 64ull * line) : from + (u64)(c - 1) * stride;
}

template <u32 W> struct Some {
    float v[W];
};

// A formula of W elements, of which the terms' values are known.
template <u64 FIRST, u64 MORE, u32 N, u32 W>
__device__ __forceinline__ Some<W> values(const float (&a)[N][W]) {
    Some<W> y;
#pragma unroll
    for (u32 w = 0; w < W; w++) {
        float of[N], stack[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) of[k] = a[k][w];
        walk<FIRST, MORE>(stack, of);
        y.v[w] = stack[0];
    }
    return y;
}

// A formula's terms, as a thread finds them in every column.
template <u64 FIRST, u64 MORE> struct Known {
    static constexpr u32 N = pushes(FIRST) + pushes(MORE);
    const float *from[N];
    // Floats from a column to the next; elements that share a number, as a shift; the kind.
    u32 stride[N], shift[N], kind[N], line[N];
    float number[N];
    const Pieces &p;

    __device__ __forceinline__ Known(const Op &op, const Pieces &p) : p(p) {
        const Term *terms = p.stage->terms() + op.first_term;
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            const Term &t = terms[k];
            kind[k] = t.kind, line[k] = t.line, number[k] = t.number;
            from[k] = t.from + (t.kind == 0 ? t.first : 0);
            stride[k] = t.kind == 0 || t.kind == 2 ? t.stride : 0;
            shift[k] = t.kind == 3 ? 0 : __ffs(t.each) - 1;
        }
    }

    // Where the term's numbers of column c begin.
    __device__ __forceinline__ const float *column(u32 k, u32 c) const {
        if (kind[k] != 2) return from[k] + (u64)c * stride[k];
        return column_before(p, from[k], stride[k], line[k], c);
    }

    // Elements i, i + 1, … of column c.
    template <u32 W> __device__ __forceinline__ Some<W> at(u32 i, u32 c) const {
        float a[N][W];
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            if (kind[k] == 3) {
#pragma unroll
                for (u32 w = 0; w < W; w++) a[k][w] = number[k];
                continue;
            }
            const float *of = column(k, c);
            if (W == 4 && shift[k] == 0) {
                const float4 all = *(const float4 *)(of + i);
                a[k][0] = all.x, a[k][1 % W] = all.y, a[k][2 % W] = all.z, a[k][3 % W] = all.w;
            } else {
                float one = of[i >> shift[k]];
#pragma unroll
                for (u32 w = 0; w < W; w++) a[k][w] = one;
            }
        }
        return values<FIRST, MORE>(a);
    }
};

// An element of an operation's formula.
__device__ __noinline__ float element_of(const Op &op, const Pieces &p, u32 i, u32 c) {
#define FORMULA(number, first, more)                                                              \
    case number: return Known<first, more>(op, p).at<1>(i, c).v[0];
    switch (op.formula) {
#include "formulas.cuh"
    default: return element(op, p, i, c);
    }
#undef FORMULA
}
