"""Rounds are refilled until they have the groups they were asked for: by outcome, with an end, the same after a restart."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from lit_tpgrpo.callbacks import CapabilityEstimator, RoundCallback, SafeCheckpoint
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling, has_correct, is_mixed
from lit_tpgrpo.datamodules.stream import ProblemStream
from lit_tpgrpo.datamodules.train_batches import TrainBatchStream
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges import RuleJudge
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import JudgedGroup, Outcome, Round
from lit_tpgrpo.rewards import OutcomeReward
from lit_tpgrpo.training.checkpoints import usable_checkpoint
from lit_tpgrpo.verify.verifier import MathVerifier

C, I, U = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNDECIDED  # noqa: E741
PROBLEMS = ArithmeticProblems("1", n=48)


class ByGold(MathVerifier):
    """By the gold answer modulo 4: all right, all wrong, or right by turns (two in four)."""

    def __init__(self, mixed: Callable[[int], bool] = lambda gold: gold % 4 > 1) -> None:
        super().__init__()
        self._mixed = mixed

    def verify_all(self, pairs):
        outcomes = []
        for i, (gold, _) in enumerate(pairs):
            right = i % 2 == 1 if self._mixed(int(gold)) else int(gold) % 4 == 0
            outcomes.append(C if right else I)
        return outcomes


class CountingJudge(RuleJudge):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def judge(self, cases):
        self.asked += [case.problem.uid for case in cases]
        return super().judge(cases)


class Recorder(RoundCallback):
    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.groups: list[JudgedGroup] = []

    def on_group_judged(self, trainer, pl_module, group):
        self.groups.append(group)

    def on_round_end(self, trainer, pl_module, round_):
        self.rounds.append(round_)


def fit(model: str, out: Path, steps: int = 2, ckpt: Path | None = None, callbacks=(), **settings: Any):
    """Rounds of two steps of two problems of four solutions."""
    L.seed_everything(0, verbose=False)
    recorder, judge = Recorder(), CountingJudge()
    given: dict[str, Any] = {"verifier": ByGold(), "dynamic_sampling": DynamicSampling(), "keep": "all"} | settings
    data = MathRolloutDataModule(
        train=PROBLEMS,
        judge=judge,
        group_size=4,
        problems_per_step=2,
        steps_per_round=2,
        steps_per_epoch=20,
        sampling=SamplingParams(max_new_tokens=6),
        prompt_template="{problem}",
        store_dir=out / "store",
        progress=False,
        **given,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=any(isinstance(c, SafeCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder, *callbacks],
        default_root_dir=out,
    )
    module = TPGRPOModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return recorder, judge, data


def test_a_streamed_schedule_is_refused(random_model, tmp_path):
    """It would judge groups before it is known that they are dropped."""
    with pytest.raises(ConfigError, match=r"data.schedule streamed cannot be combined with data.dynamic_sampling"):
        fit(random_model, tmp_path, schedule="streamed")


def golds(groups: tuple[JudgedGroup, ...]) -> list[int]:
    return [int(g.problem.answer) for g in groups]


def uids(round_: Round) -> set[str]:
    return {g.problem.uid for g in (*round_.groups, *round_.dropped)}


def test_which_groups_count():
    def group(*outcomes: Outcome) -> Any:
        return [SimpleNamespace(outcome=outcome) for outcome in outcomes]

    for rule, expected in (
        (is_mixed, [True, False, False, False, False]),
        (has_correct, [True, True, False, False, False]),
    ):
        groups = [group(C, I, U), group(C, C), group(I, Outcome.UNVERIFIABLE), group(C, U), group(U, U)]
        assert [rule(g) for g in groups] == expected, rule


@pytest.mark.slow
def test_rounds_have_what_they_were_asked_for(random_model: str, tmp_path: Path):
    recorder, judge, data = fit(random_model, tmp_path, steps=4)
    first, second = recorder.rounds
    stream = ProblemStream(PROBLEMS.load(), 0)
    position = 0
    for round_ in (first, second):
        # The shortest stretch of the stream with four mixed groups, from where the last one ended.
        taken: list[str] = []
        while sum(int(p.answer) % 4 > 1 for p in (stream.take(position, len(taken)))) < 4:
            taken.append(stream.take(position + len(taken), 1)[0].uid)
        position += len(taken)
        assert uids(round_) == set(taken)
        assert round_.consumed == len(taken) > 4
        assert all(gold % 4 > 1 for gold in golds(round_.groups))
        assert all(gold % 4 < 2 for gold in golds(round_.dropped))
        assert len(round_.kept) == 16
        assert round_.kept_indices == tuple(sorted(round_.kept_indices))
        assert max(round_.kept_indices) < 4 * len(taken)
        m = round_.metrics
        assert (m["dynamic/groups_kept"], m["dynamic/groups_missing"]) == (4.0, 0.0)
        assert m["dynamic/groups_sampled"] == len(taken)
        assert m["dynamic/refills"] >= 1
        # Accuracy is that of all that was sampled, not the half of mixed groups.
        right = [2 if gold % 4 > 1 else 4 * (gold % 4 == 0) for gold in golds((*round_.groups, *round_.dropped))]
        assert m["rollout/accuracy"] == pytest.approx(sum(right) / (4 * len(taken)))
        assert m["rollout/solutions"] == 4 * len(taken)
        assert m["rollout/mixed_group_share"] == pytest.approx(4 / len(taken))
    assert data.schedule.state_dict(4)["cursor"] == first.consumed
    # Dropped groups cost no judge, and callbacks learn their accuracy all the same.
    kept = {g.problem.uid for r in (first, second) for g in r.groups}
    assert set(judge.asked) == kept
    assert len(judge.asked) == 32
    assert len(recorder.groups) == sum(r.consumed or 0 for r in (first, second))
    dropped = next(g for g in recorder.groups if g.problem.uid not in kept)
    assert dropped.accuracy in (0.0, 1.0)
    assert {s.verdict.note for s in dropped.solutions} == {"not judged: dynamic sampling dropped the group"}


@pytest.mark.slow
def test_all_correct_groups_may_count(random_model: str, tmp_path: Path):
    recorder, _, _ = fit(random_model, tmp_path, steps=6, dynamic_sampling=DynamicSampling(groups="any_correct"))
    assert 0 in [gold % 4 for round_ in recorder.rounds for gold in golds(round_.groups)]
    assert {gold % 4 for round_ in recorder.rounds for gold in golds(round_.dropped)} == {1}
    assert [len(round_.groups) for round_ in recorder.rounds] == [4, 4, 4]


@pytest.mark.slow
def test_the_outcome_decides_and_not_the_shaped_reward(random_model: str, tmp_path: Path):
    """The term varies in every group, so that by the sum of rewards none were uniform. It is not called for dropped groups."""
    called: list[str] = []

    def by_sample(case) -> float:
        called.append(case.problem.uid)
        return float(case.solution.sample)

    recorder, _, _ = fit(random_model, tmp_path, rewards={"outcome": OutcomeReward(), "sample": by_sample})
    (round_,) = recorder.rounds
    assert all(gold % 4 > 1 for gold in golds(round_.groups))
    assert set(called) == {g.problem.uid for g in round_.groups}
    assert round_.metrics["reward/sample"] == 1.5


@pytest.mark.slow
def test_the_end_of_refills(random_model: str, tmp_path: Path):
    """Two of 48 problems count: two refills do not fill a round. It is trained on, and said once."""
    rare = ByGold(lambda gold: gold in (7, 9))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder, _, _ = fit(
            random_model,
            tmp_path,
            steps=3,
            verifier=rare,
            dynamic_sampling=DynamicSampling(max_refills=2),
            max_empty_rounds=9,
        )
    assert len(recorder.rounds) >= 3
    for round_ in recorder.rounds:
        kept = len(round_.groups)
        assert kept < 4
        assert round_.metrics["dynamic/groups_missing"] == 4 - kept
        assert round_.metrics["dynamic/refills"] == 2
        assert len(round_.kept) == 4 * kept
        assert round_.consumed == round_.metrics["dynamic/groups_sampled"] <= 12
    texts = [str(w.message) for w in caught if "refills" in str(w.message)]
    assert len(texts) == 1
    assert "after 2 refills (data.dynamic_sampling.max_refills) and is trained on with the rest" in texts[0]
    with pytest.raises(
        ConfigError, match="max_refills must be at least 1, got 0; without dynamic sampling, leave it out"
    ):
        DynamicSampling(max_refills=0)


@pytest.mark.slow
def test_weighted_problems_are_not_drawn_twice_in_a_round(random_model: str, tmp_path: Path):
    recorder, _, _ = fit(random_model, tmp_path, callbacks=[CapabilityEstimator(0.5, "uncertainty")], steps=4)
    for round_ in recorder.rounds:
        assert len(uids(round_)) == round_.consumed
        assert len(round_.groups) == 4
    again, _, _ = fit(random_model, tmp_path / "b", callbacks=[CapabilityEstimator(0.5, "uncertainty")], steps=4)
    assert [uids(r) for r in again.rounds] == [uids(r) for r in recorder.rounds]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["none", "a refill"])
def test_a_round_in_training_is_taken_up_again(random_model: str, tmp_path: Path, damage: str):
    """After one of two steps. If part of a refill is lost, so are the weights that could sample it: all is sampled again."""
    saving = SafeCheckpoint(tmp_path / "c", every_n_train_steps=1)
    begun, _, _ = fit(random_model, tmp_path, steps=1, callbacks=[saving])
    (first,) = begun.rounds
    path = tmp_path / "store" / "round_000000" / "solutions.0.jsonl"
    lines = path.read_text().splitlines()
    rows = [json.loads(line)["groups"] for line in lines]
    assert rows[-1][-1] == len(uids(first)) - 1 > 3
    if damage != "none":
        path.write_text("\n".join(lines[:-1]) + "\n")
    resumed, judge, data = fit(random_model, tmp_path, steps=2, ckpt=usable_checkpoint(tmp_path / "c"))
    (round_,) = resumed.rounds
    assert uids(round_) == uids(first)
    assert round_.policy_version == (0 if damage == "none" else 1)
    assert (judge.asked == []) is (damage == "none")
    assert data.schedule.state_dict(2)["position"] == (2 if damage == "none" else 1)


def test_the_cursor_moves_by_what_was_consumed():
    asked: list[tuple[int, int, int | None]] = []
    consumed = iter([7, None, 5])

    def make_round(index: int, cursor: int, version: int | None) -> Round:
        asked.append((index, cursor, version))
        return Round(index, 0, 1.0, (), (), (), consumed=next(consumed))

    def stream() -> TrainBatchStream:
        return TrainBatchStream(make_round, 4, 3, max_empty_rounds=3, gather_indices=list)

    first = stream()
    with pytest.raises(RuntimeError, match="3 rounds in a row"):
        first.next_batch()
    assert asked == [(0, 0, None), (1, 7, None), (2, 10, None)]
    state = first.state_dict(0)
    assert (state["cursor"], state["consumed"]) == (10, 5)
    consumed = iter([3, 3, 3])
    for saved, cursor in (
        (state, 15),
        ({k: v for k, v in state.items() if k != "consumed"}, 13),
    ):  # an older checkpoint
        asked.clear()
        consumed = iter([3, 3, 3])
        second = stream()
        second.load_state_dict(saved)
        with pytest.raises(RuntimeError, match="3 rounds in a row"):
            second.next_batch()
        assert asked[0] == (3, cursor, None)
