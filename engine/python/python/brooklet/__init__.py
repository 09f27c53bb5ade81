"""brooklet: an inference engine for recurrent language models (RWKV, Mamba, their hybrids).

>>> import brooklet
>>> model = brooklet.Model.open()  # a .brk file, a checkpoint; without a path the demo model
>>> print("".join(piece.text for piece in model.generate("Once upon a time", 8, seed=1)))
 you may be able to speak plainly.

Threads: a model serves any number of them. A session (and a generation, a batch) is for one at a
time, others wait their turn; `score`, `logprobs` and `embed` of one model take turns, too. Whatever
computes releases Python's lock. asyncio: `brooklet.stream` for iterators, `asyncio.to_thread` for
calls. Ctrl-C ends what the main thread computes, between two passes. Processes: models, sessions
and states pickle, models as the names of their files, whose pages processes share.
"""

from ._aio import stream
from ._brooklet import (
    VERSION as __version__,
    Batch,
    Completion,
    Converted,
    Device,
    Generation,
    Model,
    Piece,
    Score,
    Session,
    Slot,
    State,
    Tokenizer,
    convert,
    devices,
)
from ._errors import (
    ContextError,
    DeviceError,
    Error,
    FileError,
    OptionError,
    StateError,
    TemplateError,
    TokenError,
)
from ._types import Sampling

__all__ = [
    "Batch",
    "Completion",
    "ContextError",
    "Converted",
    "Device",
    "DeviceError",
    "Error",
    "FileError",
    "Generation",
    "Model",
    "OptionError",
    "Piece",
    "Sampling",
    "Score",
    "Session",
    "Slot",
    "State",
    "StateError",
    "TemplateError",
    "TokenError",
    "Tokenizer",
    "__version__",
    "convert",
    "devices",
    "stream",
]
