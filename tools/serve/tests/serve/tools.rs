//! Tools that the model may call.

use serde_json::{Value, json};

use crate::support::Running;

#[test]
fn a_call_that_is_required_is_made() {
    let server = Running::start(|_| {});
    let tool = |name: &str| {
        json!({
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": { "where": { "enum": ["sea", "hill"] } },
                    "required": ["where"],
                    "additionalProperties": false,
                },
            },
        })
    };
    let mut asked = json!({
        "messages": [{ "role": "user", "content": "Look" }],
        "tools": [tool("look"), tool("walk")],
        "tool_choice": { "type": "function", "function": { "name": "walk" } },
        "max_tokens": 200,
    });
    let done = server.post("/v1/chat/completions", &asked).ok();
    let choice = &done["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("walk")));
    let arguments = call["function"]["arguments"].as_str().expect("a text");
    let arguments: Value = serde_json::from_str(arguments).expect("JSON");
    assert!(["sea", "hill"].contains(&arguments["where"].as_str().expect("a place")));
    // The answer of the tool, and the next turn.
    let messages = asked["messages"].as_array_mut().expect("a list");
    messages.push(choice["message"].clone());
    messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "A storm." }));
    asked["tool_choice"] = json!("none");
    asked["max_tokens"] = json!(5);
    server.post("/v1/chat/completions", &asked).ok();
    asked["stream"] = json!(true);
    asked["tool_choice"] = json!("required");
    asked["max_tokens"] = json!(200);
    let events = server.post("/v1/chat/completions", &asked).events();
    let call = events.iter().find_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0));
    let call = call.expect("a call");
    assert_eq!(call["index"], 0);
    assert!(["look", "walk"].contains(&call["function"]["name"].as_str().expect("a name")));
    let end = events.last().expect("an end");
    assert_eq!(end["choices"][0]["finish_reason"], "tool_calls");
}
