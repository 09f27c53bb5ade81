"""Types of arguments and results."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Optional, TypedDict, Union

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    FloatArray = numpy.typing.NDArray[numpy.float32]
    Integers = Union[Sequence[int], numpy.typing.NDArray[numpy.integer[Any]]]
else:
    FloatArray = Any
    Integers = Sequence[int]

StrPath = Union[str, "os.PathLike[str]"]
"""A file's or a folder's name."""

Tokens = Integers
"""Token ids: a list, a tuple, an array."""

Prompt = Union[str, bytes, Integers]
"""A text, or its token ids."""

Messages = Iterable[Mapping[str, object]]
"""Turns of a conversation: "role" (system, user, assistant, tool), "content", and more."""

Pooling = Literal["last", "mean"]
"""The hidden states that make an embedding."""

Progress = Callable[[int, int, str], Optional[bool]]
"""Hears (weights written, in all, the tensor at hand), of a calibration (layers done, in all, what it does), both in
thousandths; False asks to stop."""


class SamplingWithoutSeed(TypedDict, total=False):
    """How the next token is chosen. Defaults are those of `brooklet run`."""

    temperature: float
    """Below 1 safer, above 1 bolder, 0 always the likeliest token. Default 0.8."""
    top_k: int
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float
    """Keep the likeliest tokens whose shares sum to p. Default 0.9."""
    min_p: float
    """Keep tokens at least p times as likely as the likeliest."""
    typical_p: float
    """Keep the tokens nearest to the expected surprise whose shares sum to p; 1 keeps all."""
    top_n_sigma: float
    """Keep logits within n standard deviations of the largest; 0 keeps all."""
    xtc_probability: float
    """The chance to drop all tokens above `xtc_threshold` but the least likely of them."""
    xtc_threshold: float
    """See `xtc_probability`. Default 0.1."""
    dynatemp_range: float
    """Let the temperature go up and down by this with the entropy; 0 is off."""
    dynatemp_exponent: float
    """See `dynatemp_range`. Default 1."""
    mirostat_tau: float
    """Steer to so many bits of surprise a token (mirostat 2), in place of all cuts; 0 is off."""
    mirostat_eta: float
    """How fast mirostat learns. Default 0.1."""
    repetition_penalty: float
    """Divide the logits of tokens that came by this (multiply negative ones); 1 is off."""
    presence_penalty: float
    """Take this from the logits of tokens that came."""
    frequency_penalty: float
    """Take this from the logits of tokens for each time they came."""
    penalty_decay: float
    """Let each coming count less by this factor with every token since; 1 is off."""
    penalty_window: int
    """Tokens that the penalties look back on; 0 is all."""
    dry_multiplier: float
    """Lower tokens that would lengthen a repetition (DRY); 0 is off."""
    dry_base: float
    """See `dry_multiplier`. Default 1.75."""
    dry_allowed_length: int
    """Repeated tokens from which on DRY counts. Default 2."""
    dry_window: int
    """Tokens that DRY looks back on. Default 1024."""
    dry_breakers: Sequence[str]
    """Texts that no repetition of DRY goes across. Default: line feed, colon, quotation mark, asterisk."""
    bias: Mapping[Union[str, int], float]
    """Added to the logits of tokens, by their text or id; -inf forbids one."""
    steps: Sequence[str]
    """The steps in their order; one that is not named is off."""
    json_schema: Union[str, Mapping[str, object]]
    """Write JSON that this schema allows."""
    regex: str
    """Write text that this regular expression matches as a whole."""
    grammar: str
    """Write text that this Lark grammar allows, from its rule `start`."""


class Sampling(SamplingWithoutSeed, total=False):
    """How the next token is chosen. Defaults are those of `brooklet run`."""

    seed: Optional[int]
    """Of the random numbers; by default a new one, which `Generation.seed` tells."""
