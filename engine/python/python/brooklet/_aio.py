"""asyncio: iterators that compute, without keeping the event loop from its other tasks."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar, cast

T = TypeVar("T")


async def stream(items: Iterable[T]) -> AsyncIterator[T]:
    """Gives the items of an iterator (a `Generation`, a `Batch`), each computed in another thread.

    >>> import asyncio, brooklet
    >>> async def write() -> str:
    ...     pieces = brooklet.Model.open().generate("Once upon a time", 8, seed=1)
    ...     return "".join([piece.text async for piece in brooklet.stream(pieces)])
    >>> len(asyncio.run(write())) > 0
    True
    """
    iterator, end = iter(items), object()
    while True:
        item = await asyncio.to_thread(next, iterator, end)
        if item is end:
            return
        yield cast(T, item)
