"""VotingJudge: the worked votes of CAPO, dropped verdicts, draws of the judge inside, and a round that is resumed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.chat.base import ChatReply, ChatRequest
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge, JudgeCase, RepeatableJudge, abstain
from lit_tpgrpo.judges.generative.baselines import DirectLabels
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.limits import RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.queries import QueryConfig, request_seed
from lit_tpgrpo.judges.generative.segmentation import LLMSegmentation, RuleSegmentation
from lit_tpgrpo.judges.noisy import NoisyJudge
from lit_tpgrpo.judges.voting import RULES, VotingJudge
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, StopReason, Verdict
from tests.engines import misbehaving_server as bad
from tests.judges.generative.chains import RuleChat, make_case, verdict

C, X, M, U, A = (
    StepLabel.CORRECT,
    StepLabel.INCORRECT,
    StepLabel.MATCHED,
    StepLabel.UNMATCHED,
    StepLabel.ABSTAINED,
)
CAPO = [{2}, {2, 3}, {2}, {3}]
"""The four critiques of the worked example: the wrong ones of three steps."""


def case(n: int = 4, outcome: Outcome = Outcome.CORRECT, sample: int = 0) -> JudgeCase:
    """A solution of n one-token steps, the last of which is its answer block."""
    steps = tuple(Step(i, i + 1, i, i + 1, is_answer=i == n - 1) for i in range(n))
    solution = Solution("p", sample, (1,), (2,) * n, (0.0,) * n, StopReason.EOS, 0, "text", tuple(range(n)))
    return JudgeCase(Problem("p", "1 + 1?", "2"), solution, outcome, steps)


class Critic(Judge):
    """Gives for each draw the wrong steps (from 1) that it was built with, last draw first; None abstains."""

    def __init__(self, *wrong: set[int] | None) -> None:
        self.wrong = wrong

    def check_repeatable(self) -> None:
        pass

    def judge(self, cases):
        for i in reversed(range(len(cases))):
            yield i, self.verdict(cases[i])

    def verdict(self, one: JudgeCase) -> Verdict:
        wrong = self.wrong[one.draw]
        if wrong is None:
            return abstain(one, "no JSON")
        bad, good, answer = (X, C, C) if one.outcome is Outcome.CORRECT else (M, U, M)
        thinks = [bad if j + 1 in wrong else good for j in range(len(one.steps) - 1)]
        return Verdict(one.steps, (*thinks, answer))


def vote(rule: Any, *wrong: set[int] | None, one: JudgeCase | None = None, least: int = 1) -> Verdict:
    ((index, found),) = VotingJudge(Critic(*wrong), len(wrong), rule, least).judge([one or case()])
    assert index == 0
    return found


@pytest.mark.parametrize(
    ("rule", "labels"),
    [("intersection", (C, C, C, C)), ("majority", (C, X, X, C)), ("union", (C, X, X, C)), ("average", (C, X, X, C))],
)
def test_worked_votes(rule, labels):
    """Intersection {}, majority {2, 3} (step 3 has a tie, which is wrong), union {2, 3}, average (0, .75, .5)."""
    found = vote(rule, *CAPO)
    assert found.labels == labels
    assert found.note == ""
    assert found.wrong_shares == ((0.0, 0.75, 0.5, 0.0) if rule == "average" else None)


def test_in_an_incorrect_solution_wrong_steps_are_matched():
    wrong = case(outcome=Outcome.INCORRECT)
    assert vote("intersection", {2}, {2, 3}, {2}, one=wrong).labels == (U, M, U, M)
    assert vote("average", *CAPO, one=wrong).wrong_shares == (
        0.0,
        0.75,
        0.5,
        1.0,
    )  # the answer block is wrong by premise
    # Nobody gave step 3 the label that wins.
    assert vote("intersection", {3}, {1, 3}, {1, 2}, one=wrong).labels == (U, U, U, M)


def test_votes_that_disagree_wholly():
    critiques = ({1}, {2}, {3})
    assert vote("intersection", *critiques).labels == (C, C, C, C)
    assert vote("majority", *critiques).labels == (C, C, C, C)
    assert vote("union", *critiques).labels == (X, X, X, C)
    assert vote("average", *critiques).wrong_shares == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0))


@pytest.mark.parametrize("rule", list(RULES))
def test_one_vote_is_the_judge_itself(rule):
    found = vote(rule, {1, 3})
    assert found.labels == (X, C, X, C)
    assert found.wrong_shares == ((1.0, 0.0, 1.0, 0.0) if rule == "average" else None)
    assert vote(rule, None) == abstain(case(), "1 of 1 verdicts abstained: no JSON")


def test_an_unreadable_critique_is_dropped_and_counted():
    judge = VotingJudge(Critic({2}, None, {2, 3}, None), 4, "majority")
    ((_, found),) = judge.judge([case()])
    assert found.labels == (C, X, X, C)  # 1 of 2 is a tie
    assert found.note == "2 of 4 verdicts abstained: no JSON"
    counts = judge.metrics()
    assert (counts["votes"], counts["votes_abstained"], counts["votes_too_few"]) == (4, 2, 0)
    assert (counts["votes_steps"], counts["votes_steps_split"]) == (4, 1)
    assert not any(judge.metrics().values())


def test_too_few_critiques_abstain():
    assert vote("union", None, None).labels == (A,) * 4
    assert vote("union", {1}, None, None, least=2).labels == (A,) * 4
    assert vote("union", {1}, {2}, None, least=2).labels == (X, X, C, C)
    judge = VotingJudge(Critic(None, None), 2)
    list(judge.judge([case(), case(sample=1)]))
    assert judge.metrics()["votes_too_few"] == 2


def test_verdicts_with_other_steps_are_dropped():
    """The vote is among the verdicts with the most common steps, among the earliest if equally many share them."""
    two = case(2).steps

    class Segmenting(Critic):
        def verdict(self, one):
            coarse = (replace(two[0], end=3, token_end=3), replace(two[1], start=3, end=4, token_start=3, token_end=4))
            return Verdict(coarse, (X, C)) if self.wrong[one.draw] is None else super().verdict(one)

    def steps(*wrong):
        judge = VotingJudge(Segmenting(*wrong), len(wrong), "union")
        ((_, found),) = judge.judge([case()])
        return len(found.steps), found.labels.count(X), judge.metrics()["votes_other_steps"]

    assert steps({1}, None, {2}) == (4, 2, 1)
    assert steps(None, {1}) == (2, 1, 1)
    assert steps({1}, None) == (4, 1, 1)


def test_each_case_is_voted_on_once_and_as_soon_as_its_draws_are_there():
    cases = [case(outcome=Outcome.CORRECT), case(outcome=Outcome.INCORRECT, sample=1)]
    verdicts = list(VotingJudge(Critic({1}, {1, 2}), 2).judge(cases))
    assert [(i, v.labels) for i, v in verdicts] == [(1, (M, U, U, M)), (0, (X, C, C, C))]


@given(st.lists(st.sets(st.integers(1, 3)), min_size=1, max_size=5))
def test_the_rules_are_nested(critiques):
    wrong = {rule: {j for j, label in enumerate(vote(rule, *critiques).labels) if label is X} for rule in RULES}
    assert wrong["intersection"] <= wrong["majority"] <= wrong["union"] == wrong["average"]
    assert wrong["intersection"] == {j - 1 for j in set.intersection(*critiques)}
    assert wrong["union"] == {j - 1 for j in set.union(*critiques)}
    shares = vote("average", *critiques).wrong_shares
    assert shares == tuple(sum(j + 1 in critique for critique in critiques) / len(critiques) for j in range(4))


def test_settings_are_refused():
    class Fixed(Judge):
        def judge(self, cases):
            return iter(())

    with pytest.raises(ConfigError, match="Fixed gives the same verdict each time"):
        VotingJudge(Fixed(), 2)
    VotingJudge(Fixed(), 1)
    with pytest.raises(ConfigError, match="temperature 0 are all the same"):
        VotingJudge(GenerativeJudge(RuleChat(), store=None), 2)
    with pytest.raises(ConfigError, match="same verdict each time at error 0"):
        VotingJudge(NoisyJudge(Fixed(), error=0.0), 2)
    for votes, least in ((0, 1), (2, 3), (2, 0)):
        with pytest.raises(ConfigError, match="votes must be at least 1"):
            VotingJudge(Critic(), votes, least=least)
    assert isinstance(VotingJudge(Critic(), 2), RepeatableJudge)


def test_stored_verdicts_depend_on_all_settings():
    judge = VotingJudge(NoisyJudge(Critic(), 0.2), 3, "union", 2)
    assert judge.name == "union_noisy_Critic"
    assert {k: v for k, v in judge.settings.items() if k != "judge"} == {"votes": 3, "rule": "union", "least": 2}
    assert judge.settings["judge"]["error"] == 0.2


def test_draws_of_a_noisy_judge_are_independent_and_a_majority_is_better():
    steps, error, n = 40, 0.2, 50

    class Right(Critic):
        def __init__(self) -> None:
            super().__init__(*[set()] * 5)

    cases = [case(steps + 1, sample=i) for i in range(n)]

    def mistakes(judge: Judge) -> float:
        return sum(v.labels.count(X) for _, v in judge.judge(cases)) / (n * steps)

    # Three of five wrong: 10 e^3 (1-e)^2 + 5 e^4 (1-e) + e^5 = .0579; the draws are the same on every machine.
    assert mistakes(NoisyJudge(Right(), error)) == pytest.approx(0.2, abs=0.03)
    assert mistakes(VotingJudge(NoisyJudge(Right(), error), 5, "majority")) == pytest.approx(0.0579, abs=0.02)


# ---- a language model ----

SAMPLED = QueryConfig(temperature=0.6)
QUICK = RequestLimits(backoff_s=0.0, patience_s=0.0, attempts=2)


def critiques(name: str, request: ChatRequest) -> str:
    """The critique of each seed on PARAGRAPHS: 3 and 4 are wrong; the second seed misses 4, the third accuses 5 as well."""
    wrong = {0: {3, 4}, 1: {3}, 2: {3, 4, 5}, 3: {3, 4}}[request.seed % 1000]
    reply = verdict(name, request.content)
    if name == "labelling":
        reply["judgements"] = [j | {"wrong": j["step"] in wrong} for j in reply["judgements"]]
    return json.dumps(reply)


def generative(chat, **settings) -> GenerativeJudge:
    defaults = {"method": DirectLabels(), "segmentation": RuleSegmentation(), "query": SAMPLED, "limits": QUICK}
    return GenerativeJudge(chat, **({"store": None} | defaults | settings))


def wrong_steps(judge: Judge, *cases: JudgeCase) -> list[set[int]]:
    verdicts = dict(judge.judge(cases or [make_case()]))
    return [{j + 1 for j, label in enumerate(verdicts[i].labels) if label is X} for i in range(len(verdicts))]


@pytest.mark.parametrize(("rule", "wrong"), [("intersection", {3}), ("majority", {3, 4}), ("union", {3, 4, 5})])
def test_critiques_of_a_language_model_have_seeds_of_their_own(rule, wrong):
    chat = RuleChat(critiques)
    assert wrong_steps(VotingJudge(generative(chat), 4, rule)) == [wrong]
    assert sorted(r.seed for r in chat.requests) == [0, 1, 2, 3]
    assert len({r.content for r in chat.requests}) == 1


def test_seeds_of_many_draws_do_not_collide():
    """Draw 250 of 4 votes had the seed 1000, which was that of the first verdict's second attempt."""
    seeds = [request_seed(attempt, index) for attempt in range(3) for index in range(3000)]
    assert len(set(seeds)) == len(seeds)
    assert [request_seed(0, 3), request_seed(2, 999)] == [3, 2999]  # as in the keys of stored replies


def test_critiques_share_one_segmentation(tmp_path):
    """Asked once, though four critiques wait for it, with a store and without."""
    for store in (None, tmp_path):
        chat = RuleChat(critiques)
        judge = VotingJudge(generative(chat, segmentation=LLMSegmentation(), store=store), 4, "majority")
        assert wrong_steps(judge, make_case(), make_case(problem="another")) == [{3, 4}, {3, 4}]
        assert Counter(r.schema_name for r in chat.requests) == {"segmentation": 2, "labelling": 8}
        assert judge.metrics()["votes_other_steps"] == 0


def test_replies_that_cannot_be_read_cost_one_critique():
    def answer(name: str, request: ChatRequest) -> str:
        return "I cannot say." if request.seed % 1000 == 1 else critiques(name, request)

    judge = VotingJudge(generative(RuleChat(answer)), 4, "intersection")
    assert wrong_steps(judge) == [{3, 4}]  # without the second
    counts = judge.metrics()
    assert (counts["votes_abstained"], counts["abstained_invalid"], counts["cases"]) == (1, 1, 4)


def test_a_budget_that_ends_leaves_the_critiques_before_it():
    judge = generative(RuleChat(critiques), budget=RoundBudget(max_tokens=1), limits=replace(QUICK, concurrency=1))
    voting = VotingJudge(judge, 4, "union")
    verdicts = dict(voting.judge([make_case(), make_case()]))
    assert [v.abstained for _, v in sorted(verdicts.items())] == [False, True]
    assert "3 of 4 verdicts abstained" in verdicts[0].note
    assert voting.metrics()["abstained_budget"] == 7


class FiveReplies(RuleChat):
    """Answers five requests and leaves later ones open, so that a round of eight cannot end before it is interrupted."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        if len(self.requests) == 5:
            await asyncio.Event().wait()
        return await super().complete(request)


def test_an_interrupted_round_asks_only_for_the_rest(tmp_path):
    first = FiveReplies(critiques)
    verdicts = VotingJudge(generative(first, store=tmp_path, limits=replace(QUICK, concurrency=1)), 4).judge(
        [make_case(), make_case(problem="another")]
    )
    next(verdicts)
    verdicts.close()
    (stored,) = tmp_path.glob("replies*.jsonl")
    kept = len(stored.read_text().splitlines())
    assert 4 <= kept <= len(first.requests) < 8
    second = RuleChat(critiques)
    judge = VotingJudge(generative(second, store=tmp_path), 4, "majority")  # another rule needs no other replies
    assert wrong_steps(judge, make_case(), make_case(problem="another")) == [{3, 4}, {3, 4}]
    counts = judge.metrics()
    assert (counts["requests"], counts["requests_stored"]) == (len(second.requests), kept) == (8 - kept, kept)
    third = RuleChat(critiques)
    assert wrong_steps(VotingJudge(generative(third, store=tmp_path), 4)) == [{3}]
    assert third.requests == []


def test_votes_over_a_real_endpoint(tmp_path):
    """One critique in four comes after a fault of the server, one cannot be read."""
    asked: Counter[int] = Counter()

    def behave(body: dict[str, Any], number: int) -> bad.Behaviour:
        seed = body["seed"]
        asked[seed] += 1
        if seed == 0 and asked[seed] == 1:
            return bad.server_error()
        prompt = body["messages"][0]["content"]
        request = ChatRequest(prompt, "", seed=seed)
        return bad.ok("nothing" if seed % 1000 == 3 else critiques("labelling", request))

    with bad.MisbehavingServer(behave) as server:
        judge = VotingJudge(generative(OpenAIChat("judge", server.base_url), store=tmp_path), 4, "intersection")
        assert wrong_steps(judge) == [{3}]
    counts = judge.metrics()
    assert (counts["votes"], counts["votes_abstained"], counts["retries"]) == (4, 1, 1)
