//! Checkpoints as their authors publish them: names, shapes and rows decoded to f32.
