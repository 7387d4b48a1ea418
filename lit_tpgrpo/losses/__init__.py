"""Losses over completion tokens. One loss a file, behind ``TokenLoss``; all measured by ``metrics``."""

from lit_tpgrpo.losses.base import LossInputs, LossOutput, TokenLoss, loss_inputs
from lit_tpgrpo.losses.clipped import ClippedSurrogate

__all__ = ["ClippedSurrogate", "LossInputs", "LossOutput", "TokenLoss", "loss_inputs"]
