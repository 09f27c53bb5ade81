// Conversations as trees, kept in this browser.
//
// Every node has a place of its own in localStorage, under an id that no other tab makes: two tabs
// add nodes beside each other and never write over each other's. A root has the instructions; below
// it questions and answers take turns. Which node a tab looks at belongs to the tab.

const PLACE = "brooklet:node:";

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parsed(text) {
  try {
    const node = JSON.parse(text);
    const isNode = node && typeof node.id === "string" && typeof node.role === "string" && typeof node.text === "string";
    return isNode ? node : null;
  } catch {
    return null;
  }
}

export class Tree {
  constructor() {
    this.nodes = new Map();
    // What is too large to keep: the tokens of answers with their probabilities.
    this.tokens = new Map();
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(PLACE)) this.read(key);
    }
  }

  // Takes what another tab wrote; says whether it was a node.
  read(key) {
    if (!key || !key.startsWith(PLACE)) return false;
    const node = parsed(localStorage.getItem(key));
    const id = key.slice(PLACE.length);
    if (node && node.id === id) this.nodes.set(id, node);
    else this.nodes.delete(id);
    return true;
  }

  add(parent, role, text, more = {}) {
    const node = { id: newId(), parent, role, text, at: Date.now(), ...more };
    this.nodes.set(node.id, node);
    this.save(node);
    return node;
  }

  // False where the browser has no room left; the node stays until the page is closed.
  save(node) {
    try {
      localStorage.setItem(PLACE + node.id, JSON.stringify(node));
      return true;
    } catch {
      return false;
    }
  }

  get(id) {
    return this.nodes.get(id);
  }

  children(id) {
    const own = [...this.nodes.values()].filter((node) => node.parent === id);
    return own.sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1));
  }

  roots() {
    return this.children(null).filter((node) => node.role === "system").reverse();
  }

  // From the root to a node; a parent that is gone ends it, and no circle goes on.
  path(id) {
    const path = [];
    const seen = new Set();
    for (let node = this.get(id); node && !seen.has(node.id); node = this.get(node.parent)) {
      seen.add(node.id);
      path.unshift(node);
    }
    return path;
  }

  // The newest end below a node.
  end(id) {
    const seen = new Set();
    for (;;) {
      const next = this.children(id).at(-1);
      if (!next || seen.has(next.id)) return id;
      seen.add(next.id);
      id = next.id;
    }
  }

  // Takes a node away with all below it.
  remove(id) {
    const gone = [id];
    for (const at of gone) {
      if (gone.length > this.nodes.size + 1) break;
      gone.push(...this.children(at).map((node) => node.id));
    }
    for (const at of gone) {
      this.nodes.delete(at);
      this.tokens.delete(at);
      localStorage.removeItem(PLACE + at);
    }
  }

  // The first words of a conversation.
  title(root) {
    const first = this.children(root.id)[0];
    return first ? first.text.trim().slice(0, 60) : "(empty)";
  }

  // What the server is asked with.
  messages(id) {
    const path = this.path(id).filter((node) => node.role !== "system" || node.text.trim());
    return path.map((node) => ({ role: node.role, content: node.text }));
  }
}
