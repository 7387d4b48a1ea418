"""Runs are told apart by all that was set: also lists, and the schedule with its arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.functional.continuation_values import EntropyValue, HardValue
from lit_tpgrpo.judges.evidence import ContinuationScores
from lit_tpgrpo.judges.noisy import NoisyJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.rewards import OutcomeReward, RepetitionPenalty
from lit_tpgrpo.rewards.weighted import as_rewards
from lit_tpgrpo.rollout.filters import keep_all, with_truncated
from lit_tpgrpo.rollout.run_settings import log_run_settings, run_settings
from lit_tpgrpo.training.schedules import SequenceLR, TransformersLR


def settings(make: Callable[..., Any]) -> dict[str, Any]:
    """Those of a run with this schedule."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.5, betas=(0.8, 0.9))
    module = LightningModule()
    module._make_scheduler = make
    trainer = SimpleNamespace(
        lightning_module=module, optimizers=[optimizer], precision="32-true", world_size=1, max_steps=3, max_epochs=None,
        lr_scheduler_configs=[SimpleNamespace(scheduler=make(optimizer))],
    )  # fmt: skip
    return run_settings(cast(Trainer, trainer))


def built(kind: type, **arguments: Any) -> Callable[..., Any]:
    """As the parser does: positional are its own class and ours."""
    return partial(lambda kind, optimizer, **given: kind(optimizer, **given), kind, **arguments)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            built(MultiStepLR, milestones=[3, 5], gamma=0.5, last_epoch=-1),
            {"": "MultiStepLR", ".milestones": "[3, 5]", ".gamma": 0.5},
        ),
        (
            built(TransformersLR, name="cosine_with_min_lr", total_steps=9, warmup_steps=2, options={"min_lr_rate": 0.1}),
            {"": "TransformersLR", ".name": "cosine_with_min_lr", ".total_steps": 9, ".warmup_steps": 2,
             ".options.min_lr_rate": 0.1},
        ),
        (
            lambda optimizer: CosineAnnealingLR(optimizer, T_max=7),  # of a script: what the schedule itself keeps
            {"": "CosineAnnealingLR", ".T_max": 7, ".eta_min": 0.0},
        ),
        (
            built(SequenceLR, schedulers=[built(MultiStepLR, milestones=[1]), built(CosineAnnealingLR, T_max=2)],
                  milestones=[4]),
            {"": "SequenceLR", ".milestones": "[4]", ".0": "MultiStepLR", ".0.milestones": "[1]", ".1": "CosineAnnealingLR",
             ".1.T_max": 2},
        ),
    ],
    ids=["parser", "options", "script", "sequence"],
)  # fmt: skip
def test_the_schedule_and_lists_are_among_the_settings(make: Callable[..., Any], expected: dict[str, Any]):
    found = settings(make)
    assert found["optimizer.betas"] == "[0.8, 0.9]"
    assert {k.removeprefix("lr_scheduler"): v for k, v in found.items() if k.startswith("lr_scheduler")} == expected


def of_data(**parts: Any) -> dict[str, Any]:
    """The settings of a run with these parts of its DataModule."""
    trainer = SimpleNamespace(
        lightning_module=LightningModule(), optimizers=[], lr_scheduler_configs=[], precision="32-true", world_size=1,
        max_steps=3, max_epochs=None, datamodule=SimpleNamespace(**parts),
    )  # fmt: skip
    return run_settings(cast(Trainer, trainer))


def test_components_inside_components_are_among_the_settings():
    """Runs with soft, hard and entropy values looked the same in every logger, as did those of a judge inside another."""
    found = of_data(evidence=(ContinuationScores(EntropyValue(2.0), samples=4),), judge=NoisyJudge(RuleJudge(), 0.25))
    expected = {"data.evidence.0": "ContinuationScores", "data.evidence.0.samples": 4, "data.evidence.0.max_steps": 20}
    expected |= {"data.evidence.0.value": "EntropyValue", "data.evidence.0.value.eta": 2.0}
    expected |= {"data.judge": "NoisyJudge", "data.judge.error": 0.25, "data.judge.judge": "RuleJudge"}
    assert expected.items() <= found.items()
    assert of_data(evidence=(ContinuationScores(HardValue()),))["data.evidence.0.value"] == "HardValue"


def test_rewards_refills_and_masking_are_among_the_settings():
    """Runs with other weights of reward terms, with refilled rounds or with truncated solutions masked looked the same."""
    found = of_data(
        rewards=as_rewards({"outcome": (OutcomeReward(), 1.0), "again": (RepetitionPenalty(), 0.5)}, "rewards"),
        dynamic_sampling=DynamicSampling(max_refills=3),
        keep=with_truncated(keep_all, "masked"),
    )
    expected = {"data.rewards.outcome": "OutcomeReward", "data.rewards.outcome.weight": 1.0}
    expected |= {"data.rewards.again": "RepetitionPenalty", "data.rewards.again.weight": 0.5}
    expected |= {"data.dynamic_sampling": "DynamicSampling", "data.dynamic_sampling.max_refills": 3}
    expected |= {"data.keep": "WithoutTruncated", "data.keep.rule": "keep_all"}
    assert expected.items() <= found.items()
    assert of_data(keep=keep_all)["data.keep"] == "keep_all"


class Mlflow(MLFlowLogger):
    """As the logger of a run that goes on: with what its store holds, which takes no other value."""

    def __init__(self, held: dict[str, str]) -> None:
        self.held = held

    run_id = "r"  # pyright: ignore[reportAssignmentType]

    @property
    def experiment(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return SimpleNamespace(get_run=lambda run_id: SimpleNamespace(data=SimpleNamespace(params=dict(self.held))))

    def log_hyperparams(self, params):  # pyright: ignore[reportIncompatibleMethodOverride]
        assert not params.keys() & self.held.keys()
        self.held |= {name: str(value) for name, value in params.items()}


def test_an_mlflow_run_that_goes_on_keeps_its_settings_and_says_which_are_others():
    """MLflow ended the resumed run: "Changing param values is not allowed"."""
    trainer = SimpleNamespace(
        lightning_module=LightningModule(), optimizers=[], lr_scheduler_configs=[], precision="32-true", world_size=1,
        max_steps=3, max_epochs=None, loggers=[Mlflow({"trainer.max_steps": "2", "trainer.precision": "32-true"})],
    )  # fmt: skip
    with pytest.warns(
        UserWarning, match=r"^MLflow keeps the first value .* of its run: trainer\.max_steps 2 \(now 3\)$"
    ):
        log_run_settings(cast(Trainer, trainer))
    assert trainer.loggers[0].held == {
        "trainer.max_steps": "2", "trainer.precision": "32-true", "trainer.world_size": "1"
    }  # fmt: skip
