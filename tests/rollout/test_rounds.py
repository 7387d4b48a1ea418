"""A round from its parts: what is undecided is left out, and what the store holds is used again only where it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.credit import OutcomeCredit, PURECredit, StepCredit, ThoughtCredit
from lit_tpgrpo.credit.filters import PROFFilter
from lit_tpgrpo.engines.base import SamplingParams as Sampling
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Counts, JudgeCase
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import JudgedGroup, Outcome, Problem, Round, StepLabel
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.crediting import Crediting
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import Assignment, RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.rollout.summary import tally_round
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.credit.credit_cases import correct, evidenced, group, incorrect, undecided
from tests.rollout.scripted_engine import Scripted as ScriptedTexts
from tests.rollout.stored_rounds import rewrite_groups, rewrite_lines

C, I, UNDECIDED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNDECIDED  # noqa: E741
PROBLEMS = [Problem(f"p/{i}", f"{i} + 1 = ?", str(i + 1)) for i in range(3)]
ASSIGNMENTS = [Assignment(group_index, problem, 10 * group_index) for group_index, problem in enumerate(PROBLEMS)]
G = 4


class Scripted(ScriptedTexts):
    """Sample k of a seed answers seed + k + shift. Notes for which seeds it was asked."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, shift: int) -> None:
        super().__init__(tokenizer, [])
        self.shift = shift
        self.asked: list[int] = []

    def sample(self, prompts, n, params, seeds):
        for i, seed in enumerate(seeds):
            self.asked.append(seed)
            texts = [f"<think>\n3 + 4 = 7.\n</think>\n\\boxed{{{seed + k + self.shift}}}" for k in range(n)]
            yield i, tuple(self._completion(text) for text in texts)


class Dealt(MathVerifier):
    """Deals out the given outcomes in turn."""

    def __init__(self, *outcomes: Outcome) -> None:
        super().__init__()
        self.outcomes = outcomes
        self.asked = 0

    def verify_all(self, pairs):
        given = list(pairs)
        self.asked += len(given)
        return [self.outcomes[i % len(self.outcomes)] for i in range(len(given))]


class CountingJudge(RuleJudge):
    """Notes what it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[JudgeCase] = []

    def judge(self, cases: Sequence[JudgeCase]):
        self.asked += cases
        return super().judge(cases)


@pytest.fixture(scope="module")
def tokenizer(random_model: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(random_model)


def make(tmp_path: Path, tokenizer, *outcomes: Outcome, on_group=lambda group: None, shift=0, judge=None):
    """Round 0 of the problems, its metrics, and its engine, verifier and judge."""
    engine, verifier, judge = Scripted(tokenizer, shift), Dealt(*outcomes), judge or CountingJudge()
    maker = RoundMaker(
        engine,
        verifier,
        judge,
        ThoughtCredit(ddof=1, eps=0.0),
        keep_all,
        tokenizer,
        Sampling(max_new_tokens=64),
        G,
        RolloutPrompt("{problem}"),
        show_progress=False,
    )
    file = RoundStore(tmp_path).open(0, {"group_size": G})
    made, tally = maker.make(0, ASSIGNMENTS, file, GroupAccuracy(), policy_version=0, on_group=on_group)
    return made, tally.metrics(), engine, verifier, judge


def outcomes_of(made: Round) -> list[list[Outcome]]:
    return [[s.outcome for s in group.solutions] for group in made.groups]


def test_undecided_solutions_are_neither_judged_nor_trained_on_and_counted(tmp_path: Path, tokenizer):
    # p/0: three right, one undecided; p/1: all undecided; p/2: right, wrong, wrong, undecided
    dealt = [C, C, C, UNDECIDED, *[UNDECIDED] * G, C, I, I, UNDECIDED]
    groups: list[JudgedGroup] = []
    made, metrics, _, verifier, judge = make(tmp_path, tokenizer, *dealt, on_group=groups.append)
    assert [g.accuracy for g in made.groups] == [1.0, 0.0, 1 / 3]
    assert [g.problem.uid for g in groups] == ["p/0", "p/2"]  # an accuracy of nothing is told to nobody
    assert len(judge.asked) == 6
    assert made.kept_indices == (0, 1, 2, 8, 9, 10)
    assert made.credited_indices == tuple(range(12))
    # Rewards 1, -1, -1: mean -1/3, sample deviation sqrt(4/3)
    right, wrong = (4 / 3) / (4 / 3) ** 0.5, (-2 / 3) / (4 / 3) ** 0.5
    expected = [0.0] * 8 + [right, wrong, wrong, 0.0]
    assert [s.outcome_advantage for s in made.credited] == pytest.approx(expected)
    assert metrics["rollout/undecided_share"] == 0.5
    assert metrics["rollout/accuracy"] == 4 / 6
    assert metrics["rollout/reward"] == pytest.approx(2 * 4 / 6 - 1)
    assert metrics["rollout/unverifiable_share"] == 0.0
    assert metrics["judge/abstained_share"] == 0.0
    assert metrics["credit/kept_solutions"] == 6
    # Taken up again, the round is the same: an outcome decided by now would change a group that is half trained on.
    again, _, engine, verifier, judge = make(tmp_path, tokenizer, C)
    assert (engine.asked, verifier.asked, judge.asked) == ([], 0, [])
    assert outcomes_of(again) == outcomes_of(made)
    assert again.kept_indices == made.kept_indices


def test_a_round_without_a_decided_solution_has_metrics_and_nothing_to_train_on(tmp_path: Path, tokenizer):
    made, metrics, _, _, judge = make(tmp_path, tokenizer, UNDECIDED)
    assert made.kept == ()
    assert judge.asked == []
    assert metrics["rollout/undecided_share"] == 1.0
    assert metrics["rollout/accuracy"] == metrics["rollout/reward"] == metrics["credit/advantage_variance"] == 0.0


def drop_a_solution(index, problem, solutions):
    return problem, solutions if index != 1 else solutions[:2] + solutions[3:]


def other_gold(index, problem, solutions):
    return replace(problem, answer="5") if index == 1 else problem, solutions


def other_policy(index, problem, solutions):
    return problem, (replace(solutions[0], policy_version=7), *solutions[1:]) if index == 1 else solutions


def lose_a_group(index, problem, solutions):
    return None if index == 1 else (problem, solutions)


@pytest.mark.parametrize("edit", [drop_a_solution, other_gold, other_policy, lose_a_group])
def test_a_stored_group_that_does_not_fit_is_sampled_again_and_its_accuracy_is_right(tmp_path: Path, tokenizer, edit):
    outcomes = [C, I, C, I, C, C, I, I, I, I, I, C]
    whole, *_ = make(tmp_path, tokenizer, *outcomes)
    rewrite_groups(tmp_path / "round_000000", G, edit)
    # Written otherwise by now: what was said of the lost ones must not be taken for the new ones'.
    again, _, engine, verifier, judge = make(tmp_path, tokenizer, C, C, C, I, shift=100)
    assert engine.asked == [10]
    assert verifier.asked == len(judge.asked) == G
    assert [g.accuracy for g in again.groups] == [0.5, 0.75, 0.25]
    assert outcomes_of(again) == [outcomes[:4], [C, C, C, I], outcomes[8:]]
    assert [s.solution.sample for s in again.groups[1].solutions] == [0, 1, 2, 3]
    assert [s.answer for s in again.groups[1].solutions] == ["110", "111", "112", "113"]
    assert again.groups[::2] == whole.groups[::2]
    assert again.credited_indices == whole.credited_indices == tuple(range(12))
    # And then it is whole.
    third, _, engine, *_ = make(tmp_path, tokenizer, I)
    assert engine.asked == []
    assert third.groups == again.groups


def test_a_lost_or_damaged_verdict_is_given_again_and_the_others_stay(tmp_path: Path, tokenizer, caplog):
    make(tmp_path, tokenizer, *[I] * 12)

    def damage(row):
        if (row["group"], row["sample"]) == (2, 3):
            row["labels"].pop()
        return None if (row["group"], row["sample"]) == (0, 1) else row

    rewrite_lines(tmp_path / "round_000000" / "verdicts.0.jsonl", damage)
    again, _, engine, verifier, _ = make(tmp_path, tokenizer, C)
    assert engine.asked == []
    assert verifier.asked == 2
    assert outcomes_of(again) == [[I, C, I, I], [I] * 4, [I, I, I, C]]
    assert "the verdict on sample 3 of problem 'p/2' has" in caplog.text


def test_another_group_size_makes_a_round_of_its_own(tmp_path: Path, tokenizer, caplog):
    make(tmp_path, tokenizer, I)
    RoundStore(tmp_path).open(0, {"group_size": G})
    file = RoundStore(tmp_path).open(0, {"group_size": 2})
    assert file.solutions(2) == {}
    assert "group_size changed" in caplog.text


def test_a_judge_without_a_verdict_on_every_solution_is_named(tmp_path: Path, tokenizer, monkeypatch):
    monkeypatch.setattr(CountingJudge, "judge", lambda self, cases: iter(()))
    with pytest.raises(
        ConfigError, match=r"the judge CountingJudge gave no verdict on 12 of 12 solutions; expected an"
    ):
        make(tmp_path, tokenizer, Outcome.CORRECT, Outcome.INCORRECT)


class Careless(RuleJudge):
    """Gives what ``change`` makes of the rule judge's ``(index, verdict)``."""

    def __init__(self, change) -> None:
        super().__init__()
        self._change = change

    def judge(self, cases):
        return (self._change(i, verdict) for i, verdict in super().judge(cases))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda i, v: (i, replace(v, labels=(StepLabel.MATCHED,) * len(v.labels))),
            r"the verdict on sample 0 of problem 'p/0' labels a correct solution \['matched'\]",
        ),
        (
            lambda i, v: (i, replace(v, labels=v.labels[1:])),
            "problem 'p/0' has 1 labels for 2 steps; expected one each",
        ),
        (lambda i, v: (i, replace(v, steps=v.steps[1:], labels=v.labels[1:])), "do not cover its .* tokens once"),
        (lambda i, v: (i, v.labels), "must yield \\(index, Verdict\\), got .* as verdict"),
        (lambda i, v: (0, v), "gave a verdict on case 0; expected each index from 0 to 11 once"),
        (lambda i, v: (i + 12, v), "gave a verdict on case 12; expected each index from 0 to 11 once"),
    ],
)
def test_a_judge_that_breaks_its_contract_is_named_before_its_verdict_is_stored(tmp_path, tokenizer, change, message):
    with pytest.raises(ConfigError, match=f"the judge Careless:? .*{message}"):
        make(tmp_path, tokenizer, C, judge=Careless(change))
    again, *_ = make(tmp_path, tokenizer, C)  # a good judge takes the round up
    assert [s.verdict.labels[-1] for s in again.groups[0].solutions] == [StepLabel.CORRECT] * G


LABELLED = group(*evidenced(*[correct("CICC")] * 4, *[incorrect("UMUM")] * 4, undecided("AAAA")))
"""Merged, 4 x 3 and 4 x 4 thoughts of four steps each; a last think step is merged with an answer block of its label."""


@pytest.mark.parametrize("group_filter", [None, PROFFilter(removed=4)], ids=["no filter", "PROF"])
@pytest.mark.parametrize("credit", [ThoughtCredit(), StepCredit(), PURECredit(), OutcomeCredit()])
def test_thoughts_are_merged_and_of_all_decided_solutions_whatever_is_credited(credit, group_filter):
    """Of 28 thoughts 4 are INCORRECT and 8 MATCHED; 8 more are those of correct solutions that are CORRECT."""
    credited = Crediting(credit, 9, group_filter)({0: LABELLED})
    assert len(credited) == (9 if group_filter is None else 5)
    made = Round(0, 0, 1.0, (LABELLED,), tuple(credited.values()), ())
    metrics = tally_round(made, 0, 0.0, 0.0, Counts(), Counts()).metrics()
    assert metrics["judge/thoughts_per_solution"] == 28 / 8
    assert metrics["judge/wrong_thought_share"] == 12 / 28
    assert metrics["judge/incorrect_thought_share"] == 4 / 12
