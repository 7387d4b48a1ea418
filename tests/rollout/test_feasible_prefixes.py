"""Binary search for the first infeasible step: few prefixes, each once, stored as they come, the same after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_tpgrpo.credit import DenseRewardCredit
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.evidence import EvidenceProvider, FeasiblePrefixScores
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Outcome, Problem
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.verify.base import Verifier
from tests.rollout.scripted_engine import Scripted

LINES = ["3 + 4 = 7.", "7 + 1 = 8.", "8 + 1 = 0.", "0 + 1 = 1.", "1 + 1 = 2."]
WRONG, RIGHT = ("<think>\n" + "\n\n".join(LINES) + f"\n</think>\n\\boxed{{{a}}}" for a in (2, 9))
PROBLEM = Problem("p", "3 + 4 + 1 + 1 = ?", "9")
K = 3


class KilledError(RuntimeError): ...


class Feasible(Scripted):
    """Samples the texts; one of K continuations is right if the prefix has at most two lines of five."""

    def __init__(self, tokenizer, texts=(WRONG, RIGHT), last_feasible=2, kill_after=None) -> None:
        super().__init__(tokenizer, list(texts))
        self.last_feasible, self.left = last_feasible, kill_after
        self.prompt: tuple[int, ...] = ()
        self.calls: list[list[int]] = []

    def sample(self, prompts, n, params, seeds):
        if not prompts:  # the round's solutions are in the store
            return
        if not self.prompt:
            self.prompt = tuple(prompts[0])
            yield from super().sample(prompts, n, params, seeds)
            return
        lines = [self.tokenizer.decode(p[len(self.prompt) :]).count(".") for p in prompts]
        self.calls.append(lines)
        for i, count in enumerate(lines):
            if self.left == 0:
                raise KilledError
            self.left = None if self.left is None else self.left - 1
            answers = [0] * (n - 1) + [9 if count <= self.last_feasible else 0]
            yield i, tuple(self._completion(f"\n</think>\n\\boxed{{{a}}}") for a in answers)


class Same(Verifier):
    def verify_all(self, pairs):
        return [Outcome.CORRECT if gold == answer else Outcome.INCORRECT for gold, answer in pairs]


@pytest.fixture(scope="module")
def tokenizer(random_model: str):
    return load_tokenizer(random_model)


def run(folder: Path, engine, provider, current=True, verifier=None):
    """The scores of each solution of a round of one problem, and the round's metrics."""
    maker = RoundMaker(
        engine,
        verifier or Same(),
        RuleJudge(),
        DenseRewardCredit(),
        keep_all,
        engine.tokenizer,
        SamplingParams(max_new_tokens=128),
        len(engine.texts),
        RolloutPrompt("{problem}"),
        show_progress=False,
        evidence=(provider,),
    )
    file = RoundStore(folder).open(0, {}, maker.judging_settings())
    assignments = [Assignment(0, PROBLEM, 0)]
    verified = maker.sample(0, assignments, file, 0)
    share = maker.judge_share(0, assignments, verified, file, GroupAccuracy(), policy_version=0)
    share = maker.evidence_share(share, file, current=current)
    scores = [[e.scores for e in s.evidence] for s in share.groups[0].solutions]
    return scores, maker.credit_share(share)[1].metrics()


def test_only_the_prefixes_of_the_search_are_continued(tmp_path, tokenizer):
    """Six steps with the answer block: probes at 3 (no), 1 (yes), 2 (yes). Nothing is sampled for the right solution."""
    engine = Feasible(tokenizer)
    scores, metrics = run(tmp_path, engine, FeasiblePrefixScores(samples=K))
    assert scores == [[(1.0, 1.0, -1.0, -1.0, -1.0, -1.0)], [(1.0,) * 6]]
    assert engine.calls == [[3], [1], [2]]
    assert (metrics["evidence/search_boundaries"], metrics["evidence/search_probes"]) == (5, 3)
    assert (metrics["evidence/prefixes"], metrics["evidence/continuations"]) == (3, 3 * K)
    assert metrics["evidence/continuation_tokens"] > 3 * K


@pytest.mark.parametrize("last", [0, 1, 2, 3, 4, 5])
def test_each_place_is_found(tmp_path, tokenizer, last):
    scores, _ = run(tmp_path, Feasible(tokenizer, last_feasible=last), FeasiblePrefixScores(samples=K))
    assert scores[0] == [(1.0,) * last + (-1.0,) * (6 - last)]


def test_solutions_are_searched_side_by_side_and_share_prefixes(tmp_path, tokenizer):
    """A wrong solution that ends after two of the lines asks about its first, which the other finds stored, then its second."""
    short = "<think>\n" + "\n\n".join(LINES[:2]) + "\n</think>\n\\boxed{2}"
    engine = Feasible(tokenizer, [WRONG, short])
    scores, metrics = run(tmp_path, engine, FeasiblePrefixScores(samples=K))
    assert scores == [[(1.0, 1.0, -1.0, -1.0, -1.0, -1.0)], [(1.0, 1.0, -1.0)]]
    assert engine.calls == [
        [3],
        [1],
        [2],
        [2],
    ]  # the second line of one ends with a blank line, that of the other does not
    assert (metrics["evidence/prefixes"], metrics["evidence/prefixes_reused"]) == (4, 1)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_search_goes_on_where_it_was(tmp_path, tokenizer, after):
    provider = FeasiblePrefixScores(samples=K)
    whole, _ = run(tmp_path / "whole", Feasible(tokenizer), provider)
    killed = Feasible(tokenizer, kill_after=after)
    with pytest.raises(KilledError):
        run(tmp_path / "cut", killed, provider)
    again = Feasible(tokenizer)
    again.prompt = killed.prompt
    scores, _ = run(tmp_path / "cut", again, provider)
    assert scores == whole
    assert len(again.calls) == 3 - after
    # And once it is whole, the policy may have moved on.
    third = Feasible(tokenizer)
    third.prompt = killed.prompt
    scores, _ = run(tmp_path / "cut", third, provider, current=False)
    assert (scores, third.calls) == (whole, [])


def test_a_search_whose_policy_has_moved_on_gives_no_scores(tmp_path, tokenizer):
    """The second probe is not on disk: the solution has no evidence, and not a half-searched one."""
    killed = Feasible(tokenizer, kill_after=1)
    with pytest.raises(KilledError):
        run(tmp_path, killed, FeasiblePrefixScores(samples=K))
    later = Feasible(tokenizer)
    later.prompt = killed.prompt
    scores, metrics = run(tmp_path, later, FeasiblePrefixScores(samples=K), current=False)
    assert scores == [[], [(1.0,) * 6]]
    assert metrics["evidence/prefixes_lost"] == 1


def test_undecided_continuations_end_a_search(tmp_path, tokenizer):
    class Undecided(Same):
        """Knows the answers of the solutions, 2 and 9, alone."""

        def verify_all(self, pairs):
            decided = super().verify_all(pairs)
            return [o if a in ("2", "9") else Outcome.UNDECIDED for o, (_, a) in zip(decided, pairs, strict=True)]

    scores, _ = run(tmp_path, Feasible(tokenizer), FeasiblePrefixScores(samples=K), verifier=Undecided())
    assert scores == [[], [(1.0,) * 6]]


def test_neutral_steps_have_no_score(tmp_path, tokenizer):
    scores, _ = run(tmp_path, Feasible(tokenizer), FeasiblePrefixScores(samples=K, neutral=r"0 \+ .*"))
    assert scores == [[(1.0, 1.0, -1.0, None, -1.0, -1.0)], [(1.0, 1.0, 1.0, None, 1.0, 1.0)]]


def test_settings_are_part_of_the_keys(tmp_path, tokenizer):
    engine = Feasible(tokenizer)
    run(tmp_path, engine, FeasiblePrefixScores(samples=K))
    stored = (tmp_path / "round_000000" / "evidence.0.jsonl").read_text()
    assert sum(len(json.loads(line)["values"]) for line in stored.splitlines()) == 3
    run(tmp_path, engine, FeasiblePrefixScores(samples=K, neutral="#.*"))
    assert len(engine.calls) == 3  # what was sampled is the same
    run(tmp_path, engine, FeasiblePrefixScores(samples=K, temperature=0.5))
    assert len(engine.calls) == 6


def test_arguments_are_checked():
    assert isinstance(FeasiblePrefixScores(), EvidenceProvider)
    with pytest.raises(ConfigError, match=r"neutral must be a regular expression, got '\('"):
        FeasiblePrefixScores(neutral="(")
    with pytest.raises(ConfigError, match="4 greedy continuations of a prefix are all the same"):
        FeasiblePrefixScores(samples=4, temperature=0.0)
