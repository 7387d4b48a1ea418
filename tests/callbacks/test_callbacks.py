"""Callbacks in a real fit on a random model: what they keep, log and write."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_tpgrpo.callbacks import (
    CapabilityEstimator,
    JudgedSolutionWriter,
    JudgeRefresh,
    SolutionSamples,
)
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.audit import ArithmeticAudit
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.evidence import StepScores
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.evidence import EvidenceProvider
from lit_tpgrpo.judges.generative import GenerativeJudge, QueryConfig, RuleSegmentation
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.loggers.html_tables import solution_table
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import (
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Problem,
    Solution,
    Step,
    StepLabel,
    StopReason,
    Verdict,
)
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.datamodules.scored_runs import LuckyByTurns

C, I = StepLabel.CORRECT, StepLabel.INCORRECT  # noqa: E741


def data(**kwargs) -> MathRolloutDataModule:
    settings = {
        "train": ArithmeticProblems("1", n=8),
        "val": ArithmeticProblems("1", n=6, split="heldout"),
        "verifier": LuckyByTurns(),
        "group_size": 4,
        "problems_per_step": 2,
        "steps_per_round": 2,
        "steps_per_epoch": 4,
        "keep": "all",
        "sampling": SamplingParams(max_new_tokens=8),
        "eval_samples": 2,
        "prompt_template": "{problem}",
        "progress": False,
    }
    return MathRolloutDataModule(**(settings | kwargs))


def run(tmp_path: Path, *callbacks: L.Callback, show_bar: bool = False) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=TensorBoardLogger(tmp_path, "run"),
        callbacks=list(callbacks),
    )


def module(random_model: str) -> TPGRPOModule:
    torch.manual_seed(0)
    return TPGRPOModule(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def judged_group(accuracy: float, uid: str = "p") -> JudgedGroup:
    outcomes = [Outcome.CORRECT if i < 4 * accuracy else Outcome.INCORRECT for i in range(4)]
    empty = Solution(uid, 0, (1,), (2,), (0.0,), StopReason.EOS, 0, "x", (0,))
    solutions = tuple(JudgedSolution(empty, o, None, Verdict((), ())) for o in outcomes)
    return JudgedGroup(Problem(uid, "q", "a"), solutions, accuracy)


def test_capability_follows_acc_g_without_momentum_and_a_running_mean_with_it():
    estimator = CapabilityEstimator(momentum=0.5)
    for index, accuracy in enumerate([1.0, 0.0, 0.5]):
        estimator.on_round_start(None, None, index)  # pyright: ignore
        estimator.on_group_judged(None, None, judged_group(accuracy))  # pyright: ignore
    # 1.0, then 0.5 * 1.0 + 0.5 * 0.0, then 0.5 * 0.5 + 0.5 * 0.5.
    assert estimator.estimate("p") == 0.5
    estimator.on_round_start(None, None, 3)  # pyright: ignore
    assert estimator.scale("p", 1.0) == 0.75
    assert estimator.scale("new", 0.25) == 0.25
    assert CapabilityEstimator().scale("p", 0.3) == 0.3
    assert estimator.estimate("new") is None


def test_a_round_made_again_after_a_restart_counts_once():
    estimator = CapabilityEstimator(momentum=0.5)
    estimator.on_round_start(None, None, 0)  # pyright: ignore
    estimator.on_group_judged(None, None, judged_group(1.0))  # pyright: ignore
    estimator.on_round_start(None, None, 1)  # pyright: ignore
    estimator.on_group_judged(None, None, judged_group(0.0))  # pyright: ignore
    resumed = CapabilityEstimator(momentum=0.5)
    resumed.load_state_dict(json.loads(json.dumps(estimator.state_dict())))
    assert resumed.scale("p", 0.0) == 0.5
    resumed.on_group_judged(None, None, judged_group(0.0))  # pyright: ignore
    assert resumed.estimate("p") == 0.5


def test_the_uncertainty_curriculum_prefers_half_solved_problems():
    estimator = CapabilityEstimator(curriculum="uncertainty")
    estimator.on_round_start(None, None, 0)  # pyright: ignore
    for uid, accuracy in {"solved": 1.0, "half": 0.5, "hopeless": 0.0}.items():
        estimator.on_group_judged(None, None, judged_group(accuracy, uid))  # pyright: ignore
    estimator.on_round_start(None, None, 1)  # pyright: ignore
    assert estimator.weights(["solved", "half", "hopeless", "new"]) == pytest.approx([0.05, 0.3, 0.05, 0.3])
    assert CapabilityEstimator().weights(["a"]) is None


def test_the_estimator_scales_credit_in_fit(random_model, tmp_path):
    """Four problems, met in both rounds: right in the first, half right in the second."""
    estimator, seen = CapabilityEstimator(momentum=0.5), []

    class Watch(L.Callback):
        def on_group_judged(self, trainer, pl_module, group):
            seen.append((group.accuracy, group.capability))

    class Halved(MathVerifier):
        calls = 0

        def verify_all(self, pairs):
            self.calls += 1
            return [Outcome.CORRECT if self.calls == 1 or i % 2 else Outcome.INCORRECT for i, _ in enumerate(pairs)]

    dm = data(train=ArithmeticProblems("1", n=4), verifier=Halved())
    trainer = run(tmp_path, estimator, Watch())
    trainer.fit(module(random_model), datamodule=dm)
    assert dm.capability is estimator
    assert seen == [(1.0, 1.0)] * 4 + [(0.5, 0.75)] * 4  # 0.5 * 1.0 + 0.5 * 0.5
    events = EventAccumulator(trainer.log_dir or "")
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("capability/mean")] == [(0, 1.0), (2, 0.75)]
    assert [e.value for e in events.Scalars("capability/problems_met")] == [4.0, 4.0]


def example() -> tuple[JudgedGroup, str]:
    text = "3 + 5 = 7.\n\nWait, that is wrong: 3 + 5 = 8 | <b>.\n</think>\n\n\\boxed{8}"
    cuts = [0, 12, text.index("</think>"), len(text)]
    steps = tuple(Step(a, b, a, b, is_answer=b == len(text)) for a, b in itertools.pairwise(cuts))
    n = len(text)
    s = Solution("p", 0, (1,), tuple(range(n)), (0.0,) * n, StopReason.EOS, 0, text, tuple(range(n)))
    right = JudgedSolution(s, Outcome.CORRECT, "8", Verdict(steps, (I, C, C)))
    wrong = JudgedSolution(s, Outcome.INCORRECT, None, Verdict(steps, (StepLabel.ABSTAINED,) * 3, "truncated"))
    return JudgedGroup(Problem("p", "Add | 3 and 5.", "8"), (right, wrong), 0.5), text


def test_the_table_shows_thoughts_labels_rewards_and_advantages():
    group, _ = example()
    credited, abstained = ThoughtCredit(alpha=1.0, eps=0.0)(group)
    r = 2**-0.5  # +-1 standardised with ddof 1
    assert credited.outcome_advantage == pytest.approx(r)
    table = solution_table(credited, group.problem.prompt, max_chars=400)
    assert table.splitlines()[0] == "<p><strong>Add | 3 and 5.</strong></p>"
    assert "correct, answer 8, outcome advantage +0.707" in table
    rows = [line.removeprefix("<tr><td>").split("</td><td>") for line in table.splitlines() if "<td>" in line]
    assert rows[0] == ["1", "incorrect", "-0.500", "+0.207", "12", "3 + 5 = 7.</td></tr>"]
    assert rows[1][:4] == ["2", "correct", "+0.000", "+0.707"]
    assert "| &lt;b&gt;" in rows[1][-1]
    assert "judge: truncated" in solution_table(abstained, "q", 400)


def test_samples_and_histograms_reach_tensorboard(random_model, tmp_path):
    trainer = run(tmp_path, SolutionSamples(solutions=2))
    trainer.fit(module(random_model), datamodule=data())
    events = EventAccumulator(trainer.log_dir or "", size_guidance={"tensors": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    assert {"credit/advantages", "rollout/lengths"} <= set(tags["histograms"])
    assert {e.step for e in events.Histograms("rollout/lengths")} == {0, 2}
    text = events.Tensors("rollout/solutions/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("<th>thought</th><th>label</th>") == 2
    stages = {tag.split("/")[0] for tag in tags["scalars"]}
    assert {"rollout", "judge", "credit", "train", "verify", "mismatch", "data"} <= stages


def test_samples_come_every_n_rounds(random_model, tmp_path):
    trainer = run(tmp_path, SolutionSamples(every_n_rounds=2))
    trainer.fit(module(random_model), datamodule=data(steps_per_epoch=6))
    events = EventAccumulator(trainer.log_dir or "", size_guidance={"tensors": 0, "histograms": 0})
    events.Reload()
    assert [e.step for e in events.Tensors("rollout/solutions/text_summary")] == [0, 4]


class NotNeeded(EvidenceProvider):
    """Evidence that the run's credit does not go by: predict does not pay for it."""

    gives = StepScores

    def provide(self, cases, tools):
        raise AssertionError


def test_predict_writes_every_judged_solution(random_model, tmp_path, capsys):
    path = tmp_path / "out" / "judged.jsonl"
    trainer = run(tmp_path, JudgedSolutionWriter(str(path)), show_bar=True)
    datamodule = data(predict=ArithmeticProblems("1", n=5), evidence=NotNeeded())
    returned = trainer.predict(module(random_model), datamodule=datamodule)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 5 * 4
    assert returned is not None
    assert [len(part) for part in returned] == [2 * 4, 2 * 4, 1 * 4]  # problems_per_step problems a batch
    assert [row for part in returned for row in part] == rows
    assert f"20 judged solutions in {path}" in capsys.readouterr().out.split("\n")  # not behind the bar
    problems = ArithmeticProblems("1", n=5).load()
    assert [r["problem"] for r in rows[::4]] == [p.uid for p in problems]
    for row in rows:
        assert "".join(row["text"][s["start"] : s["end"]] for s in row["steps"]) == row["text"]
        assert row["outcome"] in ("correct", "incorrect")
        assert row["thoughts"][-1]["end"] == len(row["text"])


def test_predictions_replace_none(random_model, tmp_path):
    """A file that is named is refused before anything is sampled; the one of the run's folder gets a number."""
    path = tmp_path / "judged.jsonl"
    path.write_text("kept")
    problems = ArithmeticProblems("1", n=1)
    with pytest.raises(InputError, match=r"judged\.jsonl exists already: give another --writer\.path, or remove it"):
        run(tmp_path, JudgedSolutionWriter(path)).predict(module(random_model), datamodule=data(predict=problems))
    assert path.read_text() == "kept"
    trainer, policy = run(tmp_path, JudgedSolutionWriter()), module(random_model)
    for _ in range(2):
        trainer.predict(policy, datamodule=data(predict=problems))
    written = {file.name: file.read_text() for file in Path(trainer.log_dir or "").glob("*.jsonl*")}
    assert set(written) == {"judged_solutions.jsonl", "judged_solutions_1.jsonl"}
    assert len(set(written.values())) == 1


class OneCase:
    """An audit of the rule judge on one hand-made case: step truth as labelled here."""

    def __init__(self, truth: tuple[StepLabel, ...]) -> None:
        self.truth = truth

    def cases(self, tokenizer):
        group, _ = example()
        judged = group.solutions[0]
        return [(JudgeCase(group.problem, judged.solution, Outcome.CORRECT, judged.verdict.steps), self.truth)]


@pytest.mark.parametrize(("truth", "alarm"), [((I, C, C), False), ((C, I, C), True)])
def test_the_audit_logs_f1_and_raises_the_alarm(random_model, tmp_path, caplog, truth, alarm):
    trainer = run(tmp_path, JudgeRefresh(every_n_rounds=2, audit=OneCase(truth), alarm_f1=0.9))
    with caplog.at_level(logging.WARNING):
        trainer.fit(module(random_model), datamodule=data())
    assert ("judge audit: F1 of" in caplog.text) == alarm
    events = EventAccumulator(trainer.log_dir or "")
    events.Reload()
    scores = events.Scalars("judge_audit/f1_incorrect")
    assert [e.step for e in scores] == [0]
    assert scores[0].value == (0.0 if alarm else 1.0)


@pytest.mark.parametrize(
    ("show_bar", "progress", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_the_audit_has_a_bar_where_judging_has_one(random_model, tmp_path, capsys, show_bar, progress, shown):
    trainer = run(tmp_path, JudgeRefresh(audit=OneCase((I, C, C))), show_bar=show_bar)
    trainer.fit(module(random_model), datamodule=data(progress=progress, steps_per_epoch=1))
    printed = capsys.readouterr().err
    assert ("round 0: audit of the judge" in printed) == ("round 0: judging" in printed) == shown


class RefreshingJudge(RuleJudge):
    """A judge that takes up weights."""

    needs_policy = False

    def __init__(self) -> None:
        super().__init__()
        self.refreshed: list[int] = []
        self._changes = True  # private: what is public counts as a setting, and another setting voids verdicts

    def refresh(self, policy) -> bool:
        self.refreshed.append(policy.policy_version)
        return self._changes


def test_a_judge_that_can_be_refreshed_is(random_model, tmp_path):
    judge = RefreshingJudge()
    run(tmp_path, JudgeRefresh(every_n_rounds=1)).fit(module(random_model), datamodule=data(judge=judge))
    assert judge.refreshed == [0, 2]


class CountingJudge(RefreshingJudge):
    """Counts the cases it is given."""

    cases = 0

    def judge(self, cases):
        CountingJudge.cases += len(cases)
        return super().judge(cases)


def test_a_refreshed_judge_judges_stored_solutions_again(random_model, tmp_path):
    """The same run four times on one store: solutions and verdicts are taken from it until the judge changes."""
    judged = []
    for changes, callbacks in ((True, []), (True, []), (False, [JudgeRefresh()]), (True, [JudgeRefresh()])):
        CountingJudge.cases = 0
        judge = CountingJudge()
        judge._changes = changes
        dm = data(judge=judge, store_dir=str(tmp_path / "store"), steps_per_epoch=2)
        run(tmp_path, *callbacks).fit(module(random_model), datamodule=dm)
        judged.append(CountingJudge.cases)
    assert judged == [16, 0, 0, 16]


class WatchedChat(LocalChat):
    """Notes, whenever the policy's weights are taken over, whether they were others than before."""

    def __init__(self) -> None:
        super().__init__("policy")
        self.taken: list[bool] = []

    def refresh(self, policy) -> bool:
        self.taken.append(super().refresh(policy))
        return self.taken[-1]


def self_judge(chat: LocalChat, tmp_path: Path) -> GenerativeJudge:
    query = QueryConfig(max_tokens=40, verdict_attempts=1)
    return GenerativeJudge(chat, segmentation=RuleSegmentation(), query=query, store=str(tmp_path / "replies"))


def test_a_policy_that_judges_itself_is_renewed_every_n_rounds(random_model, tmp_path):
    """Four rounds of two steps; rounds 0 and 2 begin with a refresh."""
    chat = WatchedChat()
    dm = data(judge=self_judge(chat, tmp_path), steps_per_epoch=8)
    trainer = run(tmp_path, JudgeRefresh(every_n_rounds=2))
    trainer.fit(module(random_model), datamodule=dm)
    assert trainer.global_step == 8
    assert chat.taken == [True, True]


def test_a_policy_that_judges_itself_without_a_refresh_says_so_and_stays_as_it_was(random_model, tmp_path, caplog):
    chat = WatchedChat()
    with caplog.at_level(logging.WARNING):
        run(tmp_path).fit(module(random_model), datamodule=data(judge=self_judge(chat, tmp_path), steps_per_epoch=4))
    assert chat.taken == [True]
    assert "judges itself, from now on with its weights of step 0" in caplog.text


def test_a_bad_model_as_judge_rings_the_alarm_of_every_label(random_model, tmp_path, caplog):
    """A real local model with random weights: no reply is a verdict, so no label is right."""
    query = QueryConfig(max_tokens=8, verdict_attempts=1)
    judge = GenerativeJudge(LocalChat(random_model), segmentation=RuleSegmentation(), query=query, store=None)
    audit = ArithmeticAudit("1", n=6)
    trainer = run(tmp_path, JudgeRefresh(audit=audit))
    with caplog.at_level(logging.WARNING):
        trainer.fit(module(random_model), datamodule=data(judge=judge, steps_per_epoch=2))
    labels = {label for _, truth in audit.cases(None) for label in truth}  # pyright: ignore[reportArgumentType]
    assert len(labels) == 4
    for label in labels:
        assert f"judge audit: F1 of {label.value} steps is 0.000, under 0.800" in caplog.text
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics["judge_audit/alarms"] == 4
    assert metrics["judge_audit/abstained_share"] == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: CapabilityEstimator(momentum=1.0),
        lambda: SolutionSamples(solutions=0),
        lambda: JudgeRefresh(every_n_rounds=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="got"):
        make()
