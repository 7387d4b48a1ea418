"""A correction: ``--data.correction.method examples.parts.correction.damped``, in Python ``correction=damped``."""

from torch import Tensor


def damped(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Weigh each token by the square root of c_t = pi(y_t) / mu(y_t), between floor and cap; ``log_ratio`` is log c_t, (T,)."""
    return (log_ratio / 2).exp().clamp(floor, cap)
