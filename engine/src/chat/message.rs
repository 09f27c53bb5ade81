//! A turn of a conversation. Not here: how turns become text (the folder's `mod.rs`, `named`).

use serde::{Deserialize, Serialize};

use super::jinja::Input;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A program that the model called. Formats without a place for it show it as the person's.
    Tool,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::Tool];

    /// The name that templates know it by.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The words.
    pub content: String,
    /// More that a template may look at, by name: `tool_calls`, `reasoning_content`, ….
    #[serde(skip)]
    pub fields: Vec<(String, Input)>,
}

impl Message {
    /// What `role` says.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into(), fields: Vec::new() }
    }
}
