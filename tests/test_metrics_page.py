"""docs/metrics.md explains every metric that is logged, and none that is not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.evaluation.scores import ScoredGroup, suite_scores
from lit_tpgrpo.judges.base import Counts
from lit_tpgrpo.judges.evidence import (
    FeasiblePrefixScores,
    answer_probes,
    graded_groups,
    implicit_rewards,
    token_logits,
)
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.grading import comparison, principles
from lit_tpgrpo.judges.noisy import NoisyJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.judges.voting import VotingJudge
from lit_tpgrpo.losses import ClippedSurrogate
from lit_tpgrpo.losses.base import loss_inputs
from lit_tpgrpo.losses.metrics import measure
from lit_tpgrpo.records import Outcome, Round, StepLabel
from lit_tpgrpo.rollout.mismatch import MismatchTally
from lit_tpgrpo.rollout.summary import tally_round
from lit_tpgrpo.search import BestOfN, JudgeStepScores, SearchingEngine
from lit_tpgrpo.training.gradients import GradientNorm, step_metrics
from lit_tpgrpo.verify.choice import MultipleChoiceVerifier
from lit_tpgrpo.verify.code.verifier import CodeVerifier
from lit_tpgrpo.verify.verifier import MathVerifier

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
PARTS = {
    "COUNTER": r"\w+",
    "KIND": r"\w+",
    "LABEL": "(" + "|".join(label.value for label in StepLabel) + ")",
    "LEVEL": r"[\w.-]+",
    "NAME": r"[\w.-]+",
    "REASON": r"\w+",
    "SET/": r"([\w.-]+/)?",
    "SPLIT_SET": r"(train|val|test|predict)_[\w.-]+",
    "SPLIT": "(train|val|test|predict)",
    "SUBJECT": r"[\w.-]+",
    "TERM": None,  # of a loss that is none of ours: explained where the loss is
    "@K": r"@\d+",
}
"""What the capitals of a name may be."""


def documented() -> dict[str, re.Pattern[str]]:
    """The names in the first column of the page's tables, with patterns of what they name."""
    names = [
        name
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    return {name: pattern for name in names if (pattern := pattern_of(name)) is not None}


def pattern_of(name: str) -> re.Pattern[str] | None:
    pattern = re.escape(name)
    for part, expression in PARTS.items():
        if part in name:
            if expression is None:
                return None
            pattern = pattern.replace(re.escape(part), expression)
    return re.compile(pattern.replace("eval/", "(eval|test)/", 1))


def undocumented(logged: set[str]) -> list[str]:
    patterns = documented().values()
    return sorted(name for name in logged if not any(p.fullmatch(name) for p in patterns))


def group(set_name: str, index: int) -> ScoredGroup:
    outcomes = (Outcome.CORRECT, Outcome.INCORRECT)
    return ScoredGroup(set_name, index, ("a", "b", "c"), str(index), f"x {index}", outcomes, ("1", None), 1, (3, 4))


def logged_by_parts() -> set[str]:
    """Names that the parts of a run log, without a run."""
    nothing = Round(0, 0, 1.0, (), (), ())
    names: set[str] = {"round", "round_step", "epoch", "train/tokens_per_s", "train/lr", "judge_audit/alarms"}
    for judged in (VotingJudge(NoisyJudge(RuleJudge(workers=1))).tally(), Counters()):
        counts = Counts(MathVerifier().metrics()) + Counts(MultipleChoiceVerifier().metrics())
        counts += Counts(CodeVerifier().metrics())
        tally = tally_round(nothing, 0, 0.0, 0.0, counts, judged)
        # A count of solutions and groups is what shares divide by.
        names |= dataclasses.replace(tally, sums=dict.fromkeys(tally.sums, 1.0)).metrics().keys()
    names |= {f"evidence/{name}" for name in FeasiblePrefixScores().metrics()}
    searches = SearchingEngine(HFEngine(), BestOfN(), JudgeStepScores(RuleJudge(workers=1))).tally().metrics()
    names |= {f"{prefix}/{name}" for prefix in ("eval", "test", "predict") for name in searches}
    names |= {
        f"evidence/{name}" for name in (*answer_probes.COUNTERS, *token_logits.COUNTERS, *implicit_rewards.COUNTERS)
    }
    names |= {f"evidence/{name}" for name in (*comparison.COUNTERS, *principles.COUNTERS, *graded_groups.SUMMED)}
    names |= MismatchTally((1.0,) * 5, 0.0, 1.0, 1.0, 1.0).metrics().keys()
    names |= step_metrics(GradientNorm(torch.zeros(())), None).keys()
    values = torch.zeros(2)
    inputs = loss_inputs(
        values, values, values, values, torch.zeros(2).long(), torch.tensor([2]), entropy=values, ref_logprobs=values
    )
    step = measure(inputs, ClippedSurrogate(kl_beta=0.1)(inputs)).values().keys()
    names |= {name if name.startswith("mismatch/") else f"train/{name}" for name in step}
    names |= {f"judge_audit/{name}" for name in (*LabelCounts().metrics(), *RuleJudge(workers=1).metrics())}
    for names_of_sets in (("",), ("aime24", "math500")):
        sets = {name: [group(name, i) for i in range(2)] for name in names_of_sets}
        names |= {f"{prefix}/{name}" for prefix in ("eval", "test") for name in suite_scores(sets, (1,))}
    return names


def test_every_metric_of_the_parts_is_explained():
    logged = logged_by_parts()
    assert len(logged) > 120
    assert undocumented(logged) == []


def test_what_the_page_explains_is_logged():
    """Names without a source above: of hooks that need a run, which tests/test_cli.py compares with one."""
    logged = logged_by_parts()
    of_runs = r"(ahead|capability|data|dynamic|pipelined|reward|sources)/.*|train/(step_skipped|loss_scale)"
    of_runs += "|credit/filtered_solutions|judge_audit/(COUNTER|precision|recall|f1).*"
    unused = [n for n, p in documented().items() if not re.fullmatch(of_runs, n) and not any(map(p.fullmatch, logged))]
    assert unused == []


@pytest.mark.parametrize(
    ("name", "explained"),
    [("eval/avg@4", True), ("test/aime24/avg@32_low", True), ("eval/avg@4x", False), ("train/nothing", False)],
)
def test_names_are_matched_whole(name: str, explained: bool):
    assert (undocumented({name}) == []) is explained


def test_every_row_has_a_unit_and_says_what_it_is():
    rows = [
        line.strip("|").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    assert len(rows) > 60
    assert [row for row in rows if len(row) != 4 or not row[1].strip() or not row[2].strip()] == []
