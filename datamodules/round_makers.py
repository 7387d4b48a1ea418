"""The values of ``data.schedule``: how the stages of a round follow one another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.streaming import StreamedRoundMaker

ScheduleName = Literal["serial", "streamed"]


def round_maker_of(schedule: ScheduleName, dynamic: DynamicSampling | None) -> Callable[..., RoundMaker]:
    """Return what makes the ``RoundMaker`` of a schedule from its stages.

    Args:
        schedule: ``serial`` or ``streamed``.
        dynamic: drops groups, which a streamed round then does not judge.
    """
    if schedule == "serial":
        return RoundMaker
    return StreamedRoundMaker if dynamic is None else partial(StreamedRoundMaker, wanted=dynamic.counts)
