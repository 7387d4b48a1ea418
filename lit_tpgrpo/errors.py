"""Typed errors. Each message says what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Iterator


class InputError(ValueError):
    """The user's data cannot be used as it is (missing file, malformed row, prompt too long, ...)."""


class ConfigError(ValueError):
    """The user's settings contradict each other or a library limit (group size 1, tokenizer without EOS, ...)."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; raised before the optimizer step, so the weights are still good."""

    on_all_processes = True


class EmptyRoundError(RuntimeError):
    """Rounds keep yielding nothing to train on."""

    on_all_processes = True


class JudgeDownError(RuntimeError):
    """The judge cannot be reached and the user chose to stop. What was judged so far is stored."""


class EngineError(RuntimeError):
    """The sampling engine cannot be reached, or did not take over the policy's weights. Nothing was sampled from it since."""


class StorageError(RuntimeError):
    """Something could not be written: the disk is full, the folder is read-only. What was stored before is still good."""


class OtherProcessError(RuntimeError):
    """Another process of the run failed at work that all do side by side."""


USER_ERRORS: tuple[type[Exception], ...] = (
    ConfigError,
    InputError,
    EmptyRoundError,
    NonFiniteLossError,
    JudgeDownError,
    EngineError,
    OtherProcessError,
    StorageError,
)


def raised_on_all_ranks(error: BaseException) -> bool:
    """Whether all processes of the run are known to have left off at the same place, so that they can still act together."""
    return bool(getattr(error, "on_all_processes", False))


def mark_raised_on_all(error: BaseException) -> BaseException:
    """The error, known from now on to be raised on all processes at the same place."""
    error.on_all_processes = True  # pyright: ignore[reportAttributeAccessIssue]
    return error


def all_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what it was raised from or while handling, each once: such chains may run in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_among(error: BaseException | None, kinds: tuple[type[Exception], ...]) -> BaseException | None:
    """The first of an error and its causes that is of one of the kinds: the parser wraps what a class raises when built.

    None where there is none: a programming error, which keeps its traceback.
    """
    return next((cause for cause in all_causes(error) if isinstance(cause, kinds)), None)
