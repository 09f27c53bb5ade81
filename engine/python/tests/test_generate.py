"""Texts as they are written."""

import numpy
import pytest

import brooklet

PROMPT = "Once upon a time"


def written(pieces):
    return "".join(piece.text for piece in pieces)


def test_greedy_is_the_argmax(model):
    session = brooklet.Session(model)
    logits = session.prefill(PROMPT)
    for piece in model.generate(PROMPT, 12, temperature=0, logprobs=3):
        assert piece.token == int(logits.argmax())
        top = numpy.log(numpy.exp(logits - logits.max()).sum()) + logits.max()
        assert piece.logprob == pytest.approx(float(logits[piece.token] - top), abs=1e-4)
        assert len(piece.top) == 3 and piece.top[0] == (piece.token, piece.logprob)
        logits = session.step(piece.token)


def test_seeds(model):
    one, two, other = (model.generate(PROMPT, 30, seed=seed) for seed in (1, 1, 2))
    texts = [one.text(), two.text(), other.text()]
    assert texts[0] == texts[1] != texts[2] and one.seed == 1
    chosen = model.generate(PROMPT, 30)
    assert model.generate(PROMPT, 30, seed=chosen.seed).text() == chosen.text()


def test_why_it_ended(model):
    generation = model.generate(PROMPT, 5, temperature=0)
    assert generation.reason is None
    assert len([piece for piece in generation if piece.token is not None]) == 5
    assert generation.reason == "length" and generation.tokens == 5
    assert next(generation, None) is None
    text = model.generate(PROMPT, 40, temperature=0).text()
    stop = text[10:14]
    stopped = model.generate(PROMPT, 40, temperature=0, stop=stop)
    assert stopped.text() == text[: text.index(stop)] and stopped.reason == "stop"
    assert model.generate(PROMPT, 40, temperature=0, stop=["no such", stop]).text() == stopped_text(text, stop)


def stopped_text(text, stop):
    return text[: text.index(stop)]


def test_a_session_goes_on(model):
    session = brooklet.Session(model)
    session.prefill(PROMPT)
    pieces = list(session.generate(10, temperature=0))
    ids = [piece.token for piece in pieces if piece.token is not None]
    assert session.position == len(model.tokenizer.prompt(PROMPT)) + 10
    more = [piece.token for piece in session.generate(10, temperature=0)]
    whole = [piece.token for piece in model.generate(PROMPT, 20, temperature=0) if piece.token is not None]
    assert ids + [token for token in more if token is not None] == whole
    assert (session.logits == brooklet.Session(model).prefill(model.tokenizer.prompt(PROMPT) + whole)).all()


def test_an_iteration_left_in_the_middle(model):
    generation = model.generate(PROMPT, 50, temperature=0)
    seen = [next(generation).token for _ in range(4)]
    session = generation.session
    ids = model.tokenizer.prompt(PROMPT) + seen
    assert session.position == len(ids)
    assert (session.logits == brooklet.Session(model).prefill(ids)).all()
    assert written(generation) == written(list(model.generate(PROMPT, 50, temperature=0))[4:])


def test_log_probabilities_can_be_left_away(model):
    pieces = list(model.generate(PROMPT, 5, temperature=0, logprobs=None))
    assert all(piece.logprob is None and piece.top == [] for piece in pieces)


def test_constraints(model):
    text = model.generate(PROMPT, 30, seed=3, regex=r" [0-9]{3}-[a-z]{2}\.").text()
    import re

    assert re.fullmatch(r" [0-9]{3}-[a-z]{2}\.", text)
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    import json

    assert json.loads(model.generate(PROMPT, 60, seed=3, json_schema=schema).text())["a"] in (1, 2)
    with pytest.raises(brooklet.OptionError, match="exclude each other"):
        model.generate(PROMPT, regex="a", json_schema="{}")
    with pytest.raises(brooklet.OptionError):
        model.generate(PROMPT, regex="(")


def test_biases(model):
    greedy = next(model.generate(PROMPT, 1, temperature=0)).token
    banned = next(model.generate(PROMPT, 1, temperature=0, bias={greedy: float("-inf")})).token
    assert banned != greedy
    with pytest.raises(brooklet.OptionError, match="no token is"):
        model.generate(PROMPT, bias={"no single token has so many words": 1.0})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": -1}, brooklet.OptionError, "temperature"),
        ({"top_p": 2}, ValueError, "top_p"),
        ({"temprature": 1}, TypeError, "temprature"),
        ({"steps": ["nothing"]}, brooklet.OptionError, "nothing"),
        ({"temperature": "hot"}, TypeError, None),
        ({"seed": -1}, OverflowError, None),
    ],
)
def test_wrong_options_are_said_at_once(model, options, error, words):
    with pytest.raises(error, match=words):
        model.generate(PROMPT, **options)


def test_every_option_of_the_types_is_taken(model):
    values = {
        "bias": {1: 0.5}, "steps": ["top-k", "temperature"], "dry_breakers": ["\n"], "seed": 1,
        "json_schema": None, "regex": None, "grammar": None, "dry_multiplier": 0.8,
    }
    for name in brooklet.Sampling.__annotations__:
        value = values.get(name, 1)
        if value is not None:
            assert model.generate(PROMPT, 3, **{name: value}).text() is not None


def test_the_command_lines_texts(model):
    """The same seed gives what `brooklet run` writes, if that program is there."""
    import os
    import shutil
    import subprocess

    program = os.environ.get("BROOKLET_PROGRAM") or shutil.which("brooklet")
    if not program:
        pytest.skip("SKIPPED: no program brooklet")
    command = [program, "run", str(model.path), "-p", PROMPT, "-n", "40", "--seed", "7", "--json", "-q"]
    import json

    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert told["text"].endswith(model.generate(PROMPT, 40, seed=7).text())
