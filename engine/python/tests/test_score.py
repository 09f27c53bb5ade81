"""Scores, log-probabilities, embeddings."""

import numpy
import pytest

import brooklet


def log_softmax(logits):
    logits = logits.astype(numpy.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=-1, keepdims=True))


def test_scores_are_sums_of_log_probabilities(model):
    prefix, endings = "The sea was", [" calm", " green and deep", " on"]
    scores = model.score(prefix, endings)
    for ending, score in zip(endings, scores):
        before, behind = model.tokenizer.prompt(prefix), model.tokenizer.encode(ending)
        rows = log_softmax(brooklet.Session(model).forward(before + behind)[len(before) - 1 :])
        expected = sum(rows[i, token] for i, token in enumerate(behind))
        assert score.logprob == pytest.approx(expected, abs=2e-4) and score.tokens == len(behind)
        assert score.is_greedy == all(rows[i].argmax() == token for i, token in enumerate(behind))
    session = brooklet.Session(model)
    session.prefill(prefix)
    again = session.score(endings)
    assert [each.logprob for each in again] == [each.logprob for each in scores]
    ids = model.score(model.tokenizer.prompt(prefix), [model.tokenizer.encode(each) for each in endings])
    assert [each.logprob for each in ids] == [each.logprob for each in scores]
    assert model.score(prefix, []) == [] and model.score(prefix, [[]])[0].logprob == 0


def test_log_probabilities_of_a_text(model):
    ids = model.tokenizer.prompt("Once upon a time there was a ship. " * 12)
    assert len(ids) > 100
    rows = log_softmax(brooklet.Session(model).forward(ids))
    expected = rows[numpy.arange(len(ids) - 1), ids[1:]]
    own = model.logprobs(ids)
    assert own.shape == (len(ids) - 1,) and numpy.abs(own - expected).max() < 2e-4
    assert model.logprobs([1]).shape == (0,)
    with pytest.raises(brooklet.TokenError):
        model.logprobs([])


def test_embeddings(model):
    texts = ["a storm at sea", "a calm", "a storm at sea"]
    vectors = model.embed(texts)
    assert vectors.shape == (3, 192) and vectors.dtype == numpy.float32
    assert (vectors[0] == vectors[2]).all() and not (vectors[0] == vectors[1]).all()
    assert (model.embed("a calm") == vectors[1]).all()
    unit = model.embed(texts, pooling="mean", normalize=True)
    assert numpy.linalg.norm(unit, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.embed([]).shape == (0, 192)
    with pytest.raises(brooklet.OptionError, match="pooling"):
        model.embed(texts, pooling="max")
