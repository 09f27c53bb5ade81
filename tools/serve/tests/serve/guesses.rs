//! Guesses: the same texts, in fewer passes while a text is alone.

use serde_json::{Value, json};

use crate::openai::alone;
use crate::support::{Answer, Running, model};

fn guessing() -> Running {
    Running::start(|options| {
        options.parallel = 3;
        options.engine = options.engine.clone().logits(5);
        (options.guesses.lookup, options.guesses.most) = (true, 4);
        // A model that guesses what it would write itself.
        options.guesses.drafts = vec![model().clone()];
    })
}

fn text(done: &Value) -> &str {
    done["choices"][0]["text"].as_str().expect("a text")
}

#[test]
fn texts_are_the_same_alone_and_in_company() {
    let server = guessing();
    let prompts = ["The sea. The sea. The sea. The", "Once upon a time", "A ship"];
    let asked = |prompt: &str, tokens: usize| -> serde_json::Value {
        json!({ "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true })
    };
    // One after the other: each is alone.
    for prompt in prompts {
        let done = server.post("/v1/completions", &asked(prompt, 40)).ok();
        assert_eq!(text(&done), alone(prompt, 40), "{prompt}");
        assert_eq!(done["usage"]["completion_tokens"], 40);
    }
    let (guessed, right) = (server.metric("guessed_tokens_total"), server.metric(RIGHT));
    assert!(right > 0.0 && guessed >= right, "{right} of {guessed}");
    // One that others join and leave, and one that is cancelled.
    let long = asked(prompts[0], 300).to_string();
    let open = server.send("POST", "/v1/completions", "", long.as_bytes());
    server.wait("texts_running", |n| n > 0.0);
    let endless = asked("x", 16_000).to_string();
    drop(server.send("POST", "/v1/completions", "", endless.as_bytes()));
    for prompt in &prompts[1..] {
        let done = server.post("/v1/completions", &asked(prompt, 12)).ok();
        assert_eq!(text(&done), alone(prompt, 12), "{prompt}");
    }
    let done = Answer::read(open).ok();
    assert_eq!(text(&done), alone(prompts[0], 300));
    server.wait("texts_running", |n| n == 0.0);
}

const RIGHT: &str = "guessed_tokens_right_total";

#[test]
fn a_state_that_guesses_have_left_behind_goes_on_alike() {
    let server = guessing();
    let prompt = "The captain. The captain. The";
    let asked = json!({ "prompt": prompt, "max_tokens": 21, "temperature": 0, "keep_state": true,
                        "ignore_eos": true });
    let done = server.post("/v1/completions", &asked).ok();
    let next = json!({ "prompt": "", "max_tokens": 10, "temperature": 0, "ignore_eos": true,
                       "state_id": done["state_id"] });
    let rest = server.post("/v1/completions", &next).ok();
    assert_eq!(format!("{}{}", text(&done), text(&rest)), alone(prompt, 31));
}

#[test]
fn a_grammar_and_stops_end_a_text_within_guesses() {
    let server = guessing();
    let asked = json!({ "prompt": "x", "max_tokens": 40, "temperature": 0, "regex": "(ab){2,9}" });
    let done = server.post("/v1/completions", &asked).ok();
    let found = text(&done);
    let is_pairs = found == "ab".repeat(found.len() / 2);
    assert!(found.len() >= 4 && is_pairs, "{found:?}");
    let whole = alone("The sea. The sea. The", 40);
    let stop = &whole[whole.len() / 2..whole.len() / 2 + 3];
    let asked = json!({ "prompt": "The sea. The sea. The", "max_tokens": 40, "temperature": 0,
                        "stop": [stop] });
    let done = server.post("/v1/completions", &asked).ok();
    assert_eq!(text(&done), whole.split(stop).next().expect("a beginning"));
    assert_eq!(done["choices"][0]["finish_reason"], "stop");
}
