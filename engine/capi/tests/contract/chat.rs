//! Chat templates: messages to tokens, where an answer ends, refusals.

use super::*;

fn turn(role: &'static CStr, content: &'static str) -> brooklet_chat_turn {
    let (content, length) = (content.as_ptr().cast(), content.len());
    brooklet_chat_turn { role: role.as_ptr(), content, length, fields: null() }
}

fn options() -> brooklet_chat_options {
    unsafe {
        let mut options = std::mem::zeroed();
        ok(brooklet_chat_options_init(&raw mut options, size_of::<brooklet_chat_options>()));
        options
    }
}

/// The text of a conversation.
#[track_caller]
fn render(
    chat: *const brooklet_chat,
    turns: &[brooklet_chat_turn],
    options: *const brooklet_chat_options,
) -> String {
    let (mut text, mut n) = (vec![0_u8; 500], 0);
    unsafe {
        let (to, room) = (text.as_mut_ptr().cast(), text.len());
        ok(brooklet_chat_render(chat, turns.as_ptr(), turns.len(), options, to, room, &raw mut n));
    }
    text.truncate(n);
    String::from_utf8(text).expect("UTF-8")
}

unsafe extern "C" fn stop_at_once(_: *mut c_void) -> i32 {
    1
}

#[test]
#[cfg(not(feature = "chat"))]
fn builds_without_it_say_so() {
    unsafe {
        let (model, mut none) = (open_demo(), null_mut());
        assert_eq!(brooklet_chat_of_model(model, 0, &raw mut none), BROOKLET_UNSUPPORTED);
        assert!(last_message().contains("chat") && none.is_null(), "{}", last_message());
        brooklet_model_free(model);
    }
}

#[test]
#[cfg(feature = "chat")]
#[cfg_attr(not(feature = "huggingface"), ignore = "needs the demo model's own tokenizer")]
fn a_conversation_becomes_tokens() {
    unsafe {
        let model = open_demo();
        let chat = made(|to| brooklet_chat_of_model(model, 0, to));
        let tokenizer = tokenizer_of(model);
        brooklet_model_free(model);
        let turns = [turn(c"system", "Be brief."), turn(c"user", "Hi")];
        let text = "System: Be brief.\n\nUser: Hi\n\nAssistant:";
        assert_eq!(render(chat, &turns, null()), text);
        let mut without = options();
        without.without_generation_prompt = 1;
        assert_eq!(render(chat, &turns, &raw const without) + "\n\nAssistant:", text);
        let (mut ids, mut n) = ([0; 99], 0);
        let encode = |turns: &[brooklet_chat_turn], ids: *mut u32, room, n: *mut usize| {
            brooklet_chat_encode(chat, turns.as_ptr(), turns.len(), null(), ids, room, n)
        };
        assert_eq!(encode(&turns, null_mut(), 0, &raw mut n), BROOKLET_BUFFER);
        let needed = n;
        ok(encode(&turns, ids.as_mut_ptr(), ids.len(), &raw mut n));
        assert_eq!((n, &ids[..n]), (needed, &super::encode(tokenizer, text)[..]));
        // Where the answer ends.
        let stops: Vec<String> = (0..)
            .map(|i| get(|to: *mut usize| brooklet_chat_stop(chat, i, to.cast())) as *const c_char)
            .take_while(|stop| !stop.is_null())
            .map(super::text)
            .collect();
        assert_eq!(stops, ["\n\nUser:", "\nUser:", "\n\nSystem:"]);
        let own = made(|to| brooklet_chat_tokenizer(chat, to));
        assert_eq!(super::encode(own, text), super::encode(tokenizer, text));
        // Refusals.
        for (turns, code, why) in [
            (turn(c"owner", "Hi"), BROOKLET_ARGUMENT, "expected one of system, user, assistant"),
            (turn(c"", ""), BROOKLET_ARGUMENT, "role"),
            (brooklet_chat_turn { role: null(), ..turns[0] }, BROOKLET_NULL, "role is NULL"),
            (
                brooklet_chat_turn { content: c"\xff".as_ptr(), length: 1, ..turns[0] },
                BROOKLET_ARGUMENT,
                "content is not UTF-8",
            ),
            (
                brooklet_chat_turn { fields: c"[1]".as_ptr(), ..turns[0] },
                BROOKLET_ARGUMENT,
                "fields: expected a JSON object",
            ),
        ] {
            assert_eq!(encode(&[turns], ids.as_mut_ptr(), ids.len(), &raw mut n), code);
            assert!(last_message().contains(why), "{}", last_message());
        }
        assert_eq!(encode(&turns, ids.as_mut_ptr(), ids.len(), null_mut()), BROOKLET_NULL);
        let mut wrong = options();
        wrong.reserved = 1;
        let room = ids.len();
        let (to, turns) = (ids.as_mut_ptr(), turns.as_ptr());
        let refused = brooklet_chat_encode(chat, turns, 2, &raw const wrong, to, room, &raw mut n);
        assert_eq!(refused, BROOKLET_ARGUMENT);
        brooklet_tokenizer_free(own);
        brooklet_tokenizer_free(tokenizer);
        brooklet_chat_free(chat);
        brooklet_chat_free(null_mut());
    }
}

#[test]
#[cfg(all(feature = "chat", feature = "convert"))]
fn a_template_runs_within_bounds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["config.json", "model.safetensors"] {
        let from = root().join("tests/fixtures/mamba-a").join(name);
        std::fs::copy(from, folder.path().join(name)).expect("copied");
    }
    let template = "{{ messages[0].mood }}|{{ kind }}{% for m in messages %}{{ m.content }}\
        {% endfor %}{% for i in range(messages[0].content | length * 50000) %}{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("written");
    let target = c_path(&folder.path().join("own.brk"));
    let source = c_path(folder.path());
    unsafe {
        let (from, to) = (source.as_ptr(), target.as_ptr());
        ok(brooklet_convert(from, to, null(), None, null_mut(), null_mut(), 0));
        let model = made(|to| brooklet_model_open(target.as_ptr(), null(), to));
        let chat = made(|to| brooklet_chat_of_model(model, 0, to));
        let mut given = options();
        given.variables = c"{\"kind\": [1, true]}".as_ptr();
        let mut said = turn(c"user", "");
        said.fields = c"{\"mood\": \"calm\"}".as_ptr();
        assert_eq!(render(chat, &[said], &raw const given), "calm|[1, True]");
        let mut n = 0;
        let mut refused = |content, options: *const brooklet_chat_options| {
            let said = turn(c"user", content);
            let code =
                brooklet_chat_encode(chat, &raw const said, 1, options, null_mut(), 0, &raw mut n);
            (code, last_message())
        };
        given.stop = Some(stop_at_once);
        assert_eq!(refused("a", &raw const given).0, BROOKLET_CANCELLED);
        let (code, why) = refused(&"a".repeat(400).leak()[..], null());
        assert_eq!(code, BROOKLET_FILE, "{why}");
        assert!(why.contains("own.brk: the model's chat template, line 1"), "{why}");
        given.variables = c"{".as_ptr();
        assert_eq!(refused("a", &raw const given).0, BROOKLET_ARGUMENT);
        brooklet_chat_free(chat);
        let plain = made(|to| brooklet_chat_of_model(model, 1, to));
        assert_eq!(render(plain, &[said], null()), "User: \n\nAssistant:");
        brooklet_chat_free(plain);
        brooklet_model_free(model);
    }
}
