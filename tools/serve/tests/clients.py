#!/usr/bin/env python3
"""Real clients against `brooklet serve`: curl, the packages openai and langchain-openai.

    tools/serve/tests/clients.py target/debug/brooklet models/rwkv7-nano-int8.brk

What is not there is SKIPPED and said so. Ends with 1 where a client sees something wrong.
"""

import importlib.util
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

KEY = "a-key-of-the-tests"


def serve(program, model, *options):
    """A server on a free port, and its address."""
    command = [program, "serve", model, "--port", "0", "--threads", "1", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        found = re.search(r"http://\S+?:\d+", line)
        if found:
            return server, found.group()
    raise RuntimeError("the server did not start")


def with_curl(url):
    """Curl: whole, as a stream, without a key."""
    def curl(*options):
        done = subprocess.run(["curl", "-sS", *options], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0})
    own = ["-H", f"Authorization: Bearer {KEY}", url + "/v1/completions"]
    whole = json.loads(curl("-d", body, *own))["choices"][0]["text"]
    body = json.dumps(json.loads(body) | {"stream": True})
    events = [line[6:] for line in curl("-N", "-d", body, *own).splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == whole
    assert "401" in curl("-o", "/dev/null", "-w", "%{http_code}", url + "/v1/models")
    with tempfile.NamedTemporaryFile() as large:
        large.truncate(100 << 20)
        status = curl("-o", "/dev/null", "-w", "%{http_code}", "--data-binary", f"@{large.name}", *own)
    assert status == "413", status


def with_openai(url):
    """The package openai."""
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
    model = client.models.list().data[0].id
    talk = [{"role": "user", "content": "Hello"}]
    done = client.chat.completions.create(
        model=model, messages=talk, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2, n=1, seed=1)
    assert done.choices[0].message.role == "assistant" and done.usage.completion_tokens <= 8
    assert len(done.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(
        model=model, messages=talk, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True})
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == done.choices[0].message.content
    assert parts[-1].usage.prompt_tokens_details.cached_tokens > 0
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    done = client.chat.completions.create(model=model, messages=talk, max_tokens=100, response_format=form)
    assert isinstance(json.loads(done.choices[0].message.content)["a"], int)
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    done = client.chat.completions.create(
        model=model, messages=talk, tools=[tool], tool_choice="required", max_tokens=100)
    call = done.choices[0].message.tool_calls[0]
    assert call.function.name == "look" and isinstance(json.loads(call.function.arguments)["a"], int)
    texts = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=3)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    # The package asks for base64 by itself.
    vectors = client.embeddings.create(model=model, input=["one", "two"])
    assert len(vectors.data) == 2 and abs(sum(x * x for x in vectors.data[0].embedding) - 1) < 1e-3
    for wrong, error in [({"temperature": "hot"}, openai.BadRequestError), ({"n": 1000}, openai.BadRequestError)]:
        try:
            client.chat.completions.create(model=model, messages=talk, **wrong)
            raise AssertionError("nothing was wrong")
        except error as found:
            assert found.body["param"] in wrong
    try:
        openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0).models.list()
        raise AssertionError("nothing was wrong")
    except openai.AuthenticationError:
        pass


def with_langchain(url):
    """The package langchain-openai."""
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(base_url=url + "/v1", api_key=KEY, model="any", max_tokens=8, temperature=0)
    answer = chat.invoke([HumanMessage("Hello")])
    assert answer.usage_metadata["output_tokens"] <= 8
    again = chat.invoke([HumanMessage("Hello"), AIMessage(answer.content), HumanMessage("More")])
    assert again.usage_metadata["input_token_details"]["cache_read"] > 0
    assert "".join(part.content for part in chat.stream("Hello")) == answer.content
    vectors = OpenAIEmbeddings(base_url=url + "/v1", api_key=KEY, model="any", check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["one", "two"])) == 2


def main(program, model):
    """All clients that are there."""
    clients = [
        ("curl", shutil.which("curl"), with_curl),
        ("openai", importlib.util.find_spec("openai"), with_openai),
        ("langchain-openai", importlib.util.find_spec("langchain_openai"), with_langchain),
    ]
    with tempfile.TemporaryDirectory() as folder:
        keys = pathlib.Path(folder) / "keys"
        keys.write_text(f"# of the tests\n{KEY}\n", encoding="utf-8")
        server, url = serve(program, model, "--key-file", str(keys))
        try:
            for name, is_there, test in clients:
                if is_there:
                    test(url)
                    print(f"{name}: ok")
                else:
                    print(f"SKIPPED: no {name}")
        finally:
            server.send_signal(signal.SIGTERM)
            ended = server.wait(timeout=30)
    assert ended == 0, f"the server ended with {ended}"


if __name__ == "__main__":
    main(*sys.argv[1:])
