"""Evidence of a round: continuations of each prefix once, stored as they come, with the policy that sampled the round."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lit_tpgrpo.credit import OutcomeCredit, VinePPOCredit
from lit_tpgrpo.credit.filters import PROFFilter
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Continuations, StepScores
from lit_tpgrpo.judges.evidence import ContinuationScores, EvidenceProvider, LabelScores, MonteCarloContinuations
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Outcome, Problem, StopReason
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.evidence import needed_evidence, uses_engine
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt, prompt_ids
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.verify.base import Verifier

PROBLEMS = [Problem("p/0", "3 + 4 + 1 = ?", "8"), Problem("p/1", "3 + 4 + 2 = ?", "9")]
SECOND = ["7 + 1 = 8.", "7 + 2 = 9."]
G, K, LIMIT = 2, 3, 64


class Crash(RuntimeError): ...


class Continuing:
    """Samples two solutions of two think steps. Of K continuations as many are right as the prefix has steps, and one more."""

    def __init__(self, tokenizer, crash_after: int | None = None) -> None:
        self.tokenizer, self.left = tokenizer, crash_after
        self.solved: list[tuple[int, ...]] = []
        self.continued: list[tuple[tuple[int, ...], int]] = []
        self.woken = 0

    def prompts_at_once(self, n: int) -> int:
        return 2

    def sample(self, prompts, n, params, seeds):
        for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
            yield i, tuple(self._solutions(prompts[i]) if n == G else self._continuations(prompts[i], params))

    def _solutions(self, prompt):
        """Both begin alike; both have the first problem's second step, which is wrong in the second."""
        self.solved.append(tuple(prompt))
        for answer in "89":
            yield self._completion(f"<think>\n3 + 4 = 7.\n\nSo {SECOND[answer == '9']}\n</think>\n\\boxed{{{answer}}}")

    def _continuations(self, prompt, params):
        if self.left == 0:
            raise Crash
        self.left = None if self.left is None else self.left - 1
        self.continued.append((tuple(prompt), params.max_new_tokens))
        bare = next(p for p in self.solved if tuple(prompt[: len(p)]) == p)
        text = self.tokenizer.decode(prompt[len(bare) :])
        for k in range(K):
            answer = 8 if k <= text.count(".") else 0
            yield self._completion(("" if "</think>" in text else "\n</think>\n") + f"\\boxed{{{answer}}}")

    def _completion(self, text: str) -> Completion:
        ids = (*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id)
        return Completion(ids, (-0.5,) * len(ids), StopReason.EOS)

    def load_weights(self, policy) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None:
        self.woken += 1

    def close(self) -> None: ...


class Equal(Verifier):
    def verify_all(self, pairs):
        return [Outcome.CORRECT if gold == answer else Outcome.INCORRECT for gold, answer in pairs]


@pytest.fixture(scope="module")
def tokenizer(random_model: str):
    return load_tokenizer(random_model)


def run(folder: Path, engine, provider, rank=0, problems=PROBLEMS, current=True, credit=None):
    """A round's judged groups with evidence, and the whole round."""
    maker = RoundMaker(
        engine,
        Equal(),
        RuleJudge(),
        credit or VinePPOCredit(),
        keep_all,
        engine.tokenizer,
        SamplingParams(max_new_tokens=LIMIT),
        G,
        RolloutPrompt("{problem}"),
        show_progress=False,
        evidence=(provider,),
    )
    file = RoundStore(folder, rank=rank).open(0, {"group_size": G}, maker.judging_settings())
    assignments = [Assignment(g, problem, 0) for g, problem in enumerate(problems)]
    verified = maker.sample(0, assignments, file, 0)
    share = maker.judge_share(0, assignments, verified, file, GroupAccuracy(), policy_version=0)
    share = maker.evidence_share(share, file, current=current)
    return share, *maker.credit_share(share)


def outcomes_of(share):
    return [[e.outcomes for s in g.solutions for e in s.evidence] for g in share.groups.values()]


def test_each_step_start_is_continued_and_credited_with_the_change(tmp_path, tokenizer):
    """V = 1/3, 2/3, 1 in the first problem, whose gold is 8; 0 throughout in the second, whose gold is 9."""
    engine = Continuing(tokenizer)
    share, round_, tally = run(tmp_path, engine, MonteCarloContinuations(samples=K))
    one, two = outcomes_of(share)
    assert one == [((1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0))] * 2
    assert two == [((0.0,) * 3,) * 3] * 2
    assert [c.process_rewards for c in round_.credited] == [
        pytest.approx((1 / 3, 1 / 3, 0.0)),
        pytest.approx((1 / 3, 1 / 3, -1.0)),
        pytest.approx((0.0, 0.0, 0.0)),
        pytest.approx((0.0, 0.0, 1.0)),
    ]
    # Each problem: the prompt and the first step are those of both solutions; the step before the answer is each one's.
    assert len(engine.continued) == len(set(engine.continued)) == 2 * (1 + 1 + 2)
    metrics = tally.metrics()
    assert metrics["evidence/prefixes"] == 8
    assert metrics["evidence/prefixes_reused"] == 4
    assert metrics["evidence/continuations"] == 8 * K
    assert metrics["evidence/continuation_tokens"] > 8 * K


def test_a_continuation_that_the_limit_cuts_counts_as_wrong(tmp_path, tokenizer):
    """Though its answer is the right one: it may go on. The source scores it 0, too; a wrong one is none that is left out."""

    class CutShort(Continuing):
        def _continuations(self, prompt, params):
            first, *others = super()._continuations(prompt, params)
            yield replace(first, stop=StopReason.LENGTH)
            yield from others

    share, *_ = run(tmp_path, CutShort(tokenizer), MonteCarloContinuations(samples=K))
    assert outcomes_of(share)[0] == [((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 1.0))] * 2


def test_a_continuation_has_what_its_prefix_leaves_of_the_limit(tmp_path, tokenizer):
    engine = Continuing(tokenizer)
    run(tmp_path, engine, MonteCarloContinuations(samples=K))
    for prompt, limit in engine.continued:
        bare = next(p for p in engine.solved if prompt[: len(p)] == p)
        used = len(prompt) - len(bare)
        assert limit == LIMIT - 2 * -(-used // 2)  # 64 / 32 = 2 tokens make a bucket
        assert used + limit <= LIMIT


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_crash_loses_no_batch_and_the_rest_is_the_same(tmp_path, tokenizer, after):
    provider = MonteCarloContinuations(samples=K)
    whole, *_ = run(tmp_path / "whole", Continuing(tokenizer), provider)
    with pytest.raises(Crash):
        run(tmp_path / "cut", Continuing(tokenizer, crash_after=after), provider)
    stored = sum(map(len, values(tmp_path / "cut")))
    assert after - 1 <= stored <= after  # what was not a whole batch yet is sampled again
    again = Continuing(tokenizer)
    again.solved = [tuple(s.solutions[0].solution.prompt_ids) for s in whole.groups.values()]
    resumed, *_ = run(tmp_path / "cut", again, provider)
    assert outcomes_of(resumed) == outcomes_of(whole)
    assert len(again.continued) == 8 - stored
    # And once it is whole, other processes find all of it.
    third = Continuing(tokenizer)
    other, *_ = run(tmp_path / "cut", third, provider, rank=1, current=False)
    assert outcomes_of(other) == outcomes_of(whole)
    assert third.continued == []


@pytest.mark.parametrize("damaged", [None, [2.0], ["1"], 1.0, {}])
def test_what_cannot_be_read_is_sampled_again(tmp_path, tokenizer, damaged, caplog):
    provider = MonteCarloContinuations(samples=K)
    engine = Continuing(tokenizer)
    whole, *_ = run(tmp_path, engine, provider)
    path = tmp_path / "round_000000" / "evidence.0.jsonl"
    key = next(iter(values(tmp_path)[0]))
    with path.open("a") as file:
        file.write(json.dumps({"values": {key: damaged}}) + "\n")
    again = Continuing(tokenizer)
    again.solved = engine.solved
    assert outcomes_of(run(tmp_path, again, provider)[0]) == outcomes_of(whole)
    assert len(again.continued) == 1
    assert "1 stored continuations cannot be read; they are computed again" in caplog.text


def values(folder):
    """What the file holds, batch by batch."""
    path = folder / "round_000000" / "evidence.0.jsonl"
    return [json.loads(line)["values"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_policy_that_has_moved_on_continues_nothing(tmp_path, tokenizer, caplog):
    engine = Continuing(tokenizer)
    share, round_, tally = run(tmp_path, engine, MonteCarloContinuations(samples=K), current=False)
    assert engine.continued == []
    assert outcomes_of(share) == [[(None,) * 3] * 2] * 2
    assert not any(c.advantages.any() for c in round_.credited)
    assert "8 prefixes have no continuations, and the policy that sampled them has moved on" in caplog.text
    assert tally.metrics()["evidence/prefixes_lost"] == 8


def test_what_a_moved_policy_leaves_of_a_batch_is_counted(tmp_path, tokenizer):
    """A crash left some of the continuations, and the run goes on with other weights."""
    provider = MonteCarloContinuations(samples=K)
    with pytest.raises(Crash):
        run(tmp_path, Continuing(tokenizer, crash_after=3), provider)
    provider.metrics()
    stored = sum(map(len, values(tmp_path)))
    again = Continuing(tokenizer)
    _, _, tally = run(tmp_path, again, provider, current=False)
    counts = tally.metrics()
    assert again.continued == []
    assert counts["evidence/prefixes_lost"] == 8 - stored > 0
    assert counts["evidence/prefixes"] == counts["evidence/continuations"] == 0


def test_other_settings_are_sampled_for_themselves(tmp_path, tokenizer):
    for provider, count in (
        (MonteCarloContinuations(samples=K), 8),
        (MonteCarloContinuations(samples=K), 0),
        (MonteCarloContinuations(samples=K, temperature=0.5), 8),
    ):
        engine = Continuing(tokenizer)
        engine.solved = [prompt_ids(tokenizer, p, RolloutPrompt("{problem}")) for p in PROBLEMS]
        run(tmp_path, engine, provider)
        assert len(engine.continued) == count


def test_scores_are_those_at_the_ends_of_steps_and_need_no_prompt(tmp_path, tokenizer):
    engine = Continuing(tokenizer)
    share, *_ = run(tmp_path, engine, ContinuationScores(samples=K), credit=OutcomeCredit())
    one, two = [[s.evidence[0] for s in g.solutions] for g in share.groups.values()]
    assert one == [StepScores((2 / 3, 1.0, 1.0), 0.0, 1.0), StepScores((2 / 3, 1.0, 0.0), 0.0, 1.0)]
    assert two == [StepScores((0.0, 0.0, 0.0), 0.0, 1.0), StepScores((0.0, 0.0, 1.0), 0.0, 1.0)]
    assert len(engine.continued) == 2 * (1 + 2)


def test_the_first_steps_alone_are_continued(tmp_path, tokenizer):
    engine = Continuing(tokenizer)
    share, *_ = run(tmp_path, engine, MonteCarloContinuations(samples=K, max_steps=2))
    assert outcomes_of(share)[0] == [((1.0, 0.0, 0.0), (1.0, 1.0, 0.0), None)] * 2


def test_labels_become_scores(tmp_path, tokenizer):
    share, *_ = run(tmp_path, Continuing(tokenizer), LabelScores(unmatched=None), credit=OutcomeCredit())
    table = {"correct": 1.0, "incorrect": 0.0, "matched": 0.0, "unmatched": None}
    for group in share.groups.values():
        for s in group.solutions:
            assert s.evidence == (StepScores(tuple(table[label.value] for label in s.verdict.labels), 0.0, 1.0),)


def test_labels_cost_no_weights_of_the_engine(tmp_path, tokenizer):
    """It is woken to sample solutions, and again to continue them only."""
    for i, (provider, woken) in enumerate([(LabelScores(), 1), (MonteCarloContinuations(samples=K), 2)]):
        engine = Continuing(tokenizer)
        run(tmp_path / str(i), engine, provider)
        assert engine.woken == woken
        assert uses_engine([provider]) == (woken == 2)
    assert uses_engine([LabelScores(), MonteCarloContinuations()])
    assert not uses_engine([])


class Broken(EvidenceProvider):
    gives = StepScores

    def __init__(self, given) -> None:
        self.given = given

    def provide(self, cases, tools):
        return self.given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Broken.provide must return one entry for each of the 4 cases, got 0"),
        ([Continuations(())] * 4, "StepScores or"),
        (None, "Broken.provide must return a sequence with one entry for each case, got None"),
    ],
)
def test_what_a_provider_returns_is_checked(tmp_path, tokenizer, given, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, Continuing(tokenizer), Broken(given))


def test_a_method_without_its_evidence_is_refused_with_the_provider_to_add():
    with pytest.raises(
        ConfigError, match=r"VinePPOCredit needs Continuations .*add --data.evidence lit_tpgrpo.MonteCarlo"
    ):
        checked_evidence(LabelScores(), VinePPOCredit(), None)
    with pytest.raises(ConfigError, match="2 providers of StepScores"):
        checked_evidence([LabelScores(), ContinuationScores()], OutcomeCredit())
    assert len(checked_evidence(MonteCarloContinuations(), VinePPOCredit(), None)) == 1
    assert checked_evidence(None, OutcomeCredit(), None) == ()


def test_prediction_asks_only_for_what_its_credit_needs():
    """PROF's continuations cost a multiple of the solutions, and predict has no filter."""
    providers = (MonteCarloContinuations(), ContinuationScores())
    assert needed_evidence(providers, OutcomeCredit()) == ()
    assert needed_evidence(providers, VinePPOCredit()) == providers[:1]
    assert needed_evidence(providers, OutcomeCredit(), PROFFilter()) == providers[1:]


def test_settings_are_refused():
    for provider in (MonteCarloContinuations, ContinuationScores):
        with pytest.raises(ConfigError, match="2 greedy continuations of a prefix are all the same"):
            provider(samples=2, temperature=0.0)
    MonteCarloContinuations(samples=1, temperature=0.0)
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0"):
        MonteCarloContinuations(samples=0)
    with pytest.raises(ConfigError, match="top_p must lie in"):
        MonteCarloContinuations(top_p=0.0)
    with pytest.raises(ConfigError, match=r"unmatched must be in \[0, 1\]"):
        LabelScores(unmatched=-1.0)
