//! What runs: models, kernels, state, sampler, tokenizer, threads.
