"""Asynchronous producer behind a plain iterator: its event loop runs in a background thread, as long as the iterator."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from lit_tpgrpo.arrivals import Arrivals, End

T = TypeVar("T")
Emit = Callable[[T], None]


def in_background(produce: Callable[[Emit[T]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """Run a coroutine in a background thread; yield the items it emits as they come, and raise its exceptions.

    It needs its own thread because the caller may already be inside an event loop (a notebook). However the iteration
    ends (exhausted, closed early, exception, ctrl-C), the coroutine has been cancelled and cleaned up and the thread
    joined before this returns.
    """
    items: Arrivals[T] = Arrivals()
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None] = queue.SimpleQueue()

    async def main() -> None:
        task = asyncio.ensure_future(produce(items.put))
        started.put((asyncio.get_running_loop(), task))
        await asyncio.wait([task])
        items.close(None if task.cancelled() else task.exception())

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # the loop could not be created, or failed: the consumer must not wait forever
            items.close(error)
            started.put(None)

    thread = threading.Thread(target=run, name="async", daemon=True)
    thread.start()
    running = started.get()
    try:
        yield from items
    finally:
        if running is not None and thread.is_alive():
            loop, task = running
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def arriving(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate over items whose ``next`` may have to wait, without blocking the event loop.

    A thread reads them, to the end or until the loop has ended: an iterator that waits must end by itself at last.
    """
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[T | End] = asyncio.Queue()

    def run() -> None:
        try:
            for item in items:
                loop.call_soon_threadsafe(read.put_nowait, item)
            end = End(None)
        except BaseException as error:  # for the consumer, who may be gone
            end = End(error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(read.put_nowait, end)

    threading.Thread(target=run, name="arriving", daemon=True).start()
    while not isinstance(item := await read.get(), End):
        yield item
    if item.error is not None:
        raise item.error


async def gather_or_cancel(*parts: Awaitable[T]) -> list[T]:
    """Like ``asyncio.gather``, but if one awaitable fails, cancel the rest and raise its exception unwrapped."""

    async def run(part: Awaitable[T]) -> T:
        return await part

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(part)) for part in parts]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


def first_error(group: BaseExceptionGroup) -> BaseException:
    """Return the first exception inside nested exception groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
