"""The values of ``data.schedule``: how the stages of a round follow one another."""

from __future__ import annotations

from typing import Literal

from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.streaming import StreamedRoundMaker

ScheduleName = Literal["serial", "streamed"]


ROUND_MAKERS: dict[ScheduleName, type[RoundMaker]] = {"serial": RoundMaker, "streamed": StreamedRoundMaker}


def round_maker_of(schedule: ScheduleName, dynamic: DynamicSampling | None) -> type[RoundMaker]:
    """Return the ``RoundMaker`` of a schedule.

    Raises:
        ConfigError: the schedule judges solutions before dynamic sampling knows which groups it drops.
    """
    if schedule == "streamed" and dynamic is not None:
        raise ConfigError(
            "data.schedule streamed cannot be combined with data.dynamic_sampling: the judge is asked once a round, when it is "
            "known which groups are dropped. Leave one of them out"
        )
    return ROUND_MAKERS[schedule]
