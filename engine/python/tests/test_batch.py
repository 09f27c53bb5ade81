"""Many texts at a time: each is the one that it would be alone."""

import itertools

import pytest

import brooklet

PROMPTS = ["Once upon a time", "The sea was", "Once upon a hill", "In the year", "He said", "A ship"]


def test_texts_are_those_of_one_at_a_time(model):
    alone = [model.generate(prompt, 15 + 3 * i, seed=i) for i, prompt in enumerate(PROMPTS)]
    alone = [model.generate(prompt, 20, seed=5 + i).text() for i, prompt in enumerate(PROMPTS)]
    for parallel in [1, 3, 16]:
        batch = list(model.generate_batch(PROMPTS, 20, parallel=parallel, seed=5))
        assert [each.text for each in batch] == alone
        assert [each.index for each in batch] == list(range(len(PROMPTS)))
        assert [each.seed for each in batch] == [5 + i for i in range(len(PROMPTS))]
        assert all(len(each.tokens) == 20 and each.reason == "length" for each in batch)
    seeds = [9, 9, 1, 2, 3, 4]
    batch = list(model.generate_batch(PROMPTS, 20, seed=seeds))
    assert [each.text for each in batch] == [
        model.generate(prompt, 20, seed=seed).text() for prompt, seed in zip(PROMPTS, seeds)
    ]


def test_log_probabilities(model):
    (one,) = model.generate_batch([PROMPTS[0]], 6, temperature=0, logprobs=True)
    pieces = [piece for piece in model.generate(PROMPTS[0], 6, temperature=0) if piece.token is not None]
    assert one.logprobs == pytest.approx([piece.logprob for piece in pieces], abs=0)
    assert one.tokens == [piece.token for piece in pieces]


def test_prompts_without_end(model):
    endless = (PROMPTS[i % 6] for i in itertools.count())
    batch = model.generate_batch(endless, 4, temperature=0, parallel=4)
    first = [next(batch) for _ in range(20)]
    assert [each.index for each in first] == list(range(20))
    assert first[0].text == first[6].text == first[12].text
    assert first[6].reused_tokens > 0


def test_as_they_end(model):
    batch = list(model.generate_batch(PROMPTS, 8, temperature=0, ordered=False, stop=[" the"]))
    assert sorted(each.index for each in batch) == list(range(6))


def test_prompts_that_fail(model):
    prompts = ["Once", [10**6], "The sea", 5]
    batch = model.generate_batch(prompts, 4, temperature=0)
    assert next(batch).index == 0
    with pytest.raises(brooklet.TokenError, match="outside the vocabulary"):
        next(batch)
    assert next(batch).index == 2
    with pytest.raises(TypeError):
        next(batch)
    assert next(batch, None) is None
    kept = list(model.generate_batch(prompts, 4, temperature=0, keep_errors=True))
    assert [each.reason for each in kept] == ["length", "error", "length", "error"]
    assert isinstance(kept[1].error, brooklet.TokenError) and kept[0].error is None


def test_what_prompts_raise(model):
    def prompts():
        yield "Once"
        raise KeyError("mine")

    batch = model.generate_batch(prompts(), 4, temperature=0, parallel=1)
    assert next(batch).index == 0
    with pytest.raises(KeyError, match="mine"):
        next(batch)
    for wrong in [0, 5000]:
        with pytest.raises(brooklet.OptionError, match="parallel"):
            model.generate_batch([], parallel=wrong)
    with pytest.raises(brooklet.OptionError, match="no seed for prompt 1"):
        list(model.generate_batch(["a", "b"], 1, seed=[1]))
    assert list(model.generate_batch([])) == []


def test_a_batch_that_asks_itself(model):
    def prompts():
        yield "Once"
        next(batch)

    batch = model.generate_batch(prompts(), 2, temperature=0, parallel=2)
    with pytest.raises(brooklet.StateError, match="in use by this very thread"):
        list(batch)
