"""Text to ids and back."""

import numpy
import pytest

import brooklet


def test_round_trips(model):
    words = model.tokenizer
    for text in ["Once upon a time", "", "größer 語 \n\n", "\0"]:
        ids = words.encode(text)
        assert words.decode(ids) == text and words.decode_bytes(ids) == text.encode()
        assert words.encode(text.encode()) == ids
    assert words.decode_bytes(words.encode(b"\xff\xfe")) == b"\xff\xfe"
    assert words.decode(words.encode(b"a\xff")) == "a\ufffd"
    assert len(words) == words.n_vocab == 6144 and words.kind == "huggingface"


def test_single_tokens(model):
    words = model.tokenizer
    the = words.token(" the") or words.encode(" the")[0]
    assert words.token_bytes(the) == b" the"
    assert words.token_bytes(10**6) is None and words.token("no such token") is None
    assert words.ends and all(isinstance(name, str) for name in words.special_tokens.values())
    assert words.prompt("") in ([words.begin], [words.ends[0]])


def test_ids_in_any_sequence(session):
    expected = session.prefill([5, 6, 7]).copy()
    for ids in [(5, 6, 7), numpy.array([5, 6, 7]), numpy.array([5, 6, 7], numpy.uint16), range(5, 8)]:
        session.reset()
        assert (session.prefill(ids) == expected).all()


@pytest.mark.parametrize("wrong", [[6144], [0, 10**6]])
def test_ids_outside(session, wrong):
    session.prefill([1])
    with pytest.raises(brooklet.TokenError, match="outside the vocabulary"):
        session.prefill(wrong)
    with pytest.raises(brooklet.TokenError, match="outside the vocabulary"):
        session.step(wrong[-1])
    assert session.position == 1


def test_what_is_no_prompt(session, model):
    for wrong in [1.5, [1.5], None, [[1]]]:
        with pytest.raises(TypeError):
            session.prefill(wrong)
    with pytest.raises(OverflowError):
        session.step(-1)
    with pytest.raises(TypeError):
        model.tokenizer.decode("text")
    with pytest.raises(brooklet.TokenError):
        session.prefill([])
    with pytest.raises(brooklet.TokenError):
        model.tokenizer.decode([10**6])
