"""Probes of the gold answer: what is asked after which step, once, stored as it comes, and by which engine."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lit_tpgrpo.credit import SPAECredit
from lit_tpgrpo.credit.batch import PotentialGain
from lit_tpgrpo.datamodules.settings_checks import check_providers
from lit_tpgrpo.engines.base import Completion, SamplingParams, TokenScores
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.evidence import EvidenceProvider, GoldAnswerProbes
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Problem, StopReason
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.probing import accuracy, confidence
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from tests.rollout.scripted_engine import Scripted
from tests.rollout.test_evidence import Equal

PROBLEM = Problem("p/0", "3 + 4 + 1 = ?", "8")
TEXTS = [f"<think>\n3 + 4 = 7.\n\nSo 7 + {a - 7} = {a}.\n</think>\n\\boxed{{{a}}}" for a in (8, 9)]
K, G, LIMIT = 3, 2, 64
LEAD_IN = "\n</think>\n\\boxed{"


class Crash(RuntimeError): ...


class Knowing(Scripted):
    """Solves as scripted. After n full stops each token of an answer has the probability n / 4 and the entropy 1 - n / 4."""

    def __init__(self, tokenizer, crash_after: int | None = None) -> None:
        super().__init__(tokenizer, TEXTS)
        self.asked: list[tuple[str, SamplingParams]] = []
        self.forced: list[tuple[str, str]] = []
        self.left = crash_after

    def sample(self, prompts, n, params, seeds):
        if n == G:
            yield from super().sample(prompts, n, params, seeds)
            return
        assert len(set(seeds)) == len(seeds)
        for i, prompt in enumerate(prompts):
            if self.left == 0:
                raise Crash
            self.left = None if self.left is None else self.left - 1
            self.asked.append((self.tokenizer.decode(prompt), params))
            ids = self.tokenizer("8}")["input_ids"]
            yield i, (Completion(tuple(ids), (-0.5,) * len(ids), StopReason.LENGTH),) * n

    def score(self, prompts, completions):
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.forced += [(t, self.tokenizer.decode(c)) for t, c in zip(texts, completions, strict=True)]
        known = [text.count(".") / 4 for text in texts]
        return [
            TokenScores((math.log(k),) * len(c), (1 - k,) * len(c)) for k, c in zip(known, completions, strict=True)
        ]


@pytest.fixture(scope="module")
def tokenizer(random_model: str):
    return load_tokenizer(random_model)


def provider(**settings) -> GoldAnswerProbes:
    return GoldAnswerProbes(**({"samples": K, "tokens": 4, "lead_in": LEAD_IN} | settings))


def run(folder: Path, engine, probes, current=True, limit=LIMIT):
    maker = RoundMaker(
        *(engine, Equal(), RuleJudge(), SPAECredit(), keep_all, engine.tokenizer),
        SamplingParams(max_new_tokens=limit),
        G,
        RolloutPrompt("{problem}"),
        show_progress=False,
        batch_stage=PotentialGain(),
        evidence=(probes,),
    )
    file = RoundStore(folder).open(0, {"group_size": G}, maker.judging_settings())
    assignments = [Assignment(0, PROBLEM, 0)]
    verified = maker.sample(0, assignments, file, 0)
    share = maker.judge_share(0, assignments, verified, file, GroupAccuracy(), policy_version=0)
    share = maker.evidence_share(share, file, current=current)
    return [s.evidence[0].values for s in share.groups[0].solutions], *maker.credit_share(share)


def test_each_step_but_the_answer_is_probed_once_and_scored(tmp_path, tokenizer):
    """One full stop after the first step, two after the second: accuracy 1/4 and 2/4, entropies 3/4 and 2/4."""
    engine = Knowing(tokenizer)
    values, round_, tally = run(tmp_path, engine, provider())
    one, two = (0.25, math.exp(-0.75)), (0.5, math.exp(-0.5))
    assert values == [(pytest.approx(one), pytest.approx(two), None)] * 2
    assert isinstance(provider(), EvidenceProvider)
    # The first step is that of both solutions; the second is each one's own.
    assert len({text for text, _ in engine.asked}) == len(engine.asked) == 3
    assert all(text.endswith(LEAD_IN) for text, _ in engine.asked)
    assert sorted(text.count(".") for text, _ in engine.asked) == [1, 2, 2]
    assert {params.temperature for _, params in engine.asked} == {0.6}
    assert {params.max_new_tokens for _, params in engine.asked} == {4}
    assert sorted(text for _, text in engine.forced) == ["8"] * 3 + ["8}"] * 3 * K
    metrics = tally.metrics()
    assert (metrics["evidence/probes"], metrics["evidence/probes_reused"], metrics["evidence/probes_lost"]) == (3, 1, 0)
    assert metrics["evidence/probe_tokens"] == 3 * K * len(tokenizer("8}")["input_ids"])
    assert all(c.advantages.any() for c in round_.credited)
    assert metrics["credit/advantage_mean"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_crash_loses_no_batch_and_the_rest_is_the_same(tmp_path, tokenizer, after):
    whole, *_ = run(tmp_path / "whole", Knowing(tokenizer), provider())
    with pytest.raises(Crash):
        run(tmp_path / "cut", Knowing(tokenizer, crash_after=after), provider())
    again = Knowing(tokenizer)
    assert run(tmp_path / "cut", again, provider())[0] == whole
    assert len(again.asked) == 3 - after
    # With other settings they are others.
    other = Knowing(tokenizer)
    run(tmp_path / "cut", other, provider(tokens=5))
    assert len(other.asked) == 3


def test_a_policy_that_has_moved_on_is_not_asked(tmp_path, tokenizer, caplog):
    engine = Knowing(tokenizer)
    values, _, tally = run(tmp_path, engine, provider(), current=False)
    assert values == [(None,) * 3] * 2
    assert engine.asked == []
    assert tally.metrics()["evidence/probes_lost"] == 3
    assert "3 steps were not probed" in caplog.text


@pytest.mark.parametrize("damaged", [None, [0.5], [0.5, 2.0], ["a", "b"], {}])
def test_what_cannot_be_read_is_made_again(tmp_path, tokenizer, damaged, caplog):
    whole, *_ = run(tmp_path, Knowing(tokenizer), provider())
    path = tmp_path / "round_000000" / "evidence.0.jsonl"
    key = next(iter(json.loads(path.read_text().splitlines()[0])["values"]))
    with path.open("a") as file:
        file.write(json.dumps({"values": {key: damaged}}) + "\n")
    again = Knowing(tokenizer)
    assert run(tmp_path, again, provider())[0] == whole
    assert len(again.asked) == 1
    assert "1 stored probes cannot be read" in caplog.text


def test_the_first_steps_alone_and_where_there_is_room(tmp_path, tokenizer):
    values, *_ = run(tmp_path / "first", Knowing(tokenizer), provider(max_steps=1))
    assert [[pair is not None for pair in row] for row in values] == [[True, False, False]] * 2
    longest = max(len(tokenizer(text)["input_ids"]) for text in TEXTS) + 1
    values, *_ = run(tmp_path / "room", Knowing(tokenizer), provider(tokens=longest), limit=longest)
    assert values == [(None,) * 3] * 2


def test_accuracy_and_confidence_are_means_in_their_range():
    gold = TokenScores((math.log(0.2), math.log(0.6)), (1.0, 1.0))
    assert accuracy(gold) == pytest.approx(0.4)
    sure, unsure = TokenScores((0.0,), (0.0,)), TokenScores((0.0, 0.0), (1.0, 3.0))
    assert confidence([sure, unsure]) == pytest.approx((1 + math.exp(-2)) / 2)
    assert accuracy(TokenScores((1e-9,), (0.0,))) == confidence([TokenScores((0.0,), (-1e-9,))]) == 1.0


def test_an_engine_that_cannot_score_is_refused_before_sampling(tokenizer):
    message = "GoldAnswerProbes needs an engine that scores .* Scripted does not; use HFEngine"
    with pytest.raises(ConfigError, match=message):
        check_providers([provider()], Scripted(tokenizer, TEXTS), tokenizer)  # pyright: ignore[reportArgumentType]
    check_providers([provider()], HFEngine(), tokenizer)


def test_settings_are_refused():
    for settings, message in (
        ({"samples": 0}, "samples must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"lead_in": ""}, "lead_in is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            GoldAnswerProbes(**settings)
