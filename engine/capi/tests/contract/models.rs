//! Opening models from every source, what they say of themselves, the memory they will need.

use super::*;

#[test]
fn a_device_that_is_not_here_is_said() {
    let path = c_path(&demo());
    unsafe {
        let mut options = std::mem::zeroed::<brooklet_model_options>();
        ok(brooklet_model_options_init(&raw mut options, size_of::<brooklet_model_options>()));
        let mut model = null_mut();
        let mut open = |device: &std::ffi::CStr| {
            options.device = device.as_ptr();
            brooklet_model_open(path.as_ptr(), &raw const options, &raw mut model)
        };
        for wrong in [c"gpu", c"cuda:", c"cuda:-1", c"CPU", c""] {
            assert_eq!(open(wrong), BROOKLET_ARGUMENT, "{wrong:?}");
            assert!(last_message().contains("cuda: and a number"), "{}", last_message());
        }
        // No machine has so many.
        assert_eq!(open(c"cuda:4095"), BROOKLET_UNSUPPORTED, "{}", last_message());
        ok(open(c"cpu"));
        brooklet_model_free(model);
    }
}

#[test]
fn the_same_model_from_everywhere() {
    let path = c_path(&demo());
    let bytes = std::fs::read(demo()).expect("the demo model");
    let mut room = vec![0_u8; bytes.len() + 128];
    let start = room.as_ptr().addr().wrapping_neg() % 64;
    room[start..start + bytes.len()].copy_from_slice(&bytes);
    let aligned = &room[start..start + bytes.len()];
    unsafe {
        let mut copy = std::mem::zeroed::<brooklet_model_options>();
        ok(brooklet_model_options_init(&raw mut copy, size_of::<brooklet_model_options>()));
        copy.copy = 1;
        let mut models = Vec::new();
        for options in [null(), &raw const copy] {
            models.push(made(|to| brooklet_model_open(path.as_ptr(), options, to)));
            let place = aligned.as_ptr().cast();
            models.push(made(|to| brooklet_model_open_memory(place, aligned.len(), options, to)));
            #[cfg(unix)]
            {
                use std::os::fd::AsRawFd;
                let file = std::fs::File::open(demo()).expect("the demo model");
                models.push(made(|to| brooklet_model_open_fd(file.as_raw_fd(), 0, 0, options, to)));
            }
        }
        // Used in place only where it is aligned.
        let shifted = bytes.as_ptr().cast();
        let anywhere =
            made(|to| brooklet_model_open_memory(shifted, bytes.len(), &raw const copy, to));
        models.push(anywhere);
        let mut none = null_mut();
        let odd = room.as_ptr().add(start + 1).cast();
        assert_eq!(
            brooklet_model_open_memory(odd, bytes.len(), null(), &raw mut none),
            BROOKLET_ARGUMENT
        );
        assert!(none.is_null() && last_message().contains("multiple of 64"), "{}", last_message());
        drop(bytes);

        let first = info(models[0]);
        let mut expected: Option<Vec<f32>> = None;
        for model in models {
            let own = info(model);
            assert_eq!((own.fingerprint, own.n_vocab), (first.fingerprint, first.n_vocab));
            assert!(own.copied_bytes == 0 || own.copied_bytes == own.file_bytes);
            let session = made(|to| brooklet_session_new(model, &session_options(1, 16, 1), to));
            // The session keeps what it needs.
            brooklet_model_free(model);
            ok(prefill(session, &[1, 2, 3]));
            let row = logits(session);
            assert_eq!(row.len() as u64, first.n_vocab);
            assert_eq!(expected.get_or_insert(row.clone()), &row);
            brooklet_session_free(session);
        }
    }
}

#[test]
fn a_model_inside_an_archive() {
    #[cfg(unix)]
    unsafe {
        use std::os::fd::AsRawFd;
        let bytes = std::fs::read(demo()).expect("the demo model");
        for offset in [64, 13] {
            let mut archive = vec![7; offset];
            archive.extend(&bytes);
            archive.extend([7; 100]);
            let mut file = tempfile::tempfile().expect("a temporary file");
            std::io::Write::write_all(&mut file, &archive).expect("written");
            let (fd, length) = (file.as_raw_fd(), bytes.len() as u64);
            let model = made(|to| brooklet_model_open_fd(fd, offset as u64, length, null(), to));
            drop(file);
            assert_eq!(info(model).copied_bytes > 0, offset == 13);
            ok(brooklet_model_verify(model, None, null_mut()));
            brooklet_model_free(model);
        }
        let mut none = null_mut();
        assert_eq!(brooklet_model_open_fd(-1, 0, 0, null(), &raw mut none), BROOKLET_ARGUMENT);
        assert_eq!(brooklet_model_open_fd(987_654, 0, 0, null(), &raw mut none), BROOKLET_IO);
    }
}

#[test]
fn what_a_model_is() {
    unsafe {
        let model = open_demo();
        assert_eq!(text(brooklet_model_architecture(model)), "rwkv7");
        assert!(!text(brooklet_model_isa(model)).is_empty());
        let metadata = text(brooklet_model_metadata(model));
        assert!(
            metadata.contains("\"n_layer\"") && metadata.contains("\"provenance\""),
            "{metadata}"
        );
        let own = info(model);
        // A program of an older version knows fewer fields, one of a newer version more.
        let mut small = [0xee_u8; 100];
        ok(brooklet_model_get_info(model, small.as_mut_ptr().cast(), 16));
        assert_eq!(small[..8], own.n_layer.to_ne_bytes());
        assert!(small[16..].iter().all(|&byte| byte == 0xee));
        ok(brooklet_model_get_info(model, small.as_mut_ptr().cast(), 100));
        let beyond = &small[size_of::<brooklet_model_info>()..];
        assert!(!beyond.is_empty() && beyond.iter().all(|&byte| byte == 0));

        let mut length = 0;
        let mut bytes = 0;
        for index in 0..own.n_slot as usize {
            let (mut slot, mut name) = (std::mem::zeroed::<brooklet_slot>(), [0_u8; 64]);
            let size = size_of::<brooklet_slot>();
            let to = name.as_mut_ptr().cast();
            ok(brooklet_model_slot(model, index, &raw mut slot, size, to, 64, &raw mut length));
            assert!(
                length > 0
                    && slot.shape[..slot.n_dim as usize].iter().product::<u64>() == slot.length
            );
            assert_eq!(text(slot.dtype.as_ptr()), "f32");
            bytes += (slot.length * 4).next_multiple_of(64);
        }
        assert_eq!(bytes, own.state_bytes);
        let beyond = own.n_slot as usize;
        let refused =
            brooklet_model_slot(model, beyond, null_mut(), 0, null_mut(), 0, &raw mut length);
        assert_eq!(refused, BROOKLET_ARGUMENT);
        brooklet_model_free(model);
    }
}

#[test]
fn a_window_is_for_attention_to_every_token() {
    unsafe {
        let (path, size) = (c_path(&demo()), size_of::<brooklet_model_options>());
        let mut options = std::mem::zeroed::<brooklet_model_options>();
        ok(brooklet_model_options_init(&raw mut options, size));
        assert_eq!(options.window, 0);
        options.window = 64;
        let mut model = null_mut();
        let open = |options: &brooklet_model_options, model| {
            brooklet_model_open(path.as_ptr(), options, model)
        };
        assert_ne!(open(&options, &raw mut model), BROOKLET_OK);
        assert!(model.is_null());
        // A program that was compiled before there were windows has something else there.
        options.size = std::mem::offset_of!(brooklet_model_options, window);
        ok(open(&options, &raw mut model));
        brooklet_model_free(model);
    }
}

#[test]
fn memory_is_known_before_it_is_taken() {
    unsafe {
        let (path, size) = (c_path(&demo()), size_of::<brooklet_plan>());
        let mut plan = std::mem::zeroed::<brooklet_plan>();
        ok(brooklet_plan_file(path.as_ptr(), null(), null(), &raw mut plan, size));
        let file = std::fs::metadata(demo()).expect("the demo model").len();
        assert_eq!((plan.file_bytes, plan.copied_bytes), (file, 0));
        assert_eq!(plan.private_bytes, plan.session_bytes + plan.state_bytes);
        let mut copy = std::mem::zeroed::<brooklet_model_options>();
        ok(brooklet_model_options_init(&raw mut copy, size_of::<brooklet_model_options>()));
        copy.copy = 1;
        let mut copied = plan;
        ok(brooklet_plan_file(path.as_ptr(), &raw const copy, null(), &raw mut copied, size));
        assert_eq!(copied.private_bytes, plan.private_bytes + file);
        // Matrices of half the size, vectors of the same.
        let mut half = plan;
        ok(brooklet_plan_file(
            path.as_ptr(),
            &raw const *half_states(),
            null(),
            &raw mut half,
            size,
        ));
        assert!(
            half.state_bytes < plan.state_bytes * 6 / 10 && half.state_bytes > plan.state_bytes / 2
        );
        assert_eq!(half.private_bytes, half.session_bytes + half.state_bytes);
        let model = open_demo();
        let mut small = plan;
        ok(brooklet_model_plan(model, &session_options(1, 1, 1), &raw mut small, size));
        assert!(small.session_bytes < plan.session_bytes && small.state_bytes == plan.state_bytes);
        // Memory that no machine has is refused before it is tried.
        let mut session = null_mut();
        for options in [
            session_options(1, 0, 1),
            session_options(1, 70_000, 1),
            session_options(1, 4, 5),
            session_options(9999, 4, 1),
        ] {
            assert_eq!(
                brooklet_session_new(model, &raw const options, &raw mut session),
                BROOKLET_ARGUMENT
            );
        }
        assert!(session.is_null());
        brooklet_model_free(model);
    }
}
