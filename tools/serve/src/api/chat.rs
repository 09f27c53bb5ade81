//! `POST /v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Fields of a chat beside [`super::Common`].
#[derive(Debug, Deserialize)]
pub(crate) struct Chat {
    pub(crate) messages: Vec<Message>,
    #[serde(default)]
    pub(crate) tools: Option<Vec<Tool>>,
    #[serde(default)]
    pub(crate) tool_choice: Option<ToolChoice>,
    #[serde(default)]
    pub(crate) logprobs: Option<bool>,
    #[serde(default)]
    pub(crate) top_logprobs: Option<usize>,
    /// Variables of the template: `enable_thinking`, ….
    #[serde(default)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
}

/// A turn.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Message {
    pub(crate) role: String,
    #[serde(default)]
    pub(crate) content: Option<Content>,
    /// `tool_calls`, `name`, `tool_call_id`, ….
    #[serde(flatten)]
    pub(crate) fields: Map<String, Value>,
}

/// What is said, in one piece or in several.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a string or a list of parts")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) text: Option<String>,
}

/// Something that the model may call.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Tool {
    pub(crate) function: Function,
    #[serde(flatten)]
    pub(crate) fields: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) fields: Map<String, Value>,
}

/// Whether a tool is called.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"none\", \"auto\", \"required\" or a function")]
pub(crate) enum ToolChoice {
    Word(String),
    One { function: Named },
}

#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

impl Chat {
    /// Whether the request forbids calls.
    pub(crate) fn calls_nothing(&self) -> bool {
        matches!(&self.tool_choice, Some(ToolChoice::Word(word)) if word == "none")
    }

    /// Whether the answer may have calls.
    pub(crate) fn may_call(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && !self.calls_nothing()
    }

    /// The tools of which one has to be called; none where none has to be.
    ///
    /// # Errors
    /// The choice is no word that there is, or names a tool that there is not.
    pub(crate) fn required(&self) -> Result<Option<Vec<&Tool>>, String> {
        let tools: Vec<&Tool> = self.tools.iter().flatten().collect();
        let found: Vec<&Tool> = match &self.tool_choice {
            None => return Ok(None),
            Some(ToolChoice::Word(word)) => match word.as_str() {
                "none" | "auto" => return Ok(None),
                "required" | "any" => tools,
                word => return Err(format!("expected none, auto or required, found {word:?}")),
            },
            Some(ToolChoice::One { function }) => {
                let name = &function.name;
                tools.into_iter().filter(|tool| tool.function.name == *name).collect()
            }
        };
        if found.is_empty() { Err("there is no such tool".to_owned()) } else { Ok(Some(found)) }
    }
}
