"""Rewards in a round: stored by term, taken from the store after a restart, counted in the metrics; truncated solutions
masked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.engines.base import Completion
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.aggregation import BatchCounts, sequence_weights
from lit_tpgrpo.records import Round, StopReason
from lit_tpgrpo.rewards import OutcomeReward, RewardCase
from lit_tpgrpo.rewards.weighted import as_rewards
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import as_keep_rule, with_truncated
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.rows import judged_rows
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.rollout.training_sequences import training_sequence
from tests.rollout.test_rounds import (
    ASSIGNMENTS,
    UNDECIDED,
    C,
    CountingJudge,
    Dealt,
    G,
    I,
    Sampling,
    Scripted,
    tokenizer,
)

__all__ = ["tokenizer"]  # the fixture


class Term:
    """0 for sample 0, None for sample 1, then 0.5; counts its calls, and raises at one of them."""

    def __init__(self, scale: float = 1.0, breaks_at: int = -1) -> None:
        self.scale = scale
        self._breaks_at = breaks_at
        self._calls: list[tuple[str, int]] = []

    @property
    def calls(self) -> list[tuple[str, int]]:
        return self._calls

    def __call__(self, case: RewardCase) -> float | None:
        if len(self._calls) == self._breaks_at:
            raise OSError("the reward model is gone")
        self._calls.append((case.problem.uid, case.solution.sample))
        return (0.0, None, 0.5, 0.5)[case.solution.sample] if self.scale == 1.0 else self.scale


class Cut(Scripted):
    """The last sample of each group is cut off by the token limit."""

    def sample(self, prompts, n, params, seeds):
        for i, completions in super().sample(prompts, n, params, seeds):
            last = completions[-1]
            cut = Completion(last.token_ids[:-1], last.logprobs[:-1], StopReason.LENGTH)
            yield i, (*completions[:-1], cut)


def maker_of(tokenizer, rewards, dealt, keep="all", truncated="rewarded") -> tuple[RoundMaker, CountingJudge]:
    judge = CountingJudge()
    maker = RoundMaker(
        Cut(tokenizer, 0),
        Dealt(*dealt),
        judge,
        ThoughtCredit(ddof=0, eps=0.0),
        with_truncated(as_keep_rule(keep, "keep"), truncated),
        tokenizer,
        Sampling(max_new_tokens=64),
        G,
        RolloutPrompt("{problem}"),
        show_progress=False,
        rewards=as_rewards(rewards, "data.rewards"),
    )
    return maker, judge


def make(
    folder: Path, tokenizer, rewards, dealt, keep="all", truncated="rewarded"
) -> tuple[Round, dict[str, float], CountingJudge]:
    maker, judge = maker_of(tokenizer, rewards, dealt, keep, truncated)
    file = RoundStore(folder).open(0, {"group_size": G})
    round_, tally = maker.make(0, ASSIGNMENTS, file, GroupAccuracy(), policy_version=0)
    return round_, tally.metrics(), judge


def totals(round_: Round) -> list[float | None]:
    return [None if s.reward is None else s.reward.total for g in round_.groups for s in g.solutions]


# p/0: right, wrong, wrong, wrong; p/1: undecided; p/2: right, right, wrong, undecided
DEALT = [C, I, I, I, *[UNDECIDED] * G, C, C, I, UNDECIDED]


def test_a_round_with_rewards_and_the_same_round_from_the_store(tmp_path: Path, tokenizer):
    term = Term()
    made, metrics, _ = make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": (term, 2.0)}, DEALT)
    # +-1, and twice 0, nothing, 0.5, 0.5
    assert totals(made) == [1.0, -1.0, 0.0, 0.0, *[None] * G, 1.0, 1.0, 0.0, None]
    assert len(term.calls) == 7
    # p/0: mean 0, deviation sqrt(1/2); p/2: mean 2/3, deviation sqrt(2)/3
    r = [2**0.5, -(2**0.5), 0.0, 0.0, *[0.0] * G, 0.5**0.5, 0.5**0.5, -(2**0.5), 0.0]
    assert [s.outcome_advantage for s in made.credited] == pytest.approx(r)
    assert made.kept_indices == (0, 1, 2, 3, 8, 9, 10)
    assert metrics["reward/outcome"] == pytest.approx((3 - 4) / 7)
    assert metrics["reward/mine"] == pytest.approx((0 + 0.5 + 0.5 + 0 + 0.5) / 5)
    assert metrics["reward/total"] == pytest.approx(2 / 7)
    assert [metrics[f"reward/{n}_skipped"] for n in ("outcome", "mine", "total")] == [0.0, 2.0, 0.0]
    assert metrics["rollout/accuracy"] == 3 / 7  # of the outcome, as without rewards
    assert judged_rows(made)[1]["reward"] == {"total": -1.0, "outcome": -1.0, "mine": None}

    again = Term(breaks_at=0)
    taken_up, metrics_again, judge = make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": (again, 2.0)}, [C])
    assert (again.calls, judge.asked) == ([], [])
    assert totals(taken_up) == totals(made)
    assert {k: v for k, v in metrics_again.items() if k.startswith("reward/")} == {
        k: v for k, v in metrics.items() if k.startswith("reward/")
    }
    # Another weight calls nothing; other settings call the term again, and no judge.
    reweighted, _, _ = make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": (Term(breaks_at=0), -1.0)}, [C])
    assert totals(reweighted)[:4] == [1.0, -1.0, -1.5, -1.5]
    other = Term(scale=3.0)
    changed, _, judge = make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": other}, [C])
    assert (len(other.calls), judge.asked) == (7, [])
    assert totals(changed)[:4] == [4.0, 2.0, 2.0, 2.0]


def test_what_all_terms_skip_is_not_trained_on(tmp_path: Path, tokenizer):
    made, metrics, _ = make(tmp_path, tokenizer, {"mine": Term()}, [C, I, C, I])
    assert totals(made)[:4] == [0.0, None, 0.5, 0.5]
    assert made.kept_indices == (0, 2, 3, 4, 6, 7, 8, 10, 11)  # by the rule "all"
    assert made.credited[1].outcome_advantage == 0.0
    assert metrics["reward/total_skipped"] == 3.0
    assert metrics["rollout/accuracy"] == 0.5


def test_a_term_that_raises_keeps_what_was_sampled_and_computed(tmp_path: Path, tokenizer):
    broken = Term(breaks_at=5)
    message = "mine .Term. of sample 1 of problem 'p/1' cannot be computed: it raised OSError: the reward model is gone"
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": broken}, [C, I])
    assert len((tmp_path / "round_000000" / "solutions.0.jsonl").read_text().splitlines()) == 3
    fixed = Term()
    made, _, _ = make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": fixed}, [C, I])
    assert fixed.calls == [(f"p/{i // G}", i % G) for i in range(5, 12)]
    assert totals(made) == [1.0, -1.0, 1.5, -0.5] * 3


@pytest.mark.parametrize("damage", ['"value": "1"', '"value": NaN', '"worth": 1.0'])
def test_a_damaged_value_is_computed_again(tmp_path: Path, tokenizer, damage: str):
    make(tmp_path, tokenizer, {"mine": Term()}, [C, I])
    path = tmp_path / "round_000000" / "rewards.0.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace('"value": 0.0', damage), *lines[1:]]) + "\n")
    term = Term()
    made, _, _ = make(tmp_path, tokenizer, {"mine": term}, [C, I])
    assert term.calls == [("p/0", 0)]
    assert totals(made)[:4] == [0.0, None, 0.5, 0.5]


def test_a_value_of_another_outcome_is_computed_again(tmp_path: Path, tokenizer):
    """The group's outcomes may have changed with the verifier: a term may look at all of them."""
    make(tmp_path, tokenizer, {"mine": Term()}, [C, I])
    for path in (tmp_path / "round_000000").glob("verdicts.*"):
        path.unlink()
    term = Term()
    make(tmp_path, tokenizer, {"mine": term}, [C, I, I, I, C, I, C, I, C, I, C, I])
    assert {uid for uid, _ in term.calls} == {"p/0"}


def test_masked_solutions_count_in_their_group_and_in_no_denominator(tmp_path: Path, tokenizer):
    dealt = [C, I, C, I]
    rewarded, _, _ = make(tmp_path / "a", tokenizer, None, dealt)
    masked, metrics, _ = make(tmp_path / "b", tokenizer, None, dealt, truncated="masked")
    assert rewarded.kept_indices == tuple(range(12))
    assert masked.kept_indices == (0, 1, 2, 4, 5, 6, 8, 9, 10)
    # Its outcome is in acc_G and in the deviation: rewards 1, -1, 1, -1, not 1, -1, 1.
    assert [g.accuracy for g in masked.groups] == [0.5] * 3
    assert [s.outcome_advantage for s in masked.kept[:3]] == [1.0, -1.0, 1.0]
    assert metrics["rollout/truncated_share"] == 0.25
    assert metrics["credit/kept_solutions"] == 9.0
    # The batch holds the rest only, so a token's weight is that of a step without the masked ones.
    lengths = [len(training_sequence(s).completion_ids) for s in masked.kept]
    assert lengths == [len(s.judged.solution.completion_ids) for s in rewarded.kept if s.judged.solution.sample < 3]
    tensor = torch.tensor(lengths)
    weights = sequence_weights(tensor, "token", BatchCounts(sum(lengths), len(lengths)))
    assert float((weights * tensor).sum()) == pytest.approx(1.0)


def test_masking_is_on_top_of_the_keep_rule(tmp_path: Path, tokenizer):
    dealt = [C, C, C, C, C, I, C, I, I, I, I, I]
    made, _, _ = make(tmp_path, tokenizer, None, dealt, keep="nonzero_advantage", truncated="masked")
    assert made.kept_indices == (4, 5, 6)


def test_the_store_knows_its_reward_files(tmp_path: Path, tokenizer):
    make(tmp_path, tokenizer, {"mine": Term()}, [C, I])
    rows = [json.loads(line) for line in (tmp_path / "round_000000" / "rewards.0.jsonl").read_text().splitlines()]
    assert rows[0].keys() == {"group", "sample", "term", "of", "value"}
    assert [(r["group"], r["sample"], r["value"]) for r in rows[:4]] == [
        (0, 0, 0.0),
        (0, 1, None),
        (0, 2, 0.5),
        (0, 3, 0.5),
    ]
    RoundStore(tmp_path).open(0, {"group_size": G + 1})  # sampled otherwise: nothing of the round stays
    assert not (tmp_path / "round_000000" / "rewards.0.jsonl").exists()


def test_a_dropped_group_is_neither_rewarded_nor_judged_and_is_judged_when_it_is_wanted(tmp_path: Path, tokenizer):
    """Its outcomes are stored all the same; with other settings of dynamic sampling it may be trained on after a restart."""
    term = Term()
    maker, judge = maker_of(tokenizer, {"outcome": OutcomeReward(), "mine": term}, [C, I])
    file = RoundStore(tmp_path).open(0, {"group_size": G})
    verified = maker.sample(0, ASSIGNMENTS, file, 0)
    round_, tally = maker.complete(0, ASSIGNMENTS, verified, file, GroupAccuracy(), policy_version=0, dropped={1})
    assert [g.problem.uid for g in round_.groups] == ["p/0", "p/2"]
    assert [g.problem.uid for g in round_.dropped] == ["p/1"]
    assert round_.credited_indices == (0, 1, 2, 3, 8, 9, 10, 11)
    assert {uid for uid, _ in term.calls} == {case.problem.uid for case in judge.asked} == {"p/0", "p/2"}
    assert all(s.verdict.abstained and s.reward is None for s in round_.dropped[0].solutions)
    metrics = tally.metrics()
    assert (metrics["rollout/solutions"], metrics["rollout/mixed_group_share"]) == (12.0, 1.0)
    assert metrics["judge/abstained_share"] == 0.0  # of the groups that were judged
    later = Term()
    made, _, judge = make(tmp_path, tokenizer, {"outcome": OutcomeReward(), "mine": later}, [I])
    assert {case.problem.uid for case in judge.asked} == {uid for uid, _ in later.calls} == {"p/1"}
    assert made.groups[1].accuracy == 0.5
