//! Log-probabilities of tokens, as they go to a client.

use brooklet::Text;
use brooklet::generate::Piece;
use brooklet::sampler::{LogSoftmax, top_k};
use serde_json::{Map, Value, json};

/// What OpenAI's servers say for a token that cannot be; JSON has no infinities.
const IMPOSSIBLE: f32 = -9999.0;

/// A token that was chosen, and the likeliest.
#[derive(Clone, Debug)]
pub(crate) struct TokenInfo {
    own: Choice,
    top: Vec<Choice>,
}

#[derive(Clone, Debug)]
struct Choice {
    id: u32,
    bytes: Vec<u8>,
    logprob: f32,
}

impl TokenInfo {
    /// Of a piece's token, with the `top` likeliest; of the model's own distribution, in nats.
    pub(crate) fn of(piece: &Piece<'_>, text: &Text, top: usize) -> Option<TokenInfo> {
        let sum = LogSoftmax::of(piece.logits);
        let choice = |id: u32| Choice {
            id,
            bytes: text.tokenizer.token_bytes(id).unwrap_or_default().to_vec(),
            logprob: sum.log_prob(piece.logits, id).max(IMPOSSIBLE),
        };
        let own = choice(piece.token?);
        let likeliest = if top == 0 { Vec::new() } else { top_k(piece.logits, top) };
        let top = likeliest.into_iter().map(|(id, _)| choice(id)).collect();
        Some(TokenInfo { own, top })
    }

    /// As chat completions have it.
    pub(crate) fn chat(&self) -> Value {
        let mut token = self.own.chat();
        token["top_logprobs"] = self.top.iter().map(Choice::chat).collect();
        token
    }
}

impl Choice {
    fn chat(&self) -> Value {
        json!({
            "token": self.text(), "logprob": self.logprob, "bytes": self.bytes, "id": self.id,
        })
    }

    /// With U+FFFD for what is no whole character by itself.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Tokens as completions have them, whose first begins `offset` characters behind the text's
/// beginning.
pub(crate) fn completion(tokens: &[TokenInfo], offset: &mut usize) -> Value {
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(*offset);
        *offset += token.own.text().chars().count();
    }
    let top = |token: &TokenInfo| {
        let entries = token.top.iter().map(|choice| (choice.text(), json!(choice.logprob)));
        Value::Object(entries.collect::<Map<String, Value>>())
    };
    json!({
        "tokens": tokens.iter().map(|token| token.own.text()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.own.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
