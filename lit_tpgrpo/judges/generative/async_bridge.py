"""An asynchronous producer behind a plain iterator: its event loop runs in a thread of its own and ends with the iterator."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Emit = Callable[[T], None]


class _End:
    """The last thing in the queue: with the error that ended the producer, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def in_background(produce: Callable[[Emit[T]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """Yield what the coroutine emits, as it emits it; raise what it raises.

    A thread of its own because the caller may be in an event loop already (a notebook). However the iteration ends
    (exhausted, closed early, an exception, ctrl-C), the coroutine is cancelled, has cleaned up and its thread is gone
    before control goes on.
    """
    items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None] = queue.SimpleQueue()

    async def main() -> None:
        task = asyncio.ensure_future(produce(items.put))
        started.put((asyncio.get_running_loop(), task))
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        items.put(_End(error))

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # no loop could be made, or it broke: whoever waits must hear of it
            items.put(_End(error))
            started.put(None)

    thread = threading.Thread(target=run, name="judge", daemon=True)
    thread.start()
    running = started.get()
    try:
        while True:
            item = items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        if running is not None and thread.is_alive():
            loop, task = running
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def gather_or_cancel(*parts: Awaitable[T]) -> list[T]:
    """Like ``asyncio.gather``, but if one fails the others are cancelled, and its error comes as it is."""

    async def run(part: Awaitable[T]) -> T:
        return await part

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(part)) for part in parts]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


def first_error(group: BaseExceptionGroup) -> BaseException:
    """The first error inside nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
