//! A conversation in a state file: the messages, what the state has read of them, and the tree.
//!
//! The first two are as they were before there were trees, so that older files go on, and older
//! versions read newer files. Not here: the file itself (`crate::saved`). Test:
//! `tests/cli/chat_commands.rs`.

use brooklet::Snapshot;
use brooklet::chat::Message;
use serde::{Deserialize, Serialize};

use super::marks::Read;
use super::talk::Talk;
use crate::failure::{Failure, Result};

/// The note of a state file.
#[derive(Deserialize, Serialize)]
struct Note {
    messages: Vec<Message>,
    /// The text that the state has read. Without it (it was not UTF-8) the conversation is read
    /// again.
    read: Option<String>,
    /// Where special tokens are only spelled out in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spelled: Vec<usize>,
    #[serde(default)]
    tree: Option<Talk>,
}

/// The note for a conversation of which the state has read so much.
pub(crate) fn note(talk: &Talk, read: &Read) -> Result<String> {
    let note = Note {
        messages: talk.messages(),
        read: String::from_utf8(read.text.clone()).ok(),
        spelled: read.spelled.clone(),
        tree: Some(talk.clone()),
    };
    serde_json::to_string(&note).map_err(|error| Failure::new(format!("JSON: {error}")))
}

/// The conversation of a state file, and what its state has read of it; none where a chat has not
/// written it.
pub(crate) fn conversation(saved: &Snapshot) -> Result<Option<(Talk, Option<Read>)>> {
    if saved.note.is_empty() {
        return Ok(None);
    }
    let wrong = |what: String| Failure::new(format!("the saved conversation: {what}"));
    let note: Note = serde_json::from_str(&saved.note).map_err(|error| wrong(error.to_string()))?;
    let talk = match note.tree {
        Some(tree) if tree.is_sound() && tree.messages() == note.messages => tree,
        Some(_) => return Err(wrong("its tree does not hold together".to_owned())),
        None => Talk::new(note.messages),
    };
    let (spelled, pending) = (note.spelled, saved.unread().to_vec());
    let read = note.read.map(|text| Read {
        text: text.into_bytes(),
        spelled,
        pending,
        tokens: Vec::new(),
    });
    Ok(Some((talk, read)))
}
