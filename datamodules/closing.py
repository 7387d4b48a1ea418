"""Close the parts of a DataModule."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


def close_all(*parts: Closable) -> list[Exception]:
    """Close every part, also after an error, and return the errors."""
    errors = []
    for part in parts:
        try:
            part.close()
        except Exception as error:  # the remaining parts are closed all the same
            errors.append(error)
    return errors
