//! Chat templates: messages to tokens, and where an answer ends.
//!
//! Not here: the templates (`brooklet::chat`); builds without the feature `chat` refuse to make a
//! handle. Test: `tests/contract/chat.rs`.

use std::ffi::{CString, c_char, c_void};

use brooklet::Text;

use super::arguments::{fill, optional_string, out, slice, string};
use super::failure::{Failure, Result, brooklet_result, call};
use super::handle::{Handle, Opaque, free, make_from, message, on};
use super::model::brooklet_model;
use super::options::{Options, init, read};
use super::tokenizer::brooklet_tokenizer;

use self::engine::Template;

/// A model's chat template. Never changes.
pub struct brooklet_chat(Handle<Chat>);

/// A template, and where its answers end.
pub(crate) struct Chat {
    template: Template,
    /// The model's words; a text ends where an answer does.
    text: Text,
    stops: Vec<CString>,
}

impl Opaque for brooklet_chat {
    type Value = Chat;
    const NAME: &'static str = "chat";

    fn new(handle: Handle<Chat>) -> Self {
        brooklet_chat(handle)
    }

    fn handle(&self) -> &Handle<Chat> {
        &self.0
    }
}

/// One turn of a conversation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_chat_turn {
    /// Who speaks: "system", "user", "assistant" or "tool".
    pub role: *const c_char,
    /// The words: `length` bytes of UTF-8.
    pub content: *const c_char,
    /// Bytes of the words.
    pub length: usize,
    /// More that the template may look at ("tool_calls", …): a JSON object, or NULL.
    pub fields: *const c_char,
}

/// Asked now and then while a template runs; non-zero asks to stop. It must not throw or jump away.
pub type brooklet_stop = Option<unsafe extern "C" fn(user: *mut c_void) -> i32>;

/// How a conversation is rendered. Set by brooklet_chat_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_chat_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// More variables for the template ("tools", "enable_thinking", …): a JSON object. Default
    /// NULL.
    pub variables: *const c_char,
    /// When to end early with BROOKLET_CANCELLED. Default NULL.
    pub stop: brooklet_stop,
    /// For `stop`.
    pub user: *mut c_void,
    /// Not 0: end behind the last turn, not where the assistant begins to speak. Default 0.
    pub without_generation_prompt: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: numbers and pointers; a function pointer may be none.
unsafe impl Options for brooklet_chat_options {
    const FIRST_SIZE: usize = size_of::<brooklet_chat_options>();

    fn defaults() -> Self {
        brooklet_chat_options {
            size: size_of::<Self>(),
            variables: std::ptr::null(),
            stop: None,
            user: std::ptr::null_mut(),
            without_generation_prompt: 0,
            reserved: 0,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_chat_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_options_init(
    options: *mut brooklet_chat_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: `options` is NULL, which is refused, or `size` bytes may be written there: promised
    // (top of the header).
    call(|| unsafe { init(options, size) })
}

/// The chat template that a model carries; where it carries none, or `plain` is not 0, the format
/// `User: …`, `Assistant: …` of RWKV's World models. BROOKLET_UNSUPPORTED without
/// BROOKLET_FEATURE_CHAT.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_of_model(
    model: *const brooklet_model,
    plain: i32,
    chat: *mut *mut brooklet_chat,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe { make_from(model, chat, |opened| engine::open(&opened.model, plain != 0)) }
}

/// Frees a chat template; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_free(chat: *mut brooklet_chat) {
    // SAFETY: NULL, or a handle of this library that no call uses now or later: promised (top of
    // the header).
    unsafe { free(chat) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_message(
    chat: *const brooklet_chat,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: NULL or a handle of this library, which nobody frees meanwhile; `buffer` is NULL or
    // has `capacity` bytes: promised (top of the header).
    unsafe { message(chat, buffer, capacity) }
}

/// The tokens of a conversation of `n_turn` turns, up to where the assistant begins to speak:
/// special tokens that the template writes are special, those that a turn spells out are text; the
/// token that begins a text comes once, if the model wants it. `n` gets their number; if that is
/// above `capacity` the result is BROOKLET_BUFFER and no id is written. `options` may be NULL. Work
/// and memory of a template are bounded: one that exceeds the bounds is BROOKLET_FILE.
///
/// Threads: any; `stop` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_encode(
    chat: *const brooklet_chat,
    turns: *const brooklet_chat_turn,
    n_turn: usize,
    options: *const brooklet_chat_options,
    ids: *mut u32,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on(chat, |own| {
            let found = engine::encode(&own.template, &turns_of(turns, n_turn)?, &read(options)?)?;
            fill(&found, ids, capacity, n, "ids")
        })
    }
}

/// The text that brooklet_chat_encode makes tokens of, not ended by a zero. `length` gets its
/// bytes; if they are more than `capacity` the result is BROOKLET_BUFFER and none is written.
///
/// Threads: any; `stop` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_render(
    chat: *const brooklet_chat,
    turns: *const brooklet_chat_turn,
    n_turn: usize,
    options: *const brooklet_chat_options,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on(chat, |own| {
            let found = engine::render(&own.template, &turns_of(turns, n_turn)?, &read(options)?)?;
            fill(found.as_bytes(), text.cast::<u8>(), capacity, length, "text")
        })
    }
}

/// The model's tokenizer, for which a text ends where an answer does: for
/// brooklet_session_generate, beside the strings of brooklet_chat_stop.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_tokenizer(
    chat: *const brooklet_chat,
    tokenizer: *mut *mut brooklet_tokenizer,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe { make_from(chat, tokenizer, |own| Ok(own.text.clone())) }
}

/// String `index` of those that an answer does not go beyond, such as "\n\nUser:": it ends with a
/// zero and is valid as long as the chat template. NULL behind the last.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_chat_stop(
    chat: *const brooklet_chat,
    index: usize,
    stop: *mut *const c_char,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header). The
    // strings never change, so they stay.
    unsafe {
        on(chat, |own| {
            let text = own.stops.get(index).map_or(std::ptr::null(), |stop| stop.as_ptr());
            out(stop, "stop")?.write(text);
            Ok(())
        })
    }
}

/// A turn in Rust's terms; without templates it is only checked.
#[cfg_attr(not(feature = "chat"), allow(dead_code))]
struct Turn<'a> {
    role: &'a str,
    content: &'a str,
    fields: Option<&'a str>,
}

/// # Safety
/// `turns` is NULL or points to `n` turns whose pointers are as the header asks, during 'a.
unsafe fn turns_of<'a>(turns: *const brooklet_chat_turn, n: usize) -> Result<Vec<Turn<'a>>> {
    // SAFETY: NULL, or `n` turns that nobody changes: promised (Safety).
    let turns = unsafe { slice(turns, n, "turns")? };
    let turn = |turn: &brooklet_chat_turn| {
        // SAFETY: NULL, or `length` bytes that nobody changes: promised (Safety).
        let content = unsafe { slice(turn.content.cast::<u8>(), turn.length, "content")? };
        Ok(Turn {
            // SAFETY: NULL, or a text that a zero ends: promised (Safety).
            role: unsafe { string(turn.role, "role")? },
            content: std::str::from_utf8(content)
                .map_err(|error| Failure::argument(format!("content is not UTF-8: {error}")))?,
            // SAFETY: NULL, or a text that a zero ends: promised (Safety).
            fields: unsafe { optional_string(turn.fields, "fields")? },
        })
    };
    turns.iter().map(turn).collect()
}

#[cfg(feature = "chat")]
mod engine {
    //! The calls of the engine.

    use brooklet::Model;
    use brooklet::chat::{ChatTemplate, Message, RenderOptions, Role, Value};

    use super::super::failure::c_string;
    use super::*;

    pub(super) type Template = ChatTemplate;

    pub(super) fn open(model: &Model, plain: bool) -> Result<Chat> {
        let mut text = Text::of(model)?;
        let template =
            if plain { ChatTemplate::plain(text.clone()) } else { ChatTemplate::of(model)? };
        let ends = template.ends();
        text.ends = ends.tokens;
        let stops = ends.stops.iter().map(|stop| c_string(stop)).collect();
        Ok(Chat { template, text, stops })
    }

    pub(super) fn encode(
        template: &Template,
        turns: &[Turn<'_>],
        options: &brooklet_chat_options,
    ) -> Result<Vec<u32>> {
        with(turns, options, |messages, options| Ok(template.encode(messages, options)?))
    }

    pub(super) fn render(
        template: &Template,
        turns: &[Turn<'_>],
        options: &brooklet_chat_options,
    ) -> Result<String> {
        with(turns, options, |messages, options| Ok(template.render(messages, options)?))
    }

    fn with<T>(
        turns: &[Turn<'_>],
        options: &brooklet_chat_options,
        body: impl FnOnce(&[Message], &RenderOptions<'_>) -> Result<T>,
    ) -> Result<T> {
        let messages = turns.iter().map(message).collect::<Result<Vec<_>>>()?;
        // SAFETY: NULL, or a text that a zero ends: promised to the functions above (top of the
        // header).
        let variables = unsafe { optional_string(options.variables, "variables")? };
        let variables = variables.map_or(Ok(Vec::new()), |text| object(text, "variables"))?;
        let variables: Vec<(&str, Value)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let (stop, user) = (options.stop, options.user);
        // SAFETY: it may be called with `user` during the call: promised to the functions above
        // (top of the header).
        let stop = || stop.is_some_and(|stop| unsafe { stop(user) } != 0);
        let options = RenderOptions::default()
            .add_generation_prompt(options.without_generation_prompt == 0)
            .variables(&variables)
            .stop(&stop);
        body(&messages, &options)
    }

    fn message(turn: &Turn<'_>) -> Result<Message> {
        let role = Role::named(turn.role).ok_or_else(|| {
            let known = Role::ALL.map(Role::name).join(", ");
            Failure::argument(format!("role {:?}: expected one of {known}", turn.role))
        })?;
        let mut message = Message::new(role, turn.content);
        if let Some(fields) = turn.fields {
            message.fields = object(fields, "fields")?;
        }
        Ok(message)
    }

    /// The entries of a JSON object.
    fn object(text: &str, name: &str) -> Result<Vec<(String, Value)>> {
        match serde_json::from_str(text) {
            Ok(Value::Dict(entries)) => Ok(entries),
            Ok(_) => Err(Failure::argument(format!("{name}: expected a JSON object"))),
            Err(error) => Err(Failure::argument(format!("{name}: {error}"))),
        }
    }
}

#[cfg(not(feature = "chat"))]
mod engine {
    //! The refusal of builds without chat templates.

    use brooklet::{EngineError, Model};

    use super::*;

    /// There is none.
    pub(crate) enum Template {}

    pub(super) fn open(_: &Model, _: bool) -> Result<Chat> {
        Err(EngineError::NotBuilt { what: "brooklet_chat_of_model", feature: "chat" }.into())
    }

    pub(super) fn encode(
        template: &Template,
        _: &[Turn<'_>],
        _: &brooklet_chat_options,
    ) -> Result<Vec<u32>> {
        match *template {}
    }

    pub(super) fn render(
        template: &Template,
        _: &[Turn<'_>],
        _: &brooklet_chat_options,
    ) -> Result<String> {
        match *template {}
    }
}
