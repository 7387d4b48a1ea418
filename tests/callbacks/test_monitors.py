"""EarlyStopping and checkpoints on what training measures; and the problems that overfit_batches repeats."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_tpgrpo.callbacks import CapabilityEstimator, MathEvaluation, SafeCheckpoint
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.judges.evidence import ImplicitRewards
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rewards.outcome import OutcomeReward
from lit_tpgrpo.rollout.monitors import is_round_metric
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.callbacks.looks import Looks
from tests.callbacks.test_evaluation import ANYWHERE, module, printed_steps, trainer
from tests.callbacks.test_evaluation import data as scored_data
from tests.rollout.own_weights import OwnWeights


class Scripted(MathVerifier):
    """Of the four solutions of each round so many are right."""

    def __init__(self, *right: int) -> None:
        super().__init__()
        self._script = list(right)

    def verify_all(self, pairs):
        right = self._script.pop(0) if pairs else 0
        return [Outcome.CORRECT if i < right else Outcome.INCORRECT for i, _ in enumerate(pairs)]


def data(*right: int, **kwargs) -> MathRolloutDataModule:
    """Rounds of two steps, of a problem of two solutions each."""
    return scored_data(MathRolloutDataModule, **({"verifier": Scripted(*right), "steps_per_epoch": 20} | kwargs))


@pytest.mark.parametrize("validates", [True, False])
def test_early_stopping_on_a_round_looks_when_it_is_complete(random_model, tmp_path, capsys, validates):
    """Validation, every step, has no say in it; the run ends with the weights that sampled the last round."""
    stop = EarlyStopping("rollout/accuracy", patience=2, mode="max")
    options = ANYWHERE | ({"val_check_interval": 1} if validates else {"limit_val_batches": 0})
    run = trainer(tmp_path, stop, MathEvaluation(both_ends=validates), **options, max_steps=20)
    # The validation before the first round is of ScoredByStep's problems, which no verifier sees.
    rounds = scored_data(verifier=Scripted(1, 3, 2, 3), steps_per_epoch=20)
    run.fit(module(random_model), datamodule=rounds)
    assert run.global_step == 6  # rounds at 0, 2, 4 and 6: the third and the fourth are no better than the second
    assert (stop.wait_count, float(stop.best_score)) == (2, 0.75)
    assert printed_steps(capsys.readouterr().out) == (list(range(7)) if validates else [])


def test_early_stopping_keeps_to_min_steps(random_model, tmp_path):
    stop = EarlyStopping("rollout/accuracy", patience=1, mode="max")
    run = trainer(tmp_path, stop, **ANYWHERE, limit_val_batches=0, max_steps=20, min_steps=5)
    run.fit(module(random_model), datamodule=data(2, 2, 2, steps_per_epoch=3))
    assert run.global_step == 5


class FailsBefore(L.Callback):
    """Ends the run before it trains at a step, as a loss that is not finite does; SafeCheckpoint saves then."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise NonFiniteLossError("a NaN")


@pytest.mark.parametrize("schedule", ["serial", "streamed", "ahead"])
@pytest.mark.parametrize("failed_at", [0, 1, 2])
def test_a_resumed_run_does_not_look_twice_at_a_round(random_model, tmp_path, schedule, failed_at):
    """Rounds are at steps 0, 2 and 4; the last is the second without a gain. Step 0 has a checkpoint of before the round."""

    def fit(folder: str, first: int, *more: L.Callback, path: Path | None = None) -> Looks:
        looks, saver = Looks(patience=2), SafeCheckpoint(tmp_path / folder, every_n_train_steps=100)
        run = trainer(tmp_path, looks, saver, *more, **ANYWHERE, limit_val_batches=0, max_steps=20)
        engine = OwnWeights(batch_size=4) if schedule == "ahead" else HFEngine(batch_size=4)
        script = (first, *[2] * 9)
        rounds = data(*script, engine=engine, store_dir=str(tmp_path / "rounds"), schedule=schedule)
        run.fit(module(random_model), datamodule=rounds, ckpt_path=path, weights_only=True)
        return looks

    with pytest.raises(NonFiniteLossError):
        fit("failed", 3, FailsBefore(failed_at))
    resumed = fit("resumed", 2, path=tmp_path / "failed" / "last.ckpt")
    assert resumed.looks == ([0, 2, 4], [2, 4], [4])[failed_at]


@pytest.mark.parametrize("name", ["train/loss", "capability/mean", "loss"])
def test_early_stopping_on_other_metrics_of_training(random_model, tmp_path, name):
    stop = EarlyStopping(name, mode="max", stopping_threshold=-1e9)
    run = trainer(
        tmp_path, stop, CapabilityEstimator(), MathEvaluation(), **ANYWHERE, val_check_interval=1, max_steps=9
    )
    run.fit(module(random_model), datamodule=scored_data(steps_per_epoch=20))
    assert run.global_step == {"train/loss": 2, "loss": 2, "capability/mean": 0}[name]  # where it is first measured


@pytest.mark.parametrize("name", ["reward/total", "reward/outcome", "dynamic/groups_missing"])
def test_early_stopping_on_what_only_some_rounds_measure(random_model, tmp_path, name):
    """It looks at the first round, before it is trained on; and every metric of such a round may be monitored so."""
    names: set[str] = set()

    class Watch(L.Callback):
        def on_round_end(self, trainer, pl_module, round_):
            names.update(round_.metrics)

    stop = EarlyStopping(name, mode="max", stopping_threshold=-1e9)
    rounds = data(1, 1, rewards={"outcome": OutcomeReward()}, dynamic_sampling=DynamicSampling(max_refills=1))
    run = trainer(tmp_path, stop, Watch(), **ANYWHERE, limit_val_batches=0, max_steps=9)
    run.fit(module(random_model), datamodule=rounds)
    assert run.global_step == 0
    assert [n for n in names if not is_round_metric(n)] == []


@pytest.mark.parametrize(
    ("monitor", "settings"), [("evidence/implicit_loss", {}), ("mismatch/kl", {"correction": "token_truncate"})]
)
def test_what_evidence_and_correction_measure_is_of_rounds(random_model, tmp_path, monitor, settings):
    """EarlyStopping looks at the first round; SafeCheckpoint saves the weights that were measured, no validation's."""
    names: set[str] = set()

    class Watch(L.Callback):
        def on_round_end(self, trainer, pl_module, round_):
            names.update(round_.metrics)

    def fit(*callbacks: L.Callback) -> int:
        run = trainer(tmp_path, Watch(), MathEvaluation(), *callbacks, **ANYWHERE, val_check_interval=3, max_steps=5)
        evidence = [ImplicitRewards(random_model)]
        rounds = scored_data(verifier=Scripted(1, 3, 1), evidence=evidence, steps_per_epoch=20, **settings)
        run.fit(module(random_model), datamodule=rounds)
        return run.global_step

    assert fit(EarlyStopping(monitor, mode="max", stopping_threshold=-1e9)) == 0
    saver = SafeCheckpoint(tmp_path / "c", monitor=monitor, mode="max", save_top_k=-1)
    assert fit(saver) == 5
    assert sorted(torch.load(path, weights_only=True)["global_step"] for path in saver.best_k_models) == [0, 2, 4]
    assert [n for n in names if not is_round_metric(n, bool(settings))] == []


def test_the_best_round_is_saved_with_the_weights_that_sampled_it(random_model, tmp_path):
    saver = SafeCheckpoint(tmp_path / "c", monitor="rollout/accuracy", mode="max", save_top_k=2, every_n_train_steps=1)
    run = trainer(tmp_path, saver, MathEvaluation(), **ANYWHERE, val_check_interval=1, max_steps=7)
    policy, rounds = module(random_model), scored_data(verifier=Scripted(1, 3, 2, 4), steps_per_epoch=20)
    weights = {}

    class Watch(L.Callback):
        def on_round_end(self, trainer, pl_module, round_):
            weights[trainer.global_step] = {k: v.clone() for k, v in pl_module.state_dict().items()}

    run.callbacks.append(Watch())  # pyright: ignore
    run.fit(policy, datamodule=rounds)
    saved = {Path(path): float(score) for path, score in saver.best_k_models.items()}
    assert sorted(saved.values()) == [0.75, 1.0]
    for path, score in saved.items():
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == {0.75: 2, 1.0: 6}[score]
        assert all(torch.equal(v, checkpoint["state_dict"][k]) for k, v in weights[checkpoint["global_step"]].items())
    assert torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)["global_step"] == 7


def test_a_run_goes_on_from_the_best_round(random_model, tmp_path):
    """Its checkpoint was saved between the sampling of the round and its first step: nothing is sampled twice."""

    def fit(folder: str, path: Path | None = None) -> torch.Tensor:
        saver = SafeCheckpoint(tmp_path / folder, monitor="rollout/accuracy", mode="max", filename="best")
        policy = module(random_model)
        run = trainer(tmp_path, saver, **ANYWHERE, limit_val_batches=0, max_steps=4)
        rounds = data(*([1, 3] if path is None else []), store_dir=str(tmp_path / "rounds"))
        run.fit(policy, datamodule=rounds, ckpt_path=path, weights_only=True)
        return torch.cat([p.detach().flatten() for p in policy.parameters()])

    whole = fit("a")
    assert torch.load(tmp_path / "a" / "best.ckpt", weights_only=True)["global_step"] == 2
    assert torch.equal(
        fit("b", tmp_path / "a" / "best.ckpt"), whole
    )  # a verifier without script: asked again, it fails


def test_lightnings_checkpoints_take_the_newest_round(random_model, tmp_path):
    saver = ModelCheckpoint(
        tmp_path / "c", monitor="rollout/accuracy", mode="max", save_top_k=-1, every_n_train_steps=2
    )
    trainer(tmp_path, saver, **ANYWHERE, limit_val_batches=0, max_steps=4).fit(
        module(random_model), datamodule=data(1, 3)
    )
    assert sorted(float(score) for score in saver.best_k_models.values()) == [0.25, 0.75]


@pytest.mark.parametrize(
    "callback",
    [lambda: EarlyStopping("rollout/acuracy"), lambda: ModelCheckpoint(monitor="rollout/acuracy")],
)
def test_a_monitor_that_no_round_measures_is_named_after_the_first(random_model, tmp_path, callback):
    run = trainer(tmp_path, callback(), **ANYWHERE, limit_val_batches=0, max_steps=4)
    with pytest.raises(ConfigError, match=r"monitors rollout/acuracy, which is not measured; .*rollout/accuracy"):
        run.fit(module(random_model), datamodule=data(2))
    assert run.global_step == 0


@pytest.mark.parametrize(("given", "steps", "sets"), [(1, 1, 1), (2, 2, 1), (0.25, 2, 1), (4, 2, 2)])
def test_overfit_batches_repeats_the_same_problems_in_each_round(random_model, tmp_path, given, steps, sets):
    """Eight problems, one a step: a quarter of them are two steps. Four steps are two rounds of the same four problems."""
    seen: list[list[str]] = []

    class Watch(L.Callback):
        def on_round_end(self, trainer, pl_module, round_):
            seen.append(sorted(g.problem.uid for g in round_.groups))

    run = trainer(tmp_path, Watch(), overfit_batches=given, max_epochs=4 if given == 1 else 2)
    rounds = scored_data(steps_per_epoch=None)
    run.fit(module(random_model), datamodule=rounds)
    first = {p.uid for p in rounds.problems("train")[: steps * sets]}
    assert run.global_step == (4 if given == 1 else 2 * steps * sets)
    assert [len(uids) for uids in seen] == [steps] * len(seen)
    for at in range(0, len(seen), sets):
        assert {uid for uids in seen[at : at + sets] for uid in uids} == first
    with (tmp_path / "run" / "metrics.csv").open() as file:
        values = [row["eval/avg@2"] for row in csv.DictReader(file) if row.get("eval/avg@2")]
    assert len(values) == run.current_epoch  # validation is limited to as many batches, as Lightning has it
