// The page: shows a path through a tree of messages, and lets it grow.
//
// Texts are only ever put in as text, never as HTML. Not here: the tree (tree.js), the server's
// answers (ask.js), how a turn looks (turns.js).

import { ask, headers } from "./ask.js";
import { draw, hideTip, lineOf, piece } from "./turns.js";
import { Tree } from "./tree.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const tree = new Tree();
let at = sessionStorage.getItem("brooklet:at");
let running = null;

function look(id) {
  at = id;
  sessionStorage.setItem("brooklet:at", id ?? "");
  show();
}

function root() {
  return tree.path(at)[0];
}

function begin() {
  look(tree.add(null, "system", $("system").value).id);
  $("words").focus();
}

function item(text, isOn, act, title) {
  const li = document.createElement("li");
  li.className = isOn ? "on" : "";
  const button = document.createElement("button");
  button.textContent = text;
  button.title = title ?? text;
  if (isOn) button.setAttribute("aria-current", "true");
  button.addEventListener("click", act);
  li.append(button);
  return li;
}

function showSide(path) {
  const talks = tree.roots().map((talk) => {
    const open = () => {
      $("side").classList.remove("open");
      look(tree.end(talk.id));
    };
    const li = item(tree.title(talk), talk.id === path[0]?.id, open);
    const gone = document.createElement("button");
    gone.textContent = "×";
    gone.title = "Delete this conversation";
    gone.setAttribute("aria-label", `Delete ${tree.title(talk)}`);
    gone.addEventListener("click", () => {
      if (!confirm(`Delete “${tree.title(talk)}” with all its branches?`)) return;
      if (talk.id === root()?.id) stop();
      tree.remove(talk.id);
      if (tree.get(at)) show();
      else look(tree.roots()[0] ? tree.end(tree.roots()[0].id) : null);
    });
    li.append(gone);
    return li;
  });
  $("talks").replaceChildren(...talks);
  const on = new Set(path.map((node) => node.id));
  const lines = [];
  const walk = (id, depth, budget) => {
    const children = tree.children(id);
    for (const node of children) {
      if (lines.length >= budget) return;
      const li = item(`${node.role === "user" ? "▸" : "·"} ${node.text.trim().slice(0, 80) || "…"}`, on.has(node.id), () => {
        $("side").classList.remove("open");
        look(node.id);
      });
      // Only forks go in: a long talk stays a straight line.
      li.style.paddingLeft = `${Math.min(depth, 12) * 0.8}rem`;
      lines.push(li);
      walk(node.id, depth + (children.length > 1 ? 1 : 0), budget);
    }
  };
  if (path[0]) walk(path[0].id, 0, 500);
  $("tree").replaceChildren(...lines);
}

function show() {
  if (!tree.get(at)) at = tree.roots()[0] ? tree.end(tree.roots()[0].id) : null;
  const path = tree.path(at);
  showSide(path);
  const turns = path.filter((node) => node.role !== "system").map((node) => draw(node, tree, acts(node)));
  $("turns").replaceChildren(...turns);
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  $("turns").scrollTop = $("turns").scrollHeight;
}

// What can be done with a turn.
function acts(node) {
  const siblings = tree.children(node.parent);
  const i = siblings.findIndex((other) => other.id === node.id);
  const list = [];
  if (siblings.length > 1) {
    const go = (to) => () => look(tree.end(siblings[to].id));
    list.push(["‹", "Previous branch", i > 0 && go(i - 1)]);
    list.push([`${i + 1}/${siblings.length}`, "Which of the branches this is", null]);
    list.push(["›", "Next branch", i + 1 < siblings.length && go(i + 1)]);
  }
  if (node.role === "user") list.push(["Edit", "Say something else here, in a new branch", () => edit(node)]);
  else {
    list.push(["Retry", "Answer again, in a new branch", () => answer(node.parent)]);
    list.push(["Fork", "Go on from here, in a new branch", () => fork(node)]);
  }
  return list;
}

function fork(node) {
  look(node.id);
  $("words").focus();
  $("status").textContent = "The next message begins a branch here.";
}

function edit(node) {
  const li = document.querySelector(`[data-id="${node.id}"]`);
  const form = document.createElement("form");
  const words = document.createElement("textarea");
  words.value = node.text;
  words.rows = 3;
  words.setAttribute("aria-label", "Edited message");
  const button = document.createElement("button");
  button.textContent = "Send";
  const cancel = document.createElement("button");
  cancel.type = "button";
  cancel.textContent = "Cancel";
  cancel.addEventListener("click", show);
  form.append(words, button, cancel);
  const send = (event) => {
    event.preventDefault();
    if (words.value.trim()) answer(tree.add(node.parent, "user", words.value).id);
  };
  form.addEventListener("submit", send);
  words.addEventListener("keydown", (event) => sends(event, send));
  words.addEventListener("keydown", (event) => event.key === "Escape" && show());
  li.replaceChildren(form);
  words.focus();
}

function sends(event, send) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
}

function say(event) {
  event.preventDefault();
  const text = $("words").value;
  if (!text.trim() || running) return;
  if (!tree.get(at)) begin();
  // Behind a question that was not answered the new one takes its place.
  const node = tree.get(at);
  const parent = node.role === "user" ? node.parent : at;
  $("words").value = "";
  answer(tree.add(parent, "user", text).id);
}

function stop() {
  running?.abort();
}

// Lets the model answer a question.
async function answer(question) {
  if (running) stop();
  const own = new AbortController();
  running = own;
  const node = tree.add(question, "assistant", "", { reasoning: "" });
  const tokens = [];
  tree.tokens.set(node.id, tokens);
  const request = { messages: tree.messages(question) };
  for (const name of NUMBERS) {
    if ($(name).value !== "") request[name] = Number($(name).value);
  }
  look(node.id);
  $("status").textContent = "reading …";
  let saved = Date.now();
  try {
    const end = await ask(request, $("key").value, own.signal, (part) => {
      node.text += part.words;
      node.reasoning += part.reasoning;
      piece(node, part, tokens);
      if (part.words && $("status").textContent.startsWith("reading")) $("status").textContent = "writing …";
      // What was written stays, whatever becomes of the page.
      if (Date.now() - saved > 1000) {
        tree.save(node);
        saved = Date.now();
      }
    });
    node.numbers = { ...end.timings, finish: end.finish };
    $("status").textContent = lineOf(node);
  } catch (error) {
    if (own.signal.aborted) {
      node.stopped = true;
      $("status").textContent = "stopped";
    } else {
      node.error = error.message;
      $("status").textContent = error.message;
    }
  }
  if (running === own) running = null;
  // Another tab may have deleted the conversation meanwhile.
  if (tree.get(node.id) && !tree.save(node)) $("status").textContent = "This browser has no room to keep more: delete a conversation.";
  show();
}

async function greet() {
  try {
    const response = await fetch("v1/models", { headers: headers($("key").value) });
    const { data, error } = await response.json();
    $("model").textContent = data ? `· ${data[0].id}` : "";
    $("status").textContent = error ? error.message : "";
    if (response.status === 401) open($("settings"), $("set"), true);
  } catch {
    $("status").textContent = "The server does not answer.";
  }
}

function open(what, by, isOpen) {
  what.hidden = !isOpen;
  by.setAttribute("aria-expanded", String(isOpen));
}

for (const name of [...NUMBERS, "system"]) {
  $(name).value = localStorage.getItem(`brooklet:set:${name}`) ?? "";
  $(name).addEventListener("change", () => localStorage.setItem(`brooklet:set:${name}`, $(name).value));
}
// Instructions belong to a conversation; one that has begun keeps its own.
$("system").addEventListener("change", () => {
  const own = root();
  if (own && !tree.children(own.id).length) {
    own.text = $("system").value;
    tree.save(own);
  }
});
$("key").value = sessionStorage.getItem("brooklet:key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("brooklet:key", $("key").value);
  greet();
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("set").addEventListener("click", () => open($("settings"), $("set"), $("settings").hidden));
$("menu").addEventListener("click", () => {
  const isOpen = $("side").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", String(isOpen));
});
$("new").addEventListener("click", () => {
  stop();
  begin();
});
$("say").addEventListener("submit", say);
$("words").addEventListener("keydown", (event) => sends(event, say));
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hideTip();
  $("side").classList.remove("open");
  stop();
});
window.addEventListener("storage", (event) => {
  if (event.key === null) location.reload();
  else if (tree.read(event.key) && !running) show();
});
show();
greet();
