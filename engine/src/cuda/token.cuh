// One token through all stages: what a pass of a single column reads. `token.rs` writes these
// words.
//
// A block has words of its own for every stage, one task behind the other: no block looks for its
// piece. A task names *moves*, operations or parts of them, in their order; where values are read
// by this block alone they stand *near*, in its own memory, else *far*. While a stage runs, what
// the next one reads of weights is already on its way.
//
//   block   task of stage 0   task of stage 1   …
//   task    head · fetches for the next stage · moves · places that are counted from a base

// A part of an operation for one block.
struct Move {
    u8 kind;
    // 1: what other threads have done must be there.
    u8 flags;
    u16 bytes;
    // Elements, groups, tiles, heads: those from `begin` to `end`.
    u32 begin;
    u32 end;
    u32 n;
};

enum MoveKind : u32 {
    MOVE_MAP,
    MOVE_SUM,
    MOVE_PACK,
    MOVE_NORM,
    MOVE_PROJECT,
    MOVE_HEADS,
    MOVE_CONV,
    MOVE_KEEP,
    MOVE_COPY,
    MOVE_OTHER
};

// Where values go; null where nobody reads them there.
struct Target {
    float *near;
    float *far;

    __device__ void set(u32 i, float x) const {
        if (near) near[i] = x;
        if (far) far[i] = x;
    }
};

// A term: `each` is 0 for the number, 1 + s for element i >> s, 256 + e for element i / e.
struct Number {
    const float *from;
    u32 each;
    float number;
};

// A formula: its number in `formulas.cuh`, or its steps; its terms behind it.
struct Expression {
    u32 formula;
    u32 terms;
    u64 steps[2];

    __device__ const Number *numbers() const { return (const Number *)(this + 1); }
};

// Of a sum `n` is the elements of each, of a map the thread of the first element.
struct MapMove {
    Move m;
    Target y;
    Expression f;
};

// `n` activations.
struct PackMove {
    Move m;
    struct Int8Group *int8;
    float *f32;
    u16 *bf16;
    // Whether the formula is a compiled one, and four elements side by side can be read at once:
    // whole times sixteen bytes from where each term begins, or one number for all four.
    u32 is_by_four;
    u32 unused;
    Expression f;
};

// `n` elements of a group.
struct NormMove {
    Move m;
    Target y;
    const float *x;
    const float *weight;
    const float *bias;
    float eps;
    // 1: minus the mean; 2: weights of one group serve all; 4: one long group, see `long_norm`.
    u32 how;
};

// Tiles of a matrix; `n` is the first of its parts among those of the moves that run with it.
struct ProjectMove {
    Move m;
    Matrix w;
    Inputs x;
    Target y;
    // From tile `begin` on.
    const u8 *codes;
    const u8 *scales;
    // Values of int4, plus 32.
    u32 table[4];
    // Of a row, and 2³² / that, rounded up.
    u32 parts;
    u32 inverse;
    // The first row's thread.
    u32 first_row;
    // Moves from here on that run together.
    u32 together;
    u64 unused;
};

// n / d for the `inverse` of d: 2³² / d, rounded up; 0 stands for d = 1. Both have 16 bits at most.
__device__ inline u32 divided(u32 n, u32 inverse) { return inverse ? __umulhi(n, inverse) : n; }

// Heads share those of so many, of which this is the inverse.
struct Numbers {
    const float *from;
    u32 step;
    u32 inverse;

    __device__ const float *of(u32 head) const { return from + divided(head, inverse) * step; }
};

struct HeadsMove {
    Move m;
    Target y;
    Numbers r, k, v, decay, a, b;
    const float *scale;
    const float *factor;
    const float *bonus;
    u8 *state;
    // The heads' states from `begin` on, where they were brought near.
    const u8 *held;
    u32 n_key, n_value;
    u32 is_half, is_per_key;
    u32 delta;
    // The inverse of a head's values; keys that all threads take at once, and whose sums follow.
    u32 inverse, apart, at_once;
    u64 unused;
};

// `n` taps.
struct ConvMove {
    Move m;
    Target y;
    const float *x;
    const float *taps;
    const float *bias;
    float *window;
};

// `n` numbers that come near: so many pieces from `begin` to `end`.
struct Copied {
    const float *from;
    u32 to;
    u32 n;
};

struct KeepMove {
    Move m;
    const float *x;
    float *state;
};

// An operation as `run.cu` has it: pieces from `begin` to `end` of `n`.
struct OtherMove {
    Move m;
    Op op;
};

// Bytes that the next stage reads: brought near to `to`, or only into the card's cache.
struct Fetch {
    const u8 *from;
    u32 to;
    u32 bytes;
};

struct Task {
    u32 bytes;
    u32 next_bytes;
    u32 moves_at;
    u32 moves;
    u32 fetches;
    // Bytes that they bring near.
    u32 near_bytes;
    // Places that are counted from the block's own memory (0) or from the state (1 << 31).
    u32 places_at;
    u32 places;

    __device__ const Fetch *fetch(u32 i) const { return (const Fetch *)(this + 1) + i; }
};

#define CACHE_ONLY 0xffffffffu
#define OF_STATE (1u << 31)

// `token.rs` compares these with its own.
static_assert(sizeof(MapMove) == 56);
static_assert(sizeof(PackMove) == 72);
static_assert(sizeof(NormMove) == 64);
static_assert(sizeof(ProjectMove) == 160);
static_assert(sizeof(HeadsMove) == 208);
static_assert(sizeof(ConvMove) == 64);
static_assert(sizeof(KeepMove) == 32);
static_assert(sizeof(OtherMove) == 416);
static_assert(sizeof(Task) == 32);
