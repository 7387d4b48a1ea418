"""Find checkpoints, check them before anything loads them, and load them."""

from lit_tpgrpo.training.checkpoints.check import (
    CheckpointError,
    UnsafeCheckpointError,
    check_checkpoint,
    check_contents,
    fault_of,
)
from lit_tpgrpo.training.checkpoints.finding import ASIDE, PARTIAL, bring_back, usable_checkpoint
from lit_tpgrpo.training.checkpoints.loading import check_before_loading, checked_path, load_checkpoint

__all__ = [
    "ASIDE",
    "PARTIAL",
    "CheckpointError",
    "UnsafeCheckpointError",
    "bring_back",
    "check_before_loading",
    "check_checkpoint",
    "check_contents",
    "checked_path",
    "fault_of",
    "load_checkpoint",
    "usable_checkpoint",
]
