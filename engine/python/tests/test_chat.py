"""Conversations."""

import pytest

import brooklet

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]


def test_answers_end(model):
    text = model.chat(TALK, 40, temperature=0)
    answer = text.text()
    assert isinstance(answer, str) and text.reason in ("length", "stop", "end")
    assert "User:" not in answer


def test_a_conversation_is_tokens(model):
    ids = model.encode_chat(TALK)
    said = model.tokenizer.decode(ids)
    assert "Be brief." in said and said.rstrip().endswith("Assistant:")
    closed = model.tokenizer.decode(model.encode_chat(TALK, add_generation_prompt=False))
    assert said.startswith(closed) and len(closed) < len(said)


@pytest.mark.parametrize(
    ("talk", "error"),
    [
        ([{"role": "nobody", "content": "x"}], brooklet.OptionError),
        ([{"content": "x"}], brooklet.OptionError),
        ([{"role": "user", "content": 5}], brooklet.OptionError),
        (["Hello"], brooklet.OptionError),
        ([{"role": "user", "content": object()}], TypeError),
        (5, TypeError),
    ],
)
def test_what_is_no_conversation(model, talk, error):
    with pytest.raises(error):
        model.chat(talk)


def test_templates(shared, tmp_path):
    source = shared / "models" / "qwen35-demo"
    model = brooklet.Model.open(source, cache=tmp_path)
    plain = model.tokenizer.decode(model.encode_chat(TALK))
    assert "Hello!" in plain
    assert isinstance(model.chat(TALK, 4, temperature=0, template={"enable_thinking": False}).text(), str)
