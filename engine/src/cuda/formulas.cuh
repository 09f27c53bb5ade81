// Formulas that are compiled: a number, and the bytes of its steps as `program.cuh` has them. What
// is not here is interpreted, step by step. The words of a program name a formula by this number,
// which `token_words.rs` reads off these lines. Terms are a, b, … in the order in which they are
// pushed.
FORMULA(0, 0x2040103010101ull, 0x0ull) // (a + ((b − c) · d))
FORMULA(1, 0x1ull, 0x0ull) // a
FORMULA(2, 0x20101ull, 0x0ull) // (a + b)
FORMULA(3, 0xd01ull, 0x0ull) // silu a
FORMULA(4, 0xb01ull, 0x0ull) // tanh a
FORMULA(5, 0x40101ull, 0x0ull) // (a · b)
FORMULA(6, 0x402010103010101ull, 0x2ull) // (a + ((b − c) · (d + e)))
FORMULA(7, 0xf01ull, 0x0ull) // relusquared a
FORMULA(8, 0xe020101ull, 0x0ull) // softplus (a + b)
FORMULA(9, 0xc020101ull, 0x0ull) // sigmoid (a + b)
FORMULA(10, 0xc01ull, 0x0ull) // sigmoid a
FORMULA(11, 0xa040c02010101ull, 0x0ull) // exp (a · sigmoid (b + c))
FORMULA(12, 0xa040101ull, 0x0ull) // exp (a · b)
FORMULA(13, 0x7060e0201010101ull, 0x0ull) // min(a, max(b, softplus (c + d)))
FORMULA(14, 0x40d0101ull, 0x0ull) // (a · silu b)
FORMULA(15, 0x405060109010101ull, 0x8ull) // −(a · (b / max(sqrt c, d)))
FORMULA(16, 0x404010101ull, 0x0ull) // (a · (b · c))
FORMULA(17, 0x4010801ull, 0x0ull) // (−a · b)
FORMULA(18, 0x4010204010101ull, 0x0ull) // ((a + (b · c)) · d)
FORMULA(19, 0x204010c0101ull, 0x0ull) // (a + (sigmoid b · c))
FORMULA(20, 0x204010301010101ull, 0x4ull) // (a · (b + ((c − d) · e)))
FORMULA(21, 0x204010101ull, 0x0ull) // (a + (b · c))
FORMULA(22, 0xc02010103010101ull, 0x204ull) // (a + ((b − c) · sigmoid (d + e)))
FORMULA(23, 0xa080a020101ull, 0x0ull) // exp −exp (a + b)
