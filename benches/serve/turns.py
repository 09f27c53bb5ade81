#!/usr/bin/env python3
"""A conversation of many turns, as a client sends it: the whole of it each time.

Prints for each turn the prompt's tokens, those that a cache had, and the time to the first token; then branches:
an edited question in the middle, and an answer that is asked for again.

    benches/serve/turns.py http://127.0.0.1:8080 --turns 10
"""

import argparse
import json
import time
import urllib.request

QUESTION = "Tell me more about the captain, the storm and the harbour of the old town, part {0}. " * 4


def ask(url, messages, key):
    """One turn: the answer, its numbers, seconds to the first token."""
    body = {
        "messages": messages, "max_tokens": 32, "temperature": 0, "stream": True, "cache_prompt": True,
        "stream_options": {"include_usage": True}, "model": "any",
    }
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), headers)
    start, first, text, usage = time.monotonic(), None, "", {}
    with urllib.request.urlopen(request, timeout=600) as response:
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                content = choice["delta"].get("content")
                if content:
                    first = first or time.monotonic() - start
                    text += content
    return text, usage, first or time.monotonic() - start


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--key")
    args = parser.parse_args()
    messages, sums = [{"role": "system", "content": "You tell stories of the sea. " * 20}], [0, 0, 0.0]
    print("| turn | prompt, tokens | cached | first token, ms |\n|---|---:|---:|---:|")

    def turn(name, messages):
        text, usage, first = ask(args.url, messages, args.key)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        print(f"| {name} | {usage['prompt_tokens']} | {cached} | {first * 1e3:.0f} |", flush=True)
        for i, value in enumerate((usage["prompt_tokens"], cached, first)):
            sums[i] += value
        return text

    for i in range(args.turns):
        messages.append({"role": "user", "content": QUESTION.format(i)})
        messages.append({"role": "assistant", "content": turn(str(i + 1), messages)})
    middle = 1 + 2 * (args.turns // 2)
    turn("the last again", messages[:-1])
    turn("edited in the middle", messages[:middle] + [{"role": "user", "content": "No, the ship."}])
    turn("back at the end", messages + [{"role": "user", "content": "And then?"}])
    print(f"| all | {sums[0]} | {sums[1]} | {sums[2] * 1e3:.0f} |")


if __name__ == "__main__":
    main()
