"""Writes cases.json: what Jinja2, set up as Hugging Face's transformers does, makes of templates.

    pip install jinja2 && python3 cases.py

The templates are written for this test, after the habits of the families they are named for. `null`
is an error. `engine/src/chat/jinja/cases.rs` holds the table against our own interpreter.
"""

import json
from pathlib import Path

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message):
    raise TemplateError(message)


env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
)
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda layout: f"<{layout}>"

CALL = {"type": "function", "function": {"name": "add", "arguments": {"b": 1.5, "a": "<é>"}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers",
            "parameters": {
                "type": "object",
                "properties": {
                    "b": {"type": "number", "description": "second"},
                    "a": {"type": "string", "enum": ["x", "y"]},
                },
                "required": ["b", "a"],
            },
        },
    }
]
TALK = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " <think>\nhm\n</think>\n\nHello."},
    {"role": "user", "content": "Bye"},
]
SHORT = TALK[1:2]
USES = SHORT + [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "3"},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "Done", "reasoning_content": "easy"},
]


def chat(messages, **more):
    return {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
    } | more


HERE = Path(__file__).parent
CHATS = {path.stem: path.read_text() for path in sorted(HERE.glob("*.jinja"))}
TALKS = {
    "short": chat(SHORT),
    "talk": chat(TALK),
    "tools": chat(USES, tools=TOOLS),
    "thinking": chat(TALK, enable_thinking=False, add_generation_prompt=False),
    "parts": chat(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Look "}]}]
    ),
}

GIVEN = {
    "n": 5,
    "f": 2.5,
    "s": "Häse <b>",
    "t": True,
    "z": None,
    "l": [3, 1, 2],
    "w": ["b", "A", "c", "a"],
    "d": {"k": 1, "b": [True, None, 1.5]},
    "m": [{"r": "u", "c": "x"}, {"r": "a", "c": "y"}, {"r": "u", "c": "z"}],
    "q": "it's",
    "long": "one two three\nfour  five\n\nsix",
}
SNIPPETS = (HERE / "snippets.txt").read_text().removesuffix("\n").split("\n---\n")
SPACE = [
    " a\n  {% if true %}\n b\n  {% endif %}\nc\n",
    "{%- if true -%}\n  x  {%- endif %}  y\n\n",
    "a {{- 1 -}} b",
    "a\n  {#- c -#}\n b",
    "  {{ 1 }}\n  {% set x = 1 %}\n{{ x }}\n\n",
    "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc",
    "  {%+ if true %} x {% endif %}",
    "a {% if true +%}\n b{% endif %}",
    "{% raw -%}  \n {{ x }} {%- endraw %}\n y",
    "  {# c #}\nx\n  {# d #} y",
    "x {% set a = 1 %} y\n\t{% set b = 2 %}\t\nz",
    "{% for i in [1, 2] %}\n  - {{ i }}\n{% endfor %}\nend",
    "{{ '%}' }}{% if '}}' %}ok{% endif %}",
    "{{ 'a\nb' }}\n{{- '\n' }}",
    "{{",
    "{% if x",
    "{# x",
    "{% endif %}",
    "{{ (1 }}",
    "",
    "\n",
    "{ {",
    "a{",
    "{{ 1 }}\n\n\n{% if 1 %}{% endif %}\n\n",
]


def render(template, variables):
    try:
        return env.from_string(template).render(**variables)
    except Exception as error:
        if isinstance(error, RecursionError):
            raise
        return None


chats = [
    {"template": name, "variables": talk, "text": render(template, variables)}
    for name, template in CHATS.items()
    for talk, variables in TALKS.items()
]
snippets = [[snippet, render(snippet, GIVEN)] for snippet in SNIPPETS + SPACE]
table = {
    "templates": CHATS,
    "talks": TALKS,
    "chats": chats,
    "given": GIVEN,
    "snippets": snippets,
}
if __name__ == "__main__":
    text = json.dumps(table, indent=1, ensure_ascii=False) + "\n"
    (HERE / "cases.json").write_text(text)
    errors = sum(
        text is None for text in [case["text"] for case in chats] + [s[1] for s in snippets]
    )
    print(f"{len(chats)} chats, {len(snippets)} snippets; {errors} of them are errors")
