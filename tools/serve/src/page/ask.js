// One answer from the server, as it is written.

// Lines of server-sent events, from bytes that come in any pieces.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield block.slice(6);
    }
  }
}

async function failure(response) {
  try {
    const { error } = await response.json();
    return new Error(error.message);
  } catch {
    return new Error(`the server says ${response.status}`);
  }
}

// Headers with the key, if there is one.
export function headers(key) {
  const own = { "Content-Type": "application/json" };
  if (key) own.Authorization = `Bearer ${key}`;
  return own;
}

// Asks, and tells `told({words, reasoning, tokens})` of each piece. Gives the numbers at the end.
export async function ask(request, key, signal, told) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify({
      ...request, stream: true, stream_options: { include_usage: true }, logprobs: true, top_logprobs: 5,
    }),
    signal,
  });
  if (!response.ok) throw await failure(response);
  const end = { finish: null, usage: null, timings: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    const part = JSON.parse(data);
    if (part.error) throw new Error(part.error.message);
    if (part.usage) Object.assign(end, { usage: part.usage, timings: part.timings });
    for (const choice of part.choices) {
      const { content, reasoning_content: reasoning } = choice.delta;
      end.finish = choice.finish_reason ?? end.finish;
      told({ words: content ?? "", reasoning: reasoning ?? "", tokens: choice.logprobs?.content ?? [] });
    }
  }
  return end;
}
