"""Typed errors. Each message says what was expected, what was received and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator


class InputError(ValueError):
    """The user's data cannot be used (missing file, malformed row, prompt too long, ...)."""


class ConfigError(ValueError):
    """The user's settings contradict each other or a library limit (group size 1, tokenizer without EOS, ...)."""


class NonFiniteLossError(RuntimeError):
    """The loss, its gradient or log-probs are NaN or infinite; raised before the optimizer step: the weights are still good."""

    on_all_processes = True


class EmptyRoundError(RuntimeError):
    """Several rounds in a row gave nothing to train on."""

    on_all_processes = True


class JudgeDownError(RuntimeError):
    """The judge cannot be reached and the user chose to stop. What was judged so far is stored."""


class EngineError(RuntimeError):
    """The sampling engine cannot be reached, or did not load the policy's new weights. Nothing was sampled from it since."""


class StorageError(RuntimeError):
    """A file could not be written: the disk is full, the folder is read-only. What was stored before is intact."""


class OtherProcessError(RuntimeError):
    """Another rank of the run failed in work that all ranks do in parallel."""


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
    """Return whether all ranks are known to have stopped at the same point, so that collectives are safe."""
    return bool(getattr(error, "on_all_processes", False))


def mark_raised_on_all(error: BaseException) -> BaseException:
    """Mark an error as raised on all ranks at the same point, and return it."""
    error.on_all_processes = True  # pyright: ignore[reportAttributeAccessIssue]
    return error


def all_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then its causes and contexts, each once: such chains may be cyclic."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_among(error: BaseException | None, kinds: tuple[type[Exception], ...]) -> BaseException | None:
    """Return the first of an error and its causes that is an instance of ``kinds``; None if there is none.

    The causes count because the parser wraps what a class raises when it is built.
    """
    return next((cause for cause in all_causes(error) if isinstance(cause, kinds)), None)
