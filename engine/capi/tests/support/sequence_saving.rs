//! The calls of `sequence.rs` on snapshots, and states as bytes.

use std::ptr::null;

use super::capi::*;
use super::sequence::{World, check};

impl World<'_> {
    pub(super) unsafe fn use_a_snapshot(&mut self) {
        let World { choice, models, samplers, states, sessions, snapshots, .. } = self;
        let (model, session, sampler) =
            (models.any(choice), sessions.any(choice), samplers.any(choice));
        let snapshot = snapshots.any(choice);
        let dtype = [null(), c"f16".as_ptr(), c"int8".as_ptr(), c"int4".as_ptr()][choice.below(4)];
        unsafe {
            match choice.below(5) {
                0 | 1 => snapshots.add(choice, brooklet_snapshot_free, |to| {
                    brooklet_snapshot_of_session(session, sampler, to)
                }),
                2 => {
                    check(brooklet_session_resume(session, snapshot, sampler));
                }
                3 => {
                    let tokens = choice.tokens();
                    let unread = choice.below(tokens.len() + 2);
                    check(brooklet_snapshot_set_tail(
                        snapshot,
                        tokens.as_ptr(),
                        tokens.len(),
                        unread,
                    ));
                    check(brooklet_snapshot_set_note(snapshot, c"a note".as_ptr()));
                    let (mut note, mut n) = ([0x5a_u8; 8], 0);
                    let room = choice.below(9);
                    check(brooklet_snapshot_note(
                        snapshot,
                        note.as_mut_ptr().cast(),
                        room,
                        &raw mut n,
                    ));
                    assert!(
                        note[room..].iter().all(|&byte| byte == 0x5a),
                        "no byte behind the buffer"
                    );
                }
                _ => {
                    // Bytes, whole or damaged, of a snapshot or of a state.
                    let (mut bytes, mut n) = (vec![0_u8; 1 << 20], 0);
                    let (to, room) =
                        (bytes.as_mut_ptr().cast(), choice.length(1 << 20).min(1 << 20));
                    let state = states.any(choice);
                    let whole = choice.one_in(2);
                    let written = if whole {
                        brooklet_snapshot_to_bytes(snapshot, dtype, to, room, &raw mut n)
                    } else {
                        brooklet_state_to_bytes(state, dtype, to, room, &raw mut n)
                    };
                    if check(written) {
                        if choice.one_in(2) {
                            let at = choice.word() as usize % n;
                            bytes[at] ^= choice.byte();
                        }
                        let (from, n) = (bytes.as_ptr().cast(), choice.length(n).min(n));
                        if whole {
                            snapshots.add(choice, brooklet_snapshot_free, |to| {
                                brooklet_snapshot_from_bytes(model, from, n, to)
                            });
                        } else {
                            states.add(choice, brooklet_state_free, |to| {
                                brooklet_state_from_bytes(model, from, n, to)
                            });
                        }
                    }
                }
            }
        }
    }
}
