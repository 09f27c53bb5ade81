//! How a conversation becomes one text: the file's chat template, or a plain format where it has
//! none.
//!
//! Templates are Jinja as Hugging Face's tokenizers carry them, run by `minijinja` with the Python
//! methods they use. The plain format is the one that RWKV "World" models were trained on. Not
//! here: the conversation itself (`chat`). Test: below.

use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: String,
}

/// Makes texts of conversations.
pub(crate) enum Template {
    /// `User: …`, `Assistant: …`, with empty lines between.
    Plain,
    /// The file's own.
    Jinja(Box<Environment<'static>>),
}

/// Name of the one template in the environment.
const NAME: &str = "chat";

impl Template {
    /// The template `source`, with what it may call.
    pub(crate) fn jinja(source: &str) -> Result<Template> {
        let mut jinja = Environment::new();
        jinja.set_trim_blocks(true);
        jinja.set_lstrip_blocks(true);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_function("raise_exception", |what: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, what))
        });
        jinja
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| template_error(&error))?;
        Ok(Template::Jinja(Box::new(jinja)))
    }

    /// The whole conversation as one text, up to where the assistant begins to speak.
    pub(crate) fn render(&self, messages: &[Message], bos: &str, eos: &str) -> Result<String> {
        match self {
            Template::Plain => Ok(plain(messages)),
            Template::Jinja(jinja) => {
                let context = context! { messages, add_generation_prompt => true, bos_token => bos, eos_token => eos };
                let rendered =
                    jinja.get_template(NAME).and_then(|template| template.render(context));
                rendered.map_err(|error| template_error(&error))
            }
        }
    }

    /// Where the assistant's text ends, beside the tokens that end a text.
    pub(crate) fn stops(&self) -> Vec<String> {
        match self {
            Template::Plain => vec!["\n\nUser:".to_owned(), "\n\nSystem:".to_owned()],
            Template::Jinja(_) => Vec::new(),
        }
    }
}

fn plain(messages: &[Message]) -> String {
    let mut text = String::new();
    for (i, Message { role, content }) in messages.iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n\n" };
        text += &match role {
            Role::System => format!("{gap}System: {content}"),
            Role::User => format!("{gap}User: {content}"),
            // As the model wrote it, blank first.
            Role::Assistant => format!("{gap}Assistant:{content}"),
        };
    }
    text + "\n\nAssistant:"
}

fn template_error(error: &Error) -> Failure {
    Failure::with(format!("the model's chat template: {error}"), "use --plain for the plain format")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn conversation() -> Vec<Message> {
        vec![
            message(Role::System, "Be brief."),
            message(Role::User, "Hi"),
            message(Role::Assistant, " Hello."),
            message(Role::User, "Bye"),
        ]
    }

    #[test]
    fn plain_text_is_that_of_rwkv_world() {
        let text = Template::Plain.render(&conversation(), "", "").unwrap();
        assert_eq!(
            text,
            "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Bye\n\nAssistant:"
        );
    }

    #[test]
    fn templates_of_hugging_face_run() {
        let source = "{%- if messages[0]['role'] == 'system' %}\n{{- bos_token + messages[0].content.strip() }}\n\
            {%- endif %}\n{%- for m in messages if m.role != 'system' %}\n\
            {{- '<|' + m['role'] + '|>' + m['content'].lstrip() + eos_token }}\n{%- endfor %}\n\
            {%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
        let text = Template::jinja(source).unwrap().render(&conversation(), "<s>", "</s>").unwrap();
        assert_eq!(
            text,
            "<s>Be brief.<|user|>Hi</s><|assistant|>Hello.</s><|user|>Bye</s><|assistant|>"
        );
    }

    #[test]
    fn errors_name_the_template() {
        let failure = |source: &str| {
            let rendered = Template::jinja(source).and_then(|t| t.render(&conversation(), "", ""));
            format!("{:?}", rendered.unwrap_err())
        };
        assert!(failure("{% for %}").contains("chat template"));
        assert!(failure("{{ raise_exception('no system role') }}").contains("no system role"));
    }
}
