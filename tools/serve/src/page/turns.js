// How a turn looks: its text token by token, what can be done with it, what it took.

const tip = document.getElementById("tip");
// The word whose tip stays, and how to let one stay.
let pinned = null;
const pins = new WeakMap();

export function hideTip() {
  tip.hidden = true;
  pinned?.classList.remove("at");
  pinned = null;
}

function showTip(span, tokens) {
  const lines = [];
  for (const token of tokens) {
    const likely = token.top_logprobs ?? [];
    const line = (choice) => {
      const mark = choice.token === token.token ? "▸" : " ";
      return `${mark}${(Math.exp(choice.logprob) * 100).toFixed(1).padStart(6)} %  ${JSON.stringify(choice.token)}`;
    };
    lines.push(...likely.map(line));
    if (!likely.some((choice) => choice.token === token.token)) lines.push(line(token));
  }
  tip.textContent = lines.slice(0, 24).join("\n");
  tip.hidden = false;
  const place = span.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const top = place.bottom + 4 + height > innerHeight ? place.top - height - 4 : place.bottom + 4;
  tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

// A piece of text, and the tokens that it was made of.
function spanOf({ words, tokens }) {
  const span = document.createElement("span");
  span.textContent = words;
  if (!tokens.length) return span;
  span.addEventListener("mouseenter", () => showTip(span, tokens));
  span.addEventListener("mouseleave", () => pinned || hideTip());
  const pin = () => {
    hideTip();
    pinned = span;
    span.classList.add("at");
    span.scrollIntoView({ block: "nearest" });
    showTip(span, tokens);
  };
  pins.set(span, pin);
  span.addEventListener("click", () => (pinned === span ? hideTip() : pin()));
  return span;
}

// Arrows go from word to word of an answer that has the focus.
function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const spans = [...event.currentTarget.children].filter((span) => pins.has(span));
  const next = spans[Math.max(0, spans.indexOf(pinned) + step)];
  if (!next) return;
  event.preventDefault();
  pins.get(next)();
}

// Keeps the pieces, and adds the newest one to the turn on the page, if it is there.
export function piece(node, part, pieces) {
  const last = pieces.at(-1);
  if (last && !last.words && part.words) {
    last.words = part.words;
    last.tokens.push(...part.tokens);
  } else if (part.words || part.tokens.length) {
    pieces.push({ words: part.words, tokens: [...part.tokens] });
  } else if (!part.reasoning) {
    return;
  }
  const li = document.querySelector(`[data-id="${node.id}"]`);
  if (!li) return;
  const turns = li.parentElement;
  const isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 80;
  const reasoning = li.querySelector(".reasoning");
  reasoning.hidden = !node.reasoning;
  if (part.reasoning) reasoning.querySelector("div").append(part.reasoning);
  if (part.words) li.querySelector(".text").append(spanOf(pieces.at(-1)));
  if (isAtEnd) turns.scrollTop = turns.scrollHeight;
}

// The numbers of an answer in words.
export function lineOf(node) {
  const n = node.numbers;
  if (!n || n.prompt_n === undefined) return "";
  const rate = n.predicted_per_second?.toFixed(1);
  return `${n.cache_n} tokens reused, ${n.prompt_n} computed · ${n.predicted_n} written at ${rate}/s`;
}

export function draw(node, tree, acts) {
  const li = document.createElement("li");
  li.className = node.role;
  li.dataset.id = node.id;
  const reasoning = document.createElement("details");
  reasoning.className = "reasoning";
  reasoning.hidden = !node.reasoning;
  const summary = document.createElement("summary");
  summary.textContent = "Reasoning";
  const inner = document.createElement("div");
  inner.append(node.reasoning ?? "");
  reasoning.append(summary, inner);
  const text = document.createElement("div");
  text.className = "text";
  if (node.role === "assistant") {
    text.tabIndex = 0;
    text.addEventListener("keydown", walk);
    text.addEventListener("blur", hideTip);
  }
  const pieces = tree.tokens.get(node.id);
  if (pieces && pieces.map((part) => part.words).join("") === node.text) text.append(...pieces.map(spanOf));
  else text.textContent = node.text;
  li.append(reasoning, text);
  if (node.error) {
    const error = document.createElement("p");
    error.className = "error";
    error.textContent = node.error;
    li.append(error);
  }
  const bar = document.createElement("div");
  bar.className = "acts";
  for (const [name, title, act] of acts) {
    if (act === null) {
      const mark = document.createElement("span");
      mark.className = "facts";
      mark.textContent = name;
      mark.title = title;
      bar.append(mark);
      continue;
    }
    const button = document.createElement("button");
    button.textContent = name;
    button.title = title;
    button.setAttribute("aria-label", title);
    button.disabled = !act;
    if (act) button.addEventListener("click", act);
    bar.append(button);
  }
  const facts = document.createElement("span");
  facts.className = "facts";
  const ending = node.stopped ? "stopped" : node.numbers?.finish === "length" ? "cut at its length" : "";
  facts.textContent = [lineOf(node), ending].filter(Boolean).join(" · ");
  bar.append(facts);
  li.append(bar);
  return li;
}
