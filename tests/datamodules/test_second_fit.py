"""A DataModule that has been in a run is as good as new in the next one: another Trainer begins at round 0."""

from __future__ import annotations

import pytest
import torch

from lit_tpgrpo.callbacks import CapabilityEstimator
from lit_tpgrpo.credit import PRIMECredit
from lit_tpgrpo.credit.batch import Whitening
from lit_tpgrpo.judges.evidence import ImplicitRewards
from lit_tpgrpo.rollout.capability import GroupAccuracy
from tests.datamodules.concurrent_runs import (
    StopAt,
    Watched,
    data,
    luck,  # noqa: F401  a fixture
    module,
    trainer,
    weights,
)


@pytest.mark.parametrize(
    "schedule", ["serial", *(pytest.param(name, marks=pytest.mark.slow) for name in ("streamed", "pipelined", "ahead"))]
)
def test_another_trainer_begins_a_run_of_its_own(random_model, tmp_path, schedule):
    """The first run ends in the middle of round 1: with it the second one has nothing in common."""
    used, alone, watched = data(schedule=schedule), module(random_model), Watched()
    trainer(tmp_path / "first", StopAt(3)).fit(module(random_model, lr=20.0), datamodule=used)
    trainer(tmp_path / "alone").fit(alone, datamodule=data(schedule=schedule))
    second = module(random_model)
    trainer(tmp_path / "second", watched).fit(second, datamodule=used)
    assert torch.equal(weights(second), weights(alone))
    assert [r.index for r in watched.rounds] == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "second").rglob("round_*"))[-1] >= "round_000002"


@pytest.mark.slow
def test_what_the_first_run_has_learnt_is_not_known_to_the_second(random_model, tmp_path):
    def learning():
        evidence = ImplicitRewards(random_model, lr=1e-2)
        return data(schedule="serial", evidence=evidence, credit=PRIMECredit(), batch_stage=Whitening()), evidence

    (used, evidence), (fresh, untouched) = learning(), learning()
    trainer(tmp_path / "first", CapabilityEstimator(0.5)).fit(module(random_model, lr=20.0), datamodule=used)
    second, alone = module(random_model), module(random_model)
    trainer(tmp_path / "second").fit(second, datamodule=used)
    trainer(tmp_path / "alone").fit(alone, datamodule=fresh)
    assert torch.equal(weights(second), weights(alone))
    learnt, expected = evidence.state_dict(), untouched.state_dict()
    assert learnt["learned"] == expected["learned"] == 2
    assert isinstance(used.capability, GroupAccuracy)  # not the first Trainer's callback


def test_the_same_trainer_goes_on(random_model, tmp_path):
    part, watched, trained = data(schedule="serial", steps_per_epoch=2), Watched(), module(random_model)
    run = trainer(tmp_path, watched)
    run.fit(trained, datamodule=part)
    run.fit_loop.max_epochs = 2
    run.fit(trained, datamodule=part)
    assert [r.index for r in watched.rounds] == [0, 1]
