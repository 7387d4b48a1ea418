"""How commands end: a user's mistake in one line, a programming error in its traceback."""

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
from lit_tpgrpo.errors import USER_ERRORS, all_causes, first_among
from lit_tpgrpo.redaction import redacted

DEBUG = "LIT_TPGRPO_DEBUG"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
# How libraries say which package is to be installed, the surest first; that named by pip has its own flags and quotes.
_REQUIREMENTS = (
    r"Requirement '([^']+)' not met",
    r"pip install(?: -\S+)* ['\"]?([\w.-]+(?:[<>=!~]=?[\w.,<>=!~]+)?)",
    r"named '([\w.]+)'",
    r"`([\w.-]+)` (?:package )?is not installed",
    r"requires `?([\w.-]+[<>=!~]=?[\d.]+)",
)
# Of gloo and NCCL, to the processes that are still there.
_PEER_GONE = re.compile(r"Connection (?:closed|reset) by peer|remote process exited", re.IGNORECASE)
_CHECKPOINTING = (
    " Leave the checkpoint callback (SafeCheckpoint in our configs) out of the config's trainer.callbacks, or drop all "
    "callbacks, the evaluation's too, with --trainer.callbacks null"
)
_HERE = Path(lit_tpgrpo.__file__).parent
# The last two are links in a checkout. Not the folder above: a checkout holds the virtual environment too.
_OURS = tuple(folder.resolve() for folder in (_HERE, _HERE / "callbacks", _HERE / "datamodules"))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with ``error: ...`` where a user's mistake comes out of the block; ``LIT_TPGRPO_DEBUG=1`` shows where
    it was raised. One that ends another thread, such as TensorBoard's writer on a full disk, is told in a line too."""
    before, threading.excepthook = threading.excepthook, _thread_failed
    try:
        yield
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        if debugging():
            traceback.print_exc()
        sys.exit(redacted(f"error: {mistake}"))
    finally:
        threading.excepthook = before


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    mistake = user_error(failure.exc_value)
    if mistake is None or debugging():
        threading.__excepthook__(failure)
    else:
        print(redacted(f"warning: {mistake}"), file=sys.stderr)


def debugging() -> bool:
    """Whether the user asks for tracebacks."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def user_error(error: BaseException | None) -> str | None:
    """The message of a user's mistake among an error and its causes: the parser wraps what a class raises when built.

    Ours come first. Of other libraries' errors those count that say what the user can change: settings that exclude one
    another, packages that are not installed, disks that are full or read-only, checkpoints of another model, memory of the GPU.
    """
    if (ours := first_among(error, USER_ERRORS)) is not None:
        return str(ours)
    told = (_of_others(cause) for cause in all_causes(error))
    return next((message for message in told if message is not None), None)


def in_our_code(error: BaseException) -> bool:
    """Whether it was raised in a file of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(folder in Path(frames[-1].filename).resolve().parents for folder in _OURS)


def _of_others(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):
        return text + _CHECKPOINTING if "`enable_checkpointing=False`" in text else text
    if isinstance(error, ModuleNotFoundError):
        return None if (error.name or "").startswith("lit_tpgrpo") else _missing_package(error, text)
    if isinstance(error, OSError) and error.errno in _DISK:
        place = f" {error.filename}" if error.filename else ""
        return (
            f"{error.strerror}:{place or ' a file'} cannot be written or read; free space, or make it accessible. What was "
            "stored before is kept: resume with --ckpt_path and the run's folder"
        )
    if isinstance(error, RuntimeError) and _PEER_GONE.search(text):
        return (
            "another process of this run has ended, and the run with it; its own output says why, unless it was killed. "
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
        return _other_weights(str(error))
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in text.lower().replace(" ", "_"):
        return (
            "the checkpoint holds more than tensors and plain values, which could run code when loaded; it is not loaded. "
            "Checkpoints of this package hold nothing else. If you trust where it comes from, give --weights_only false"
        )
    return None


def _missing_package(error: ModuleNotFoundError, text: str) -> str:
    """Of a package that is not there, or too old for the requirement, which is then told with its version."""
    if error.name is not None:
        name = error.name.split(".")[0]
        return f"the package {name} is not installed: pip install {name}"
    found = next((f for f in (re.search(pattern, text) for pattern in _REQUIREMENTS) if f), None)
    if found is None:
        return text
    name = found[1].rstrip(".")
    shown = f"-U '{name}'" if re.search(r"[<>=!~]", name) else name
    return f"the package {name} is not installed: pip install {shown}"


def _other_weights(text: str) -> str:
    """Of a state dict that does not fit: how it differs, with one example."""
    counts = []
    for label, pattern in (
        ("missing", r"Missing key\(s\) in state_dict: (.*)"),
        ("not in the model", r"Unexpected key\(s\) in state_dict: (.*)"),
    ):
        if found := re.search(pattern, text):
            names = re.findall(r'"([^"]+)"', found[1])
            counts.append(f"{len(names)} tensors {label}, e.g. {names[0]}")
    if shapes := re.findall(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)", text):
        name, held, wanted = shapes[0]
        counts.append(f"{len(shapes)} of another shape, e.g. {name} {held}, not {wanted}")
    return (
        f"the checkpoint holds the weights of another model ({'; '.join(counts)}); set model.model, model.adapter and "
        "model.quantization as in the run's config.yaml, or give another checkpoint"
    )
