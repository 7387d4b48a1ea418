"""Preferences and grades as evidence of a round: each group once, stored when it is complete, resumed after a crash."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from lit_tpgrpo.chat.base import ChatError, Fault
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.credit import GradeCredit, ThinkRMCredit
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Preferences, SolutionGrade
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.evidence import EvidenceProvider, LabelScores, PairwisePreferences, PrinciplesGrades
from lit_tpgrpo.judges.generative.limits import RequestLimits
from lit_tpgrpo.judges.grading import PairwiseComparison, PrinciplesGrader
from lit_tpgrpo.rollout.evidence import add_evidence, uses_engine
from lit_tpgrpo.rollout.round_file import RoundFile
from tests.credit.credit_cases import correct, group, incorrect, undecided
from tests.engines import misbehaving_server as bad
from tests.judges.generative.chains import RuleChat, asked_id

QUICK = RequestLimits(concurrency=1, backoff_s=0.0, patience_s=0.0, attempts=1)


class Crash(RuntimeError): ...


class Tools:
    """The evidence file of a round; ``left`` more groups are stored before a crash."""

    def __init__(self, folder: Path, left: int = 99) -> None:
        self.file, self.left = RoundFile(folder), left

    def key(self, *content: object) -> str:
        return repr(content)

    def stored(self, keys):
        return self.file.evidence(keys)

    def store(self, values) -> None:
        if not self.left:
            raise Crash
        self.left -= 1
        self.file.add_evidence(values)


def answer(name: str, prompt: str) -> str:
    """The text with more x is better, and its grade is their number."""
    sizes = [len(line) for line in prompt.splitlines() if line and set(line) == {"x"}]
    reply: dict[str, Any] = {"id": asked_id(prompt)}
    if name == "comparison":
        first, second = sizes
        reply["preference"] = (first > second) - (first < second)
    else:
        reply |= {"principles": [{"principle": "length", "weight": 1}], "critiques": ["long"] * len(sizes)}
        reply["grades"] = sizes
    return json.dumps(reply)


def chat() -> RuleChat:
    return RuleChat(lambda name, request: answer(name, request.content))


def preferences(engine, **settings) -> PairwisePreferences:
    return PairwisePreferences(PairwiseComparison(engine, **({"store": None, "limits": QUICK} | settings)))


def grades(engine, **settings) -> PrinciplesGrades:
    return PrinciplesGrades(PrinciplesGrader(engine, 1, **({"store": None, "limits": QUICK} | settings)))


def judged_groups() -> dict[int, Any]:
    """Texts of 4, 6 and 2 x, of 2 and 4, and the second group's problem and texts once more; one solution is undecided."""
    three, two = (correct("CC"), correct("CCC"), undecided("AAAA"), incorrect("M")), (correct("C"), incorrect("UM"))
    rows = {0: three, 3: two, 5: two}
    return {
        g: group(
            *(
                dataclasses.replace(s, solution=dataclasses.replace(s.solution, sample=k))
                for k, s in enumerate(solutions)
            )
        )
        for g, solutions in rows.items()
    }


def provided(provider: EvidenceProvider, tools: Tools):
    """The evidence of each solution by group."""
    groups = add_evidence([provider], judged_groups(), tools)  # pyright: ignore[reportArgumentType]
    return {g: [s.evidence for s in one.solutions] for g, one in groups.items()}


KINDS = pytest.mark.parametrize(
    ("make", "expected", "requests"),
    [
        (
            preferences,
            {
                0: [
                    (Preferences((0, 1, 3), (0.0, -1.0, 1.0)),),
                    (Preferences((0, 1, 3), (1.0, 0.0, 1.0)),),
                    (),
                    (Preferences((0, 1, 3), (-1.0, -1.0, 0.0)),),
                ],
                3: [(Preferences((0, 1), (0.0, -1.0)),), (Preferences((0, 1), (1.0, 0.0)),)],
            },
            [6, 2],  # both orders of 3 pairs and of 1
        ),
        (
            grades,
            {
                0: [(SolutionGrade(4, 1, 10),), (SolutionGrade(6, 1, 10),), (), (SolutionGrade(2, 1, 10),)],
                3: [(SolutionGrade(2, 1, 10),), (SolutionGrade(4, 1, 10),)],
            },
            [1, 1],
        ),
    ],
    ids=["preferences", "grades"],
)


@KINDS
def test_each_group_is_asked_about_once_and_resumed_after_a_crash(tmp_path, make, expected, requests):
    expected = expected | {5: expected[3]}
    first = chat()
    with pytest.raises(Crash):
        provided(make(first), Tools(tmp_path, left=1))
    assert len(first.requests) >= requests[0]
    assert first.open == 0  # the requests in flight are cancelled, and the session is closed
    second = chat()
    assert provided(make(second), Tools(tmp_path)) == expected
    assert len(second.requests) == requests[1]
    third = chat()
    assert provided(make(third), Tools(tmp_path)) == expected
    assert third.requests == []
    other = chat()
    provided(make(other, max_shown_chars=2000), Tools(tmp_path))
    assert len(other.requests) == sum(requests)  # other settings, other values


@KINDS
@pytest.mark.parametrize("damaged", [None, [], 3, [[0.0, "x"], None], [1.0, 11.0], [None]])
def test_what_cannot_be_read_is_asked_for_again(tmp_path, make, expected, requests, damaged, caplog):
    tools = Tools(tmp_path)
    provided(make(chat()), tools)
    (path,) = tmp_path.glob("evidence.*.jsonl")
    key = next(reversed(json.loads(path.read_text().splitlines()[-1])["values"]))
    tools.store({key: damaged})
    again = chat()
    assert provided(make(again), tools) == expected | {5: expected[3]}
    assert len(again.requests) == requests[1]
    assert "1 stored groups cannot be read; they are asked for again" in caplog.text


def test_counters_can_be_added_up_over_ranks(tmp_path):
    one = preferences(chat(), price_in=1e6)
    provided(one, Tools(tmp_path))
    counts = one.metrics()
    assert counts["comparison_pairs"] == counts["comparison_pairs_swapped"] == 4
    assert counts["comparison_pairs_consistent"] == 4
    assert counts["requests"] == 8
    assert counts["cost"] == counts["tokens_prompt"] > 0
    assert not any("share" in name or "latency" in name or "per_case" in name for name in counts)
    assert set(one.metrics().values()) == {0.0}


def silent(words: int):
    """A chat that gives no readable reply about texts with this number of x."""

    def reply(name: str, request) -> str:
        return "no" if "x" * words in request.content.splitlines() else answer(name, request.content)

    return RuleChat(reply)


def test_a_solution_that_could_not_be_compared_has_no_preferences(tmp_path):
    found = provided(preferences(silent(6)), Tools(tmp_path))
    assert found[0] == [
        (Preferences((0, 1, 3), (0.0, 0.0, 1.0)),),
        (),
        (),
        (Preferences((0, 1, 3), (-1.0, 0.0, 0.0)),),
    ]
    assert found[3] == [(Preferences((0, 1), (0.0, -1.0)),), (Preferences((0, 1), (1.0, 0.0)),)]
    # Stored as it is: a round that is partly trained on does not change when the run is resumed.
    later = chat()
    assert provided(preferences(later), Tools(tmp_path)) == found
    assert later.requests == []


@pytest.mark.parametrize("make", [preferences, grades])
def test_a_judge_that_is_down_gives_nothing(tmp_path, make):
    def down(name: str, request) -> str:
        raise ChatError(Fault.CONNECTION, "refused")

    found = provided(make(RuleChat(down)), Tools(tmp_path))
    assert found == {0: [(), (), (), ()], 3: [(), ()], 5: [(), ()]}


def test_over_a_real_endpoint_to_credit(tmp_path):
    """Lengths 4, 6, 2: d = [[0,-1,1],[1,0,1],[-1,-1,0]], sums 0, 2, -2: 2/3 / sqrt(6 / 12) = .9428."""

    def behave(body: dict[str, Any], number: int) -> bad.Behaviour:
        if "response_format" not in body:
            return bad.ok("OK")
        name = body["response_format"]["json_schema"]["name"]
        return bad.ok(answer(name, body["messages"][0]["content"]))

    with bad.MisbehavingServer(behave) as server:
        provider = preferences(OpenAIChat("judge", server.base_url), store=tmp_path / "replies")
        provider.check_writable()
        groups = add_evidence([provider], judged_groups(), Tools(tmp_path))  # pyright: ignore[reportArgumentType]
        provider.close()
    credited = ThinkRMCredit()(groups[0])
    assert [c.outcome_advantage for c in credited] == pytest.approx([0.0, 0.9428, 0.0, -0.9428], abs=1e-4)
    assert list((tmp_path / "replies").glob("*.jsonl"))


class Policy(RuleChat):
    """A chat whose model is the policy in training."""

    needs_policy = True

    def share_engine(self, engine) -> None: ...

    def refresh(self, policy) -> bool:
        return False


@pytest.mark.parametrize("make", [preferences, grades])
def test_a_policy_that_would_judge_itself_is_refused(make):
    with pytest.raises(ConfigError, match="must not be the policy in training; name another model"):
        make(Policy())


def test_the_credit_names_its_provider_and_costs_no_weights():
    for credit, provider in ((ThinkRMCredit(), preferences(chat())), (GradeCredit(), grades(chat()))):
        with pytest.raises(ConfigError, match=f"add --data.evidence lit_tpgrpo.{type(provider).__name__}"):
            checked_evidence(None, credit)
        assert checked_evidence(provider, credit) == (provider,)
        assert not uses_engine([provider])
        (inner,) = settings_of(provider).keys() - {"class"}
        assert settings_of(provider)[inner]["prompts"]


def test_a_data_module_checks_and_closes_its_providers(tmp_path):
    calls = []

    class Noting(LabelScores):
        def check_writable(self) -> None:
            calls.append("check_writable")

        def close(self) -> None:
            calls.append("close")

    data = MathRolloutDataModule(evidence=[Noting()], store_dir=tmp_path / "rounds")
    data.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    data.prepare_data()
    data.setup("predict")
    assert calls == ["check_writable"]
    data.teardown("predict")
    assert calls == ["check_writable", "close"]
