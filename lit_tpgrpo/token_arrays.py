"""Read-only arrays of token ids, log-probs and offsets in the text. A value takes 4 bytes, a packed offset one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_tpgrpo.errors import ConfigError

TokenInts: TypeAlias = NDArray[np.int32]
"""Token ids, or characters at which tokens begin: (T,) int32."""
TokenFloats: TypeAlias = NDArray[np.float32]
"""Log-probs: (T,) float32, the precision in which they are computed and trained on."""
Offsets: TypeAlias = Sequence[int] | TokenInts
"""Token ids or offsets, as functions take them."""
_INT32 = np.iinfo(np.int32)
_BYTE = 255


def token_ints(values: Sequence[int] | NDArray[Any], name: str) -> TokenInts:
    """Return whole numbers as a read-only (T,) int32 array; one that is such an array already is not copied.

    Raises:
        ConfigError: ``name`` has something other than whole numbers of 32 bits, one for each token.
    """
    array = _one_dimensional(values, name, "whole numbers", "iu")
    if array.size and array.dtype != np.int32 and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise ConfigError(f"{name}: expected whole numbers of 32 bits, got {array.min()} to {array.max()}")
    return _read_only(array, np.dtype(np.int32))


def token_floats(values: Sequence[float] | NDArray[Any], name: str) -> TokenFloats:
    """Return numbers as a read-only (T,) float32 array; one that is such an array already is not copied.

    Raises:
        ConfigError: ``name`` has something other than numbers, one for each token.
    """
    return _read_only(_one_dimensional(values, name, "numbers", "fiu"), np.dtype(np.float32))


def _one_dimensional(values: Sequence[float] | NDArray[Any], name: str, what: str, kinds: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors with a gradient or on another device
        raise ConfigError(f"{name}: expected {what}, one for each token ({error})") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
        got = f"{array.dtype}" if array.ndim == 1 else f"an array of shape {array.shape}"
        raise ConfigError(f"{name}: expected {what}, one for each token, got {got}")
    return array


def _read_only(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array in this dtype, a copy if somebody could still write to it."""
    if array.dtype != dtype or array.flags.writeable or not array.flags.c_contiguous:
        array = array.astype(dtype, order="C", copy=True)
        array.setflags(write=False)
    return array


class PackedOffsets:
    """Field of a frozen dataclass without slots: offsets, held as differences of one byte where these fit, read as (T,) int32.

    A token has about four characters, so differences need a quarter of the memory. Each access adds them up, in time linear in
    the tokens: take the array once, not an entry at a time.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._label, self._packed = f"{owner.__name__}.{name}", f"_{name}"

    def __get__(self, record: Any, owner: type | None = None) -> TokenInts:
        if record is None:  # ``dataclass`` asks the class for a default: there is none
            raise AttributeError(self._label)
        return running_sum(getattr(record, self._packed))

    def __set__(self, record: Any, starts: Offsets) -> None:
        deltas = differences(token_ints(starts, self._label))
        smallest = np.uint8 if deltas.view(np.uint32).max(initial=0) <= _BYTE else np.int32  # negative ones are large
        object.__setattr__(record, self._packed, _read_only(deltas, np.dtype(smallest)))


def differences(starts: TokenInts) -> TokenInts:
    """Return the differences of int32 numbers, from 0 on, modulo 2**32."""
    return np.diff(starts, prepend=np.zeros(1, np.int32))


def running_sum(deltas: NDArray[Any]) -> TokenInts:
    """Return the numbers with these ``differences``, read-only."""
    starts = np.cumsum(deltas, dtype=np.int32)
    starts.setflags(write=False)
    return starts


NO_INTS, NO_FLOATS = token_ints((), "empty"), token_floats((), "empty")
"""Of no token."""


class EqualByContent:
    """Base of frozen dataclasses (``eq=False``) that hold arrays: equal if all compared fields are, by value and order.

    Floating-point arrays are not part of the hash, so that 0.0 and -0.0 remain equal.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(a, b) for a, b in zip(_compared(self), _compared(other), strict=True))

    def __hash__(self) -> int:
        values = _compared(self)
        return hash(tuple(_hashed(v) for v in values if not (isinstance(v, np.ndarray) and v.dtype.kind == "f")))


def _compared(record: Any) -> list[Any]:
    return [getattr(record, field.name) for field in fields(record) if field.compare]


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def _hashed(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value
