//! Chat formats that have a name: some model files carry the name of one in place of a template.
//!
//! llama.cpp knows such names, and its converters wrote some of them (`rwkv-world` into every World
//! model for a year). A format is a row of [`FORMATS`]: what stands before and behind each turn.
//! Source: what llama.cpp writes for each name (`llm_chat_apply_template`). Not here: templates in
//! Jinja (`jinja`), the plain format, also `rwkv-world`'s (the folder's `mod.rs`). Test: below.

use super::message::{Message, Role};

/// A format of turns.
#[derive(Debug)]
pub(super) struct Format {
    names: &'static [&'static str],
    /// Around what the person says.
    user: (&'static str, &'static str),
    /// Around what the model says.
    assistant: (&'static str, &'static str),
    /// Around instructions.
    system: (&'static str, &'static str),
    /// Instructions stand inside the first turn of the person, behind what opens it.
    inside: bool,
    /// Before the model's first word.
    answer: &'static str,
}

const fn format(
    names: &'static [&'static str],
    user: (&'static str, &'static str),
    assistant: (&'static str, &'static str),
    system: (&'static str, &'static str),
    answer: &'static str,
) -> Format {
    Format { names, user, assistant, system, inside: false, answer }
}

const fn with_system_inside(format: Format) -> Format {
    Format { inside: true, ..format }
}

const FORMATS: [Format; 24] = [
    format(
        &["chatml"],
        ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", "<|im_end|>\n"),
        ("<|im_start|>system\n", "<|im_end|>\n"),
        "<|im_start|>assistant\n",
    ),
    format(
        &["zephyr"],
        ("<|user|>\n", "<|endoftext|>\n"),
        ("<|assistant|>\n", "<|endoftext|>\n"),
        ("<|system|>\n", "<|endoftext|>\n"),
        "<|assistant|>\n",
    ),
    format(
        &["falcon3"],
        ("<|user|>\n", "\n"),
        ("<|assistant|>\n", "\n"),
        ("<|system|>\n", "\n"),
        "<|assistant|>\n",
    ),
    format(
        &["phi3"],
        ("<|user|>\n", "<|end|>\n"),
        ("<|assistant|>\n", "<|end|>\n"),
        ("<|system|>\n", "<|end|>\n"),
        "<|assistant|>\n",
    ),
    format(
        &["phi4"],
        ("<|im_start|>user<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>assistant<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>system<|im_sep|>", "<|im_end|>"),
        "<|im_start|>assistant<|im_sep|>",
    ),
    format(
        &["llama3"],
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    format(
        &["llama4"],
        ("<|header_start|>user<|header_end|>\n\n", "<|eot|>"),
        ("<|header_start|>assistant<|header_end|>\n\n", "<|eot|>"),
        ("<|header_start|>system<|header_end|>\n\n", "<|eot|>"),
        "<|header_start|>assistant<|header_end|>\n\n",
    ),
    with_system_inside(format(
        &["llama2-sys", "llama2-sys-bos", "llama2-sys-strip"],
        ("[INST] ", " [/INST]"),
        ("", "</s>"),
        ("<<SYS>>\n", "\n<</SYS>>\n\n"),
        "",
    )),
    with_system_inside(format(&["llama2"], ("[INST] ", " [/INST]"), ("", "</s>"), ("", "\n"), "")),
    with_system_inside(format(
        &["mistral-v1"],
        (" [INST] ", " [/INST]"),
        (" ", "</s>"),
        ("", "\n\n"),
        "",
    )),
    with_system_inside(format(
        &["mistral-v3"],
        ("[INST] ", "[/INST]"),
        (" ", "</s>"),
        ("", "\n\n"),
        "",
    )),
    with_system_inside(format(
        &["mistral-v3-tekken"],
        ("[INST]", "[/INST]"),
        ("", "</s>"),
        ("", "\n\n"),
        "",
    )),
    format(
        &["mistral-v7"],
        ("[INST] ", "[/INST]"),
        (" ", "</s>"),
        ("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
        "",
    ),
    format(
        &["mistral-v7-tekken"],
        ("[INST]", "[/INST]"),
        ("", "</s>"),
        ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        "",
    ),
    with_system_inside(format(
        &["gemma"],
        ("<start_of_turn>user\n", "<end_of_turn>\n"),
        ("<start_of_turn>model\n", "<end_of_turn>\n"),
        ("", "\n\n"),
        "<start_of_turn>model\n",
    )),
    format(
        &["openchat"],
        ("GPT4 Correct User: ", "<|end_of_turn|>"),
        ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        ("", "<|end_of_turn|>"),
        "GPT4 Correct Assistant:",
    ),
    format(&["vicuna"], ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n"), ("", "\n\n"), "ASSISTANT:"),
    format(
        &["vicuna-orca"],
        ("USER: ", "\n"),
        ("ASSISTANT: ", "</s>\n"),
        ("SYSTEM: ", "\n"),
        "ASSISTANT:",
    ),
    format(
        &["deepseek"],
        ("### Instruction:\n", "\n"),
        ("### Response:\n", "\n<|EOT|>\n"),
        ("", ""),
        "### Response:\n",
    ),
    format(
        &["deepseek2"],
        ("User: ", "\n\n"),
        ("Assistant: ", "<｜end▁of▁sentence｜>"),
        ("", "\n\n"),
        "Assistant:",
    ),
    format(
        &["deepseek3"],
        ("<｜User｜>", ""),
        ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        ("", "\n\n"),
        "<｜Assistant｜>",
    ),
    format(
        &["command-r"],
        ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    format(
        &["granite"],
        ("<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"),
        ("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"),
        ("<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"),
        "<|start_of_role|>assistant<|end_of_role|>\n",
    ),
    format(
        &["exaone3", "exaone4"],
        ("[|user|]", "\n"),
        ("[|assistant|]", "[|endofturn|]\n"),
        ("[|system|]", "[|endofturn|]\n"),
        "[|assistant|]",
    ),
];

/// The format of that name.
pub(super) fn named(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.names.contains(&name))
}

impl Format {
    /// The whole conversation as one text, up to where the model begins to speak if that is wanted.
    pub(super) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> String {
        let (mut text, mut inside) = (String::new(), String::new());
        let mut put = |around: (&str, &str), content: &str| {
            // As the model wrote it, its blank first.
            let blank = around.0.ends_with(' ') && content.starts_with(' ');
            text += &[around.0, &content[usize::from(blank)..], around.1].concat();
        };
        for Message { role, content, .. } in messages {
            match role {
                Role::System if self.inside => {
                    inside += &[self.system.0, content, self.system.1].concat();
                }
                Role::System => put(self.system, content),
                Role::User | Role::Tool => {
                    put(self.user, &(std::mem::take(&mut inside) + content));
                }
                Role::Assistant => put(self.assistant, content),
            }
        }
        if add_generation_prompt { text + self.answer } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(name: &str) -> String {
        let message = Message::new;
        let talk = [
            message(Role::System, "Be brief."),
            message(Role::User, "Hi"),
            message(Role::Assistant, " Yes?"),
            message(Role::User, "Bye"),
        ];
        named(name).expect("a format").render(&talk, true)
    }

    /// As llama.cpp writes them.
    #[test]
    fn formats_of_llama_cpp() {
        for (name, text) in [
            (
                "chatml",
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                 <|im_start|>assistant\n Yes?<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n\
                 <|im_start|>assistant\n",
            ),
            ("mistral-v1", " [INST] Be brief.\n\nHi [/INST] Yes?</s> [INST] Bye [/INST]"),
            (
                "llama2-sys",
                "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Yes?</s>[INST] Bye [/INST]",
            ),
            ("vicuna", "Be brief.\n\nUSER: Hi\nASSISTANT: Yes?</s>\nUSER: Bye\nASSISTANT:"),
            (
                "gemma",
                "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n \
                 Yes?<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
            ),
        ] {
            assert_eq!(rendered(name), text, "{name}");
        }
        assert!(named("chat").is_none());
    }
}
