"""Report a user error as one line and a programming error as a traceback."""

from __future__ import annotations

import errno
import os
import pickle
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

import lit_tpgrpo
from lit_tpgrpo.checkout import subpackage_folder
from lit_tpgrpo.errors import USER_ERRORS, all_causes, first_among
from lit_tpgrpo.redaction import redacted

DEBUG = "LIT_TPGRPO_DEBUG"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
# How libraries name a missing package, the most reliable first; a quoted pip command may have flags and quotes.
_REQUIREMENTS = (
    r"Requirement '([^']+)' not met",
    r"pip install(?: -\S+)* ['\"]?([\w.-]+(?:[<>=!~]=?[\w.,<>=!~]+)?)",
    r"named '([\w.]+)'",
    r"`([\w.-]+)` (?:package )?is not installed",
    r"requires `?([\w.-]+[<>=!~]=?[\d.]+)",
)
# Errors of gloo and NCCL on the remaining ranks when another one ends.
_PEER_GONE = re.compile(r"Connection (?:closed|reset) by peer|remote process exited", re.IGNORECASE)
_CHECKPOINTING = (
    " Leave the checkpoint callback (SafeCheckpoint in our configs) out of the config's trainer.callbacks, or drop all "
    "callbacks, the evaluation's too, with --trainer.callbacks null"
)
# The last two are outside of the first in a checkout. Not the parent folder: a checkout may contain the virtual environment.
_OURS = tuple(
    folder.resolve()
    for folder in (Path(lit_tpgrpo.__file__).parent, subpackage_folder("callbacks"), subpackage_folder("datamodules"))
)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with one line, ``error: ...``, if the block raises a user error.

    ``LIT_TPGRPO_DEBUG=1`` also prints its traceback. A user error that ends another thread, such as TensorBoard's writer on a
    full disk, is printed as a one-line warning.
    """
    previous, threading.excepthook = threading.excepthook, _thread_failed
    try:
        yield
    except Exception as error:
        message = user_error(error)
        if message is None:
            raise
        if debugging():
            traceback.print_exc()
        sys.exit(redacted(f"error: {message}"))
    finally:
        threading.excepthook = previous


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    message = user_error(failure.exc_value)
    if message is None or debugging():
        threading.__excepthook__(failure)
    else:
        print(redacted(f"warning: {message}"), file=sys.stderr)


def debugging() -> bool:
    """Return whether tracebacks are requested by LIT_TPGRPO_DEBUG."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def user_error(error: BaseException | None) -> str | None:
    """Return the message of the first user error among an error and its causes; None if it is a programming error.

    The causes count because the parser wraps what a class raises when it is built. This package's errors come first. Errors
    of other libraries count if the user can fix their cause: conflicting settings, packages that are not installed, a full or
    read-only disk, a checkpoint of another model, too little GPU memory.
    """
    if (known := first_among(error, USER_ERRORS)) is not None:
        return str(known)
    messages = (_library_error(cause) for cause in all_causes(error))
    return next((message for message in messages if message is not None), None)


def in_our_code(error: BaseException) -> bool:
    """Return whether an error was raised in a file of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(folder in Path(frames[-1].filename).resolve().parents for folder in _OURS)


def _library_error(error: BaseException) -> str | None:
    """Return a message with a remedy for another library's error; None if the user cannot fix its cause."""
    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):
        return text + _CHECKPOINTING if "`enable_checkpointing=False`" in text else text
    if isinstance(error, ModuleNotFoundError):
        return None if (error.name or "").startswith("lit_tpgrpo") else _missing_package(error, text)
    if isinstance(error, OSError) and error.errno in _DISK:
        file = error.filename or "a file"
        return (
            f"{error.strerror}: {file} cannot be written or read; free space, or make it accessible. What was "
            "stored before is kept: resume with --ckpt_path and the run's folder"
        )
    if isinstance(error, RuntimeError) and _PEER_GONE.search(text):
        return (
            "another rank of this run has ended, so the run stops; the output of that rank says why, unless it was killed. "
            "What was stored before is kept: resume with --ckpt_path and the run's folder"
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"{text.split('. ')[0]}. Lower model.tokens_per_microbatch (training) or data.engine.batch_size (sampling), or set "
            "model.gradient_checkpointing"
        )
    if isinstance(error, RuntimeError) and text.startswith("Early stopping conditioned on metric"):
        missing, names = text.split(
            ". Pass in or modify your `EarlyStopping` callback to use any of the following: ", 1
        )
        return f"{missing}; set EarlyStopping's monitor to one of {names}"
    if isinstance(error, RuntimeError) and text.startswith("Error(s) in loading state_dict"):
        return _state_dict_mismatch(str(error))
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in text.lower().replace(" ", "_"):
        return (
            "the checkpoint contains objects other than tensors and plain values, which could run code when loaded; it is not "
            "loaded. Checkpoints of this package contain no such objects. If you trust its source, give --weights_only false"
        )
    return None


def _missing_package(error: ModuleNotFoundError, text: str) -> str:
    """Return the pip command for a package that is missing, or too old; then with the required version."""
    if error.name is not None:
        name = error.name.split(".")[0]
        return f"the package {name} is not installed: pip install {name}"
    match = next((m for m in (re.search(pattern, text) for pattern in _REQUIREMENTS) if m), None)
    if match is None:
        return text
    name = match[1].rstrip(".")
    shown = f"-U '{name}'" if re.search(r"[<>=!~]", name) else name
    return f"the package {name} is not installed: pip install {shown}"


def _state_dict_mismatch(text: str) -> str:
    """Summarise how a state dict differs from the model, with one example of each kind."""
    counts = []
    for label, pattern in (
        ("missing", r"Missing key\(s\) in state_dict: (.*)"),
        ("not in the model", r"Unexpected key\(s\) in state_dict: (.*)"),
    ):
        if match := re.search(pattern, text):
            names = re.findall(r'"([^"]+)"', match[1])
            counts.append(f"{len(names)} tensors {label}, e.g. {names[0]}")
    if shapes := re.findall(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)", text):
        name, stored, expected = shapes[0]
        counts.append(f"{len(shapes)} of another shape, e.g. {name} {stored}, not {expected}")
    return (
        f"the checkpoint holds the weights of another model ({'; '.join(counts)}); set model.model, model.adapter and "
        "model.quantization as in the run's config.yaml, or give another checkpoint"
    )
