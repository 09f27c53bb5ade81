//! The calls of `sequence.rs` on tokenizers, decoders and samplers.

use std::ptr::null;

use super::capi::brooklet_result::*;
use super::capi::*;
use super::sequence::{MOST, World, check};

impl World<'_> {
    pub(super) unsafe fn use_a_tokenizer(&mut self) {
        let World { choice, tokenizers, .. } = self;
        let tokenizer = tokenizers.any(choice);
        unsafe {
            let text: Vec<u8> = (0..choice.below(40)).map(|_| choice.byte()).collect();
            let mut ids = vec![0xabab_abab_u32; 64];
            let (capacity, mut n) = (choice.below(65), usize::MAX);
            let (from, to) = (text.as_ptr().cast(), ids.as_mut_ptr());
            let encode = if choice.one_in(2) {
                brooklet_tokenizer_encode
            } else {
                brooklet_tokenizer_prompt
            };
            let length = if choice.one_in(9) { usize::MAX } else { text.len() };
            let result = encode(tokenizer, from, length, to, capacity, &raw mut n);
            if check(result) {
                assert!(n <= text.len() + 1);
                let mut back = vec![0x5a_u8; 400];
                let room = choice.below(256);
                let mut length = usize::MAX;
                let to = back.as_mut_ptr().cast();
                let result = brooklet_tokenizer_decode(
                    tokenizer,
                    ids.as_ptr(),
                    n,
                    to,
                    room,
                    &raw mut length,
                );
                check(result);
                assert!(result == BROOKLET_OK || back.iter().all(|&byte| byte == 0x5a));
                assert!(back[room..].iter().all(|&byte| byte == 0x5a), "no byte behind the buffer");
            } else {
                assert!(ids.iter().all(|&id| id == 0xabab_abab), "written only on success");
                assert_eq!(n != usize::MAX, result == BROOKLET_BUFFER);
            }
            let (mut bytes, mut length) = (null(), 0);
            check(brooklet_tokenizer_token_bytes(
                tokenizer,
                choice.word() % 400,
                &raw mut bytes,
                &raw mut length,
            ));
            let mut id = 0;
            check(brooklet_tokenizer_find(tokenizer, c"a".as_ptr(), &raw mut id));
            check(brooklet_tokenizer_n_vocab(tokenizer, &raw mut length));
            check(brooklet_tokenizer_ends(
                tokenizer,
                &raw mut id,
                choice.below(2),
                &raw mut length,
            ));
        }
    }

    pub(super) unsafe fn use_a_decoder(&mut self) {
        let World { choice, decoders, .. } = self;
        let decoder = decoders.any(choice);
        for _ in 0..choice.below(12) {
            let (mut text, mut length, mut stop) = (null(), 0, 0);
            let id = if choice.one_in(30) { choice.word() } else { u32::from(choice.byte()) };
            let pushed = check(unsafe {
                brooklet_decoder_push(decoder, id, &raw mut text, &raw mut length, &raw mut stop)
            });
            if pushed {
                let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length + 1) };
                assert!(bytes[length] == 0 && std::str::from_utf8(bytes).is_ok());
            }
        }
        if choice.one_in(4) {
            let (mut text, mut length) = (null(), 0);
            check(unsafe { brooklet_decoder_finish(decoder, &raw mut text, &raw mut length) });
        }
    }

    pub(super) unsafe fn use_a_sampler(&mut self) {
        let World { choice, samplers, .. } = self;
        let sampler = samplers.any(choice);
        unsafe {
            let logits: Vec<f32> = (0..choice.below(200)).map(|_| choice.float()).collect();
            let mut token = 7;
            let n = if choice.one_in(9) { usize::MAX } else { logits.len() };
            if check(brooklet_sampler_sample(sampler, logits.as_ptr(), n, &raw mut token)) {
                assert!((token as usize) < logits.len());
                check(brooklet_sampler_accept(sampler, token));
            }
            check(brooklet_sampler_accept(sampler, choice.word()));
            let (mut saved, mut n) = (vec![0_u8; 4096], 0);
            let capacity = choice.length(saved.len()).min(saved.len());
            if check(brooklet_sampler_save(
                sampler,
                saved.as_mut_ptr().cast(),
                capacity,
                &raw mut n,
            )) {
                if choice.one_in(3) {
                    saved[choice.below(n)] ^= choice.byte();
                }
                let other = samplers.any(choice);
                check(brooklet_sampler_restore(
                    other,
                    saved.as_ptr().cast(),
                    choice.length(n).min(n),
                ));
            }
            match choice.below(8) {
                0 => {
                    check(brooklet_sampler_reset(sampler));
                }
                1 if samplers.0.len() < MOST => {
                    samplers.add(choice, brooklet_sampler_free, |to| {
                        brooklet_sampler_clone(sampler, to)
                    });
                }
                _ => {}
            }
        }
    }
}
