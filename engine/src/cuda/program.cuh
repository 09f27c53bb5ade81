// The host's side of a pass: operations, formulas, stages. `structs.rs` has the same structs.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// A term of a formula.
struct Term {
    // 0 values, 1 weights, 2 the column before, 3 a number.
    u32 kind;
    u32 first;
    u32 each;
    // Floats from a column to the next.
    u32 stride;
    float number;
    // Cache line of the state.
    u32 line;
    const float *from;
};

enum Kind : u32 {
    EMBED, GATHER, MAP, SUM, LAYER_NORM, RMS_NORM, PACK, PROJECT, KEEP, CONV, HEADS, SCAN, AVERAGE,
    TURN, REMEMBER, ATTEND, EXACT, CHOOSE, EXPERTS, FOLD, PLACE, BLOCKS,
    SLOTS, SPIN, LEVELS, SPREAD, MESA, PAST, HEAD_CONVS, NGRAMS, BEST, CELLS
};

enum Format : u32 { F32, F16, BF16, INT8, INT4_V1, INT4, INT5, INT6, FP8_E4M3, FP8_E5M2, LMUL };

// A buffer of columns.
struct Values {
    float *first;
    u32 stride;
    u32 rows;
};

// Activations, in the forms that are read: pointers that are null elsewhere.
struct Inputs {
    struct Int8Group *int8;
    float *f32;
    u16 *bf16;
    u32 k;
    // Groups of 64 from a column to the next: what pads matrices is there, too, and zero.
    u32 groups;
};

// A matrix in tiles, as its file has it.
struct Matrix {
    const u8 *tiles;
    // Of formats with steps: the table, then steps and scales of every tile.
    const u8 *sheet;
    u32 format;
    u32 rows;
    u32 cols;
    u32 group;
    u32 pair_bytes;
    u32 pairs;
};

// A head's elements of a buffer.
struct OfHead {
    const float *from;
    u32 stride;
    u32 first;
    u32 step;
    u32 share;
};

struct Op {
    u32 kind;
    // Pieces of rows: so many rows of y; of Pack groups of 64, of Heads heads.
    u32 rows;
    // Elements of a sum or a norm; steps of Heads, each as a column, where there are some; what
    // Exact reads, experts that Choose chooses, tiles of one of Experts, levels of Levels; of Spin
    // where angles begin among `n_value` numbers of a head; of Turn whether heads have angles of
    // their own; of Spread experts that are chosen among; steps of Mesa; columns that Past keeps,
    // taps of HeadConvs over heads; tokens of a block of Best, and of Remember where what is kept
    // is that; profiles of distances of Attend, which are `weight`.
    u32 over;
    u32 first_term;
    u32 terms;
    float eps;
    // Cache lines of states, and whether they are f16. Of attention: the line of a page where the
    // layer begins, the kind of page, the lines of a head; how they are kept (`attention.cuh`). Of
    // Choose experts, those that every token gets, whether weights are divided by their sum;
    // whether scores are sigmoids. Of Place elements of each part. Of HeadConvs heads of queries,
    // those for each head of keys, values of each channel.
    u32 line[3];
    u32 is_half;
    // Of Conv taps and blocks that have some, of Heads keys and values, of Scan d_state and d_head;
    // of Turn pairs, of Attend heads that share keys, and the channels of a head; of Choose groups,
    // and those that are used; of Experts rows of one; of Blocks channels of one. Of Place, with
    // `over`, where parts go. Of HeadConvs taps over channels, and channels of a head; of Ngrams
    // tokens of the longest; of Cells gates.
    u32 n_key;
    u32 n_value;
    // Of a formula: a byte for each step, 0 behind the last. 1 pushes a term, the others are
    // functions.
    u64 steps[2];
    Values y;
    // Of Heads and Conv whether columns are seen, where some are not: of Heads a number for every
    // so many `rows` of them.
    Values x;
    Inputs inputs;
    // Its activations as int8, as tensor cores read them (`rows.cuh`).
    struct Eight *eights;
    Matrix w;
    const float *weight;
    const float *bias;
    // Of Place r, k and v, from one element of a part to the next the `step` of decay, a and b. Of
    // HeadConvs they begin where weights over heads, their biases and temperatures do; of Ngrams r
    // and k where multipliers do, and each head's rows and its first.
    OfHead r, k, v, decay, a, b;
    // Per head; null where there is none. Of Choose and Experts weights, of Experts what their sum
    // is added to. Of Attend how profiles are mixed, the blocks that are chosen. Of
    // Cells, whose y is the product with what was before, what they give.
    Values scale, factor;
    // 0 per head, 1 per key. Of Attend distances that scores know.
    u32 is_per_key;
    // 0 none, 1 general, 2 a rule; of Choose whether no expert may be chosen, of Experts whether
    // each has activations of its own; of Attend tokens of the blocks that are chosen, 0 if all are
    // seen.
    u32 delta;
    // Of Ngrams the token that ends a text. Of Attend: the last tokens that are seen, all of them
    // if all bits are set, and the first; of Choose two floats: what weights are multiplied by, the
    // bias of no expert.
    u32 window;
    u32 beginning;
    // Of a formula: its number among those that are compiled (`formulas.cuh`), and whether four
    // elements stand side by side, whole times sixteen bytes from where their terms begin.
    u32 formula;
    u32 is_by_four;
    // Stages are copied sixteen bytes at a time.
    u64 unused;
};

struct Chain {
    // Its first operation in the stage.
    u32 first_op;
    u32 ops;
    u32 pieces;
    u32 unused;
};

// A stage lies in one piece: this, its chains, its operations (the prelude's first), their terms.
struct Stage {
    u32 preludes;
    u32 chains;
    // Pieces of all chains.
    u32 pieces;
    // Columns are those whose logits are wanted.
    u32 is_wanted;
    // Bytes from here to the operations and to the terms.
    u32 ops_at;
    u32 terms_at;
    // Where the next stage lies among all, and its bytes.
    u32 next_at;
    u32 next_bytes;

    __device__ const Chain *chain(u32 i) const { return (const Chain *)(this + 1) + i; }
    __device__ const Op &op(u32 i) const { return ((const Op *)((const u8 *)this + ops_at))[i]; }
    __device__ const Term *terms() const { return (const Term *)((const u8 *)this + terms_at); }
};

// The columns of a pass.
struct Pass {
    u32 columns;
    u32 wanted;
    u32 runs;
    // Kinds of pages of a state.
    u32 groups;
    // Of each column: its token, its run, and of those wanted which column.
    const u32 *tokens;
    const u32 *run_of;
    const u32 *wanted_columns;
    // Of each run: where its columns begin, and behind the last where they end; its state.
    const u32 *spans;
    u8 *const *states;
    // Of each run: the tokens that it has read before. Of each run and kind of page: which of
    // `pages` is its first.
    const u32 *positions;
    const u32 *page_starts;
    u8 *const *pages;
};

// `structs.rs` compares these with its own.
static_assert(sizeof(Term) == 32);
static_assert(sizeof(Op) == 400);
static_assert(sizeof(Chain) == 16);
static_assert(sizeof(Stage) == 32);
static_assert(sizeof(Pass) == 80);
