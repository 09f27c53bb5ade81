# Written by `engine/python/stubs`.
"""
What the package `brooklet` is made of.
"""

import collections.abc
from typing_extensions import Unpack
from ._types import FloatArray, Messages, Pooling, Progress, Prompt, Sampling, SamplingWithoutSeed, StrPath, Tokens
from os import PathLike
from pathlib import Path
from typing import Any, Final, SupportsIndex, final

__all__ = ["VERSION", "Batch", "Completion", "Converted", "Device", "Generation", "Model", "Piece", "Score", "Session", "Slot", "State", "Tokenizer", "Values", "convert", "devices"]

VERSION: Final[str]

@final
class Batch:
    """
    Texts behind many prompts in the making: an iterator of completions.
    """
    def __iter__(self, /) -> Batch: ...
    def __next__(self, /) -> Completion: ...

@final
class Completion:
    """
    A text that has ended.
    """
    def __repr__(self, /) -> str: ...
    def __str__(self, /) -> str: ...
    @property
    def error(self, /) -> Any | None:
        """
        What went wrong, if errors are kept.
        """
    @property
    def index(self, /) -> int:
        """
        The number of its prompt, from 0.
        """
    @property
    def logprobs(self, /) -> list[float]:
        """
        Their log-probabilities, if they were asked for.
        """
    @property
    def prompt_tokens(self, /) -> int:
        """
        Tokens of the prompt, and how many of them were known from earlier ones.
        """
    @property
    def reason(self, /) -> str:
        """
        Why it ended: "length", "end", "stop", "grammar"; "error" where it failed.
        """
    @property
    def reused_tokens(self, /) -> int: ...
    @property
    def seed(self, /) -> int:
        """
        The seed of its random numbers.
        """
    @property
    def text(self, /) -> str:
        """
        The text, without the prompt.
        """
    @property
    def tokens(self, /) -> list[int]:
        """
        Its tokens.
        """

@final
class Converted:
    """
    The result of a conversion.
    """
    def __repr__(self, /) -> str: ...
    @property
    def architecture(self, /) -> str:
        """
        Name of the architecture.
        """
    @property
    def bits_per_weight(self, /) -> float:
        """
        Bits of tensor data per weight, scales and padding included.
        """
    @property
    def calibration_tokens(self, /) -> int:
        """
        Tokens that the codes were calibrated on; 0 where matrices were only rounded.
        """
    @property
    def file(self, /) -> Path:
        """
        The file that was written.
        """
    @property
    def notes(self, /) -> list[str]:
        """
        Notes for people.
        """
    @property
    def source_bytes(self, /) -> int:
        """
        Bytes of the checkpoint's files, and of the file written.
        """
    @property
    def source_kind(self, /) -> str:
        """
        The kind of checkpoint that was read.
        """
    @property
    def target_bytes(self, /) -> int: ...
    @property
    def tensors(self, /) -> int:
        """
        Tensors and weights written.
        """
    @property
    def tokenizer(self, /) -> str:
        """
        The tokenizer in the file: "world", "huggingface", "bytes" or "none".
        """
    @property
    def weights(self, /) -> int: ...

@final
class Device:
    """
    A device that models can run on: `Model.open(path, device=device.name)`.
    """
    def __repr__(self, /) -> str: ...
    @property
    def description(self, /) -> str:
        """
        The same for people.
        """
    @property
    def free(self, /) -> int | None:
        """
        Free bytes of it.
        """
    @property
    def memory(self, /) -> int | None:
        """
        Bytes of its memory; None for the processor.
        """
    @property
    def name(self, /) -> str:
        """
        Its name: "cpu", "cuda:0", ….
        """

@final
class Generation:
    """
    A text in the making: an iterator of pieces. The prompt is read when the first piece is asked
    for.

    For asyncio, `brooklet.stream(generation)` computes each piece in another thread.
    """
    def __iter__(self, /) -> Generation: ...
    def __next__(self, /) -> Piece: ...
    def __repr__(self, /) -> str: ...
    @property
    def reason(self, /) -> str | None:
        """
        Why the text ended: "length" (as many tokens as asked for), "end" (the model ended it),
        "stop" (a stop string), "grammar" (nothing can follow); None while it goes on.
        """
    @property
    def seed(self, /) -> int:
        """
        The seed of its random numbers: the one given, or the one chosen where none was.
        """
    @property
    def session(self, /) -> Session:
        """
        The session that writes, which stands behind the tokens given.
        """
    def text(self, /) -> str:
        """
        Writes to the end, and gives the text that had not been given yet.
        """
    @property
    def tokens(self, /) -> int:
        """
        Tokens given so far; one that ended the text does not count.
        """

@final
class Model:
    """
    An opened model: its weights are mapped from the file, and shared by all sessions, threads and
    processes that use it. Pickles as the name of its file.

    >>> import brooklet
    >>> model = brooklet.Model.open()  # the small demo model that comes with the package
    >>> model.architecture, model.n_layer
    ('rwkv7', 6)
    >>> text = "".join(str(piece) for piece in model.generate("Once upon a time", 20, seed=1))
    """
    def __reduce__(self, /) -> tuple[Any, tuple[Path | None, str, str, int | None, int | None, bool, int, bool]]: ...
    def __repr__(self, /) -> str: ...
    @staticmethod
    def _reopen(file: str | PathLike[str] | None, device: str, state: str, context: SupportsIndex | None, window: SupportsIndex | None, mmap: bool, threads: SupportsIndex, allow_large_state: bool) -> Model:
        """
        What a pickle calls: a model of these options, shared by all who unpickle it here.
        """
    @property
    def architecture(self, /) -> str:
        """
        The name of its architecture.
        """
    def chat(self, /, messages: Messages, tokens: int = 512, *, stop: str | collections.abc.Sequence[str] | None = None, logprobs: int | None = ..., template: collections.abc.Mapping[str, object] | None = None, **sampling: Unpack[Sampling]) -> Generation:
        """
        Writes the answer to a conversation: messages are dictionaries with "role" (system, user,
        assistant, tool) and "content"; what else they have, templates may look at. Arguments are
        those of `generate`; `template` are variables of the model's template (`tools`,
        `enable_thinking`, …).

        >>> talk = [{"role": "user", "content": "Hello!"}]
        >>> answer = brooklet.Model.open().chat(talk, 10, temperature=0).text()
        """
    @property
    def d_model(self, /) -> int:
        """
        Width of the residual stream, and of embeddings.
        """
    @property
    def device(self, /) -> str:
        """
        Where it runs: "cpu", "cuda:0", ….
        """
    def embed(self, /, texts: Prompt | collections.abc.Sequence[Prompt], *, pooling: Pooling = "last", normalize: bool = False) -> FloatArray:
        """
        Embeddings of texts: of each the hidden state behind the final norm, after its last token
        (`pooling="last"`) or as the mean over all ("mean"); `normalize` gives them the length 1. An
        array of shape (texts, d_model); of a single string (d_model).

        >>> model = brooklet.Model.open()
        >>> model.embed(["a storm at sea", "a calm"], pooling="mean").shape
        (2, 192)
        """
    def encode_chat(self, /, messages: Messages, *, add_generation_prompt: bool = True, template: collections.abc.Mapping[str, object] | None = None) -> list[int]:
        """
        The token ids of a conversation, for `Session.prefill`: up to where the assistant begins to
        speak, unless `add_generation_prompt` is False.
        """
    @property
    def fingerprint(self, /) -> int:
        """
        A number that tells these weights from others.
        """
    def generate(self, /, prompt: Prompt, tokens: int = 256, *, stop: str | collections.abc.Sequence[str] | None = None, logprobs: int | None = ..., ignore_end: bool = False, **sampling: Unpack[Sampling]) -> Generation:
        """
        Writes a text behind a prompt (a string, bytes or token ids): an iterator of pieces, each
        with a token, the text that it completes, and its log-probability.

        `tokens` bounds them, the strings in `stop` end the text and are not part of it,
        `ignore_end` goes on where the model would end. `logprobs` is how many of the likeliest
        tokens each piece names beside its own log-probability; None computes neither. Other
        keywords choose how tokens are sampled (`brooklet.Sampling`); the defaults are those of
        `brooklet run`.

        >>> model = brooklet.Model.open()
        >>> for piece in model.generate("Once upon a time", 3, temperature=0, logprobs=1):
        ...     assert piece.top[0] == (piece.token, piece.logprob)
        """
    def generate_batch(self, /, prompts: collections.abc.Iterable[Prompt], tokens: int = 256, *, stop: str | collections.abc.Sequence[str] | None = None, logprobs: bool = False, ignore_end: bool = False, parallel: int = 8, ordered: bool = True, keep_errors: bool = False, cache_mb: int = 256, seed: int | collections.abc.Iterable[int] | None = None, **sampling: Unpack[SamplingWithoutSeed]) -> Batch:
        """
        Writes a text behind each of many prompts, `parallel` at a time, of which each pass reads
        the weights once (continuous batching): an iterator of completions, in the order of the
        prompts, or with `ordered=False` as they end. Prompts are taken as there is room for them,
        so that they may come from a generator without end. Each text is the one that `generate`
        writes with that seed; `seed` is the first prompt's, the next have the numbers behind it, or
        else a sequence.

        A prompt that fails raises its error in its place, and the iteration can go on behind it;
        with `keep_errors` it gives a completion with that error instead. `cache_mb` is memory for
        what prompts begin with alike, which is read once.

        >>> model = brooklet.Model.open()
        >>> both = list(model.generate_batch(["Once upon", "The sea"], 8, temperature=0))
        >>> [completion.index for completion in both]
        [0, 1]
        """
    def logprobs(self, /, text: Prompt) -> FloatArray:
        """
        The log-probability of each token of a text but the first, in nats: f32 of shape (n - 1).
        """
    @property
    def metadata(self, /) -> dict[str, Any]:
        """
        What the file says of itself: architecture, hyper-parameters, tokenizer, where it came from.
        """
    @property
    def n_layer(self, /) -> int:
        """
        Number of layers.
        """
    @property
    def n_vocab(self, /) -> int:
        """
        Tokens in the vocabulary: the length of a row of logits.
        """
    @staticmethod
    def open(path: StrPath | None = None, *, dtype: str | None = None, device: str = ..., state: str = ..., context: int | None = None, window: int | None = None, mmap: bool = True, threads: int = 0, allow_large_state: bool = False, cache: StrPath | None = None, progress: Progress | None = None) -> Model:
        """
        Opens a .brk file; or a checkpoint (a file, or a Hugging Face folder), which is converted
        once into the cache folder that the command line uses; or without a path the demo model.

        `dtype` is the number format that a checkpoint's matrices get (int8 by default). `device` is
        "cpu", "cuda", "cuda:N" or "auto". `state` is the number format of live states: f32, f16,
        or, for models with attention, int8. `context` bounds the tokens of a text, `window` lets
        layers that attend to every token attend to so many (both for models with attention alone).
        `mmap` False copies the file into memory. `threads` is how many of them whatever is made of
        the model uses at most; 0 is one per processor. `progress(done, total, tensor)` hears of a
        conversion.
        """
    @property
    def path(self, /) -> Path | None:
        """
        Its file; None for the demo model.
        """
    def score(self, /, prefix: Prompt, endings: collections.abc.Sequence[Prompt]) -> list[Score]:
        """
        How likely endings are behind a beginning, which is read once, and not again while the next
        call begins alike. Beginning and endings are texts or token ids.

        >>> scores = brooklet.Model.open().score("The sea was", [" calm", " green"])
        >>> max(scores, key=lambda score: score.logprob) is not None
        True
        """
    @property
    def state_bytes(self, /) -> int:
        """
        Bytes of a new state, which grows with attention alone.
        """
    @property
    def tokenizer(self, /) -> Tokenizer:
        """
        The model's words.
        """

@final
class Piece:
    """
    A piece of a text, as soon as it is certain.
    """
    def __repr__(self, /) -> str: ...
    def __str__(self, /) -> str: ...
    @property
    def logprob(self, /) -> float | None:
        """
        Its log-probability in nats, as the model has it, before any option of sampling.
        """
    @property
    def text(self, /) -> str:
        """
        Whole characters, often none.
        """
    @property
    def token(self, /) -> int | None:
        """
        The token just chosen; None for what comes out at the end, when nothing can follow any more.
        """
    @property
    def top(self, /) -> list[tuple[int, float]]:
        """
        The likeliest tokens and their log-probabilities, the likeliest first; as many as were asked
        for.
        """

@final
class Score:
    """
    How likely an ending is.
    """
    def __repr__(self, /) -> str: ...
    @property
    def is_greedy(self, /) -> bool:
        """
        Whether each of them was the likeliest: the model would write it at temperature 0.
        """
    @property
    def logprob(self, /) -> float:
        """
        The log-probability of all its tokens, in nats.
        """
    @property
    def tokens(self, /) -> int:
        """
        Its tokens.
        """

@final
class Session:
    """
    A sequence of tokens, and where it stands: tokens in, logits out.

    A session is for one thread at a time, whichever it is: others wait their turn. It computes
    without Python's lock. `threads` are those that a pass uses at most (0: as the model says),
    `chunk` the tokens of a pass while a prompt is read, `rollback` how many tokens it can go back.
    Each session has scratch memory of its own; a State is what to keep many of. Pickles, with its
    model as the name of a file.

    >>> import brooklet
    >>> session = brooklet.Session(brooklet.Model.open(), rollback=8)
    >>> logits = session.prefill("Once upon a time")
    >>> token = int(logits.argmax())
    >>> after = session.step(token)
    >>> session.rollback(1)
    >>> bool((session.logits == logits).all())
    True
    """
    def __new__(cls, /, model: Model, *, threads: int = 0, chunk: int = 64, rollback: int = 0) -> Session:
        """
        A session before the first token.
        """
    def __reduce__(self, /) -> tuple[Any, tuple[Model, bytes, int, int, int]]: ...
    def __repr__(self, /) -> str: ...
    @staticmethod
    def _resumed(model: Model, data: bytes, threads: SupportsIndex, chunk: SupportsIndex, rollback: SupportsIndex) -> Session:
        """
        What a pickle calls.
        """
    def fork(self, /) -> Session:
        """
        Another session that stands where this one does; from there both go their own ways.
        """
    def forward(self, /, tokens: Prompt) -> FloatArray:
        """
        Reads tokens one by one, and gives the logits behind each: shape (n, n_vocab).
        """
    def generate(self, /, tokens: int = 256, *, stop: str | collections.abc.Sequence[str] | None = None, logprobs: int | None = ..., ignore_end: bool = False, **sampling: Unpack[Sampling]) -> Generation:
        """
        Goes on writing where the session stands, which is behind the text when that has ended.
        Arguments are those of `Model.generate`.
        """
    @property
    def has_logits(self, /) -> bool:
        """
        Whether the logits are known: not before the first token.
        """
    def load(self, /, path: StrPath) -> None:
        """
        Goes on from a state file of the same model.
        """
    @property
    def logits(self, /) -> FloatArray:
        """
        The logits behind the last token: a read-only array of f32, of shape (n_vocab), that shows
        the memory they were computed into, without a copy (on a card: a copy of it). It does not
        change when the session goes on, in this thread or another: the next pass writes elsewhere
        as long as somebody has the array. It keeps the session's memory alive.
        """
    @property
    def model(self, /) -> Model:
        """
        The model.
        """
    @property
    def position(self, /) -> int:
        """
        Tokens of the sequence.
        """
    def prefill(self, /, tokens: Prompt) -> FloatArray:
        """
        Reads a text or tokens, and gives the logits behind the last, as a view (see `logits`). A
        text that is the sequence's first begins as the model wants. Ctrl-C ends it between two
        passes: the tokens of passes that are done have been read then.
        """
    def reset(self, /) -> None:
        """
        Back to the start of a sequence.
        """
    def resume(self, /, state: State) -> None:
        """
        Goes on from a state of the same model.
        """
    def rollback(self, /, tokens: SupportsIndex) -> None:
        """
        Goes back so many tokens, exactly; at most `rollback_reach`.
        """
    @property
    def rollback_reach(self, /) -> int:
        """
        How many tokens `rollback` can go back.
        """
    def save(self, /, path: StrPath, dtype: str = "f32") -> None:
        """
        Writes where the sequence stands to a state file (.brks), which appears whole or not at all:
        values as f32, which is exact, f16 or int8.
        """
    def score(self, /, endings: collections.abc.Sequence[Prompt]) -> list[Score]:
        """
        How likely endings are behind what was read; the session stays where it is.
        """
    @property
    def state(self, /) -> State:
        """
        Where the sequence stands, as a value.
        """
    def step(self, /, token: int) -> FloatArray:
        """
        Reads one token, and gives the logits behind it, as a view (see `logits`).
        """

@final
class Slot:
    """
    A named piece of a state.
    """
    def __repr__(self, /) -> str: ...
    @property
    def layer(self, /) -> int:
        """
        Its layer, from 0.
        """
    @property
    def name(self, /) -> str:
        """
        Its name: "att.shift", "att.wkv", "conv", "ssm", ….
        """
    @property
    def shape(self, /) -> list[int]:
        """
        Its shape.
        """

@final
class State:
    """
    What a model remembers of a text, and the logits behind it: a value, which does not change.
    Pickles; as bytes and in files it is a state file (.brks), which the command line reads, too.

    >>> import brooklet, pickle
    >>> model = brooklet.Model.open()
    >>> session = brooklet.Session(model)
    >>> logits = session.prefill("Once upon a time")
    >>> again = brooklet.Session(model)
    >>> again.resume(pickle.loads(pickle.dumps(session.state)))
    >>> bool((again.logits == logits).all())
    True
    """
    def __eq__(self, other: object, /) -> bool: ...
    def __new__(cls, /, model: Model) -> State:
        """
        The state before the first token.
        """
    def __reduce__(self, /) -> tuple[Any, tuple[Model, bytes]]: ...
    def __repr__(self, /) -> str: ...
    def array(self, /, slot: int) -> FloatArray:
        """
        A copy of the values of slot number `slot`, as f32, in its shape.
        """
    @staticmethod
    def from_bytes(model: Model, data: bytes) -> State:
        """
        The state in the bytes of a state file of the same model.
        """
    @staticmethod
    def load(model: Model, path: StrPath) -> State:
        """
        The state in a file.
        """
    @property
    def logits(self, /) -> FloatArray | None:
        """
        The logits behind the last token, if they are known.
        """
    @property
    def model(self, /) -> Model:
        """
        The model.
        """
    @property
    def position(self, /) -> int:
        """
        Tokens that it has read.
        """
    def save(self, /, path: StrPath, dtype: str = "f32") -> None:
        """
        Writes a state file, which appears whole or not at all. Another state file is replaced,
        anything else is not.
        """
    @property
    def slots(self, /) -> list[Slot]:
        """
        Its pieces of constant size: recurrences, convolutions, shifts. `array(i)` has the values of
        number i.
        """
    def to_bytes(self, /, dtype: str = "f32") -> bytes:
        """
        The bytes of a state file: values as f32, which is exact, f16 or int8.
        """

@final
class Tokenizer:
    """
    Text to token ids and back, as one model knows it (`model.tokenizer`).

    >>> import brooklet
    >>> tokenizer = brooklet.Model.open().tokenizer
    >>> ids = tokenizer.encode("Once upon a time")
    >>> tokenizer.decode(ids)
    'Once upon a time'
    """
    def __len__(self, /) -> int: ...
    def __repr__(self, /) -> str: ...
    @property
    def begin(self, /) -> int | None:
        """
        The token before a text, if the model wants one.
        """
    def decode(self, /, ids: Tokens) -> str:
        """
        The text of some ids, special tokens written out; U+FFFD stands for bytes that are no UTF-8.
        """
    def decode_bytes(self, /, ids: Tokens) -> bytes:
        """
        The bytes of some ids, of which none is lost.
        """
    def encode(self, /, text: str | bytes) -> list[int]:
        """
        The ids of a text (a string or bytes), with nothing before or after them.
        """
    @property
    def ends(self, /) -> list[int]:
        """
        The tokens that end a text.
        """
    @property
    def kind(self, /) -> str:
        """
        The kind: "world", "huggingface", "bytes", or "none" where tokens stand for no text.
        """
    @property
    def n_vocab(self, /) -> int:
        """
        One more than the largest id. A model's logits may be more: rows that no text leads to.
        """
    def prompt(self, /, text: str | bytes) -> list[int]:
        """
        The ids of a text as a model begins with it: behind the token that it wants before texts, if
        it wants one. An empty text becomes that token, or one that ends texts.
        """
    @property
    def special_tokens(self, /) -> dict[int, str]:
        """
        The special tokens: their names, by id.
        """
    def token(self, /, text: str) -> int | None:
        """
        The id of the token that is exactly this text, or the special token of this name.
        """
    def token_bytes(self, /, id: int) -> bytes | None:
        """
        The bytes of one token in the middle of a text; None outside of the vocabulary.
        """

@final
class Values:
    """
    Numbers that NumPy shows: the `base` of the arrays that brooklet gives.
    """
    @property
    def __array_interface__(self, /) -> dict[str, Any]:
        """
        Where the values stand, as NumPy's array interface says it.
        """

def convert(source: StrPath, output: StrPath, dtype: str = "int8", *, group: int | None = None, overrides: collections.abc.Mapping[str, str] | None = None, tokenizer: StrPath | None = None, loras: collections.abc.Sequence[StrPath | tuple[StrPath, float]] = ..., config: StrPath | None = None, assume: str | None = None, untie: bool = False, equalize: bool = True, columns: bool = False, calibrate: bool | str | bytes = ..., force: bool = False, progress: Progress | None = None) -> Converted:
    """
    Converts a checkpoint (PyTorch, safetensors, GGUF, rwkv.cpp, a Hugging Face folder) into a .brk
    file, which appears whole or not at all.

    `dtype` is the number format of the big matrices: f32, f16, bf16, int8, int6, int5, int4,
    fp8-e4m3, fp8-e5m2 or lmul; `overrides` names others by regular expressions on tensors' names,
    of which the last that matches counts.

    The codes of int4, int5 and int6 are calibrated as those of `brooklet convert`: chosen while the
    model runs over a text (GPTQ), which takes about the time of reading 40 texts twice. `calibrate`
    is that text (a string or bytes, not a file's name); True takes the built-in one, or only rounds
    where the model has no tokenizer for it (`Converted.notes` says so); False only rounds.

    `columns` stores `ffn.value` of RWKV-4 to 7 by columns where it becomes int4 or int8: the same
    text, and one sequence is written 4 to 14 % faster; prompts are read 8 % slower, and four
    sequences or more at a time mostly lose, too.

    `progress(done, total, doing)` hears how many weights are written, and of a calibration, for
    which all weights are written as f32 first, how much of the layers is done. Where it returns
    False (brooklet.Error) or raises, no model is left behind; of a calibration its finished
    matrices are, in OUTPUT.unfinished, from where the next call goes on.

    >>> brooklet.convert("rwkv7-0.4b.pth", "rwkv7-0.4b.brk", "int4")  # doctest: +SKIP
    <brooklet.Converted rwkv7-0.4b.brk: rwkv7, 4.38 bits per weight>
    """

def devices() -> list[Device]:
    """
    The devices of this machine: the processor, and NVIDIA's cards where their driver is installed.

    >>> import brooklet
    >>> brooklet.devices()[0].name
    'cpu'
    """
