//! Numbers, lengths, tokens and floats that bytes choose; for `sequence.rs`.

/// Chooses from bytes; zeros when they are used up.
pub struct Choice<'a>(pub &'a [u8]);

impl Choice<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// A length: mostly `right`, else less, more than any memory, or none.
    pub fn length(&mut self, right: usize) -> usize {
        match self.below(16) {
            0 => 0,
            1 => usize::MAX,
            2 => usize::MAX / 4 - 1,
            3 => right / 2,
            _ => right,
        }
    }

    /// Up to 20 tokens, mostly of a small vocabulary.
    pub fn tokens(&mut self) -> Vec<u32> {
        (0..self.below(20))
            .map(|_| if self.one_in(60) { self.word() } else { u32::from(self.byte()) })
            .collect()
    }

    pub fn float(&mut self) -> f32 {
        match self.below(8) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => -1.0,
            3 => 0.0,
            _ => f32::from(self.byte()) / 128.0,
        }
    }
}
