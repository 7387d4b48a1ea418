"""A round in each solution format: what the verifier gets, what the judge sees, and what the store depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.evaluation.sampling import evaluate_problems
from lit_tpgrpo.judges.generative.numbered_solution import number_solution
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Outcome, Problem, StepLabel, StopReason
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import Assignment, RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.text.formats import Harmony, PlainChain, SolutionFormat, ThinkTags
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.rollout.scripted_engine import Scripted

THINKING = "We add.\n\n3 + 4 = 8.\n\nWait, 3 + 4 = 8 is wrong. It should be 3 + 4 = 7.\n\n"
FORMATS: dict[str, tuple[SolutionFormat, str, str]] = {
    "think tags": (ThinkTags(), f"<think>\n{THINKING}</think>\n\n", ""),
    "magistral": (ThinkTags("[THINK]", "[/THINK]"), f"[THINK]{THINKING}[/THINK]", ""),
    "answer tags": (
        ThinkTags("<reasoning>", "</reasoning>", (), "<answer>", "</answer>"),
        f"<reasoning>\n{THINKING}</reasoning>\n<answer>",
        "</answer>",
    ),
    "plain": (PlainChain(), THINKING, ""),
    "harmony": (
        Harmony(),
        f"<|channel|>analysis<|message|>{THINKING}<|end|><|start|>assistant<|channel|>final<|message|>",
        "",
    ),
}


class Reading(MathVerifier):
    """Notes the blocks that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def extract(self, text: str) -> str | None:
        self.read.append(text)
        return super().extract(text)


class Seeing(RuleJudge):
    """Notes the answer blocks of its cases, and the answers that a generative judge would show."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str | None] = []
        self.shown: list[str | None] = []

    def judge(self, cases):
        for case in cases:
            numbered = number_solution(case)
            self.blocks.append(case.answer_block())
            self.shown.append(None if numbered is None else numbered.answer)
        return super().judge(cases)


@pytest.fixture(scope="module")
def tokenizer():
    loaded = load_tokenizer("embedded:tiny-qwen2")
    loaded.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", *Harmony().tags()]})  # pyright: ignore
    return loaded


@pytest.mark.parametrize("name", FORMATS)
def test_a_round(name: str, tokenizer, tmp_path: Path):
    format, before, after = FORMATS[name]
    texts = [f"{before}So 3 + 4 = 7, \\boxed{{{n}}}.{after}" for n in (7, 8)] + [before.removesuffix("<answer>")[:40]]
    verifier, judge = Reading(), Seeing()
    maker = RoundMaker(
        Scripted(tokenizer, texts),  # pyright: ignore[reportArgumentType]
        verifier,
        judge,
        ThoughtCredit(),
        keep_all,
        tokenizer,
        SamplingParams(max_new_tokens=512),
        3,
        RolloutPrompt("{problem}"),
        show_progress=False,
        format=format,
    )
    problem = Problem("p", "What is 3 + 4?", "7", "arithmetic")
    file = RoundStore(tmp_path).open(0, {"group_size": 3}, maker.judging_settings())
    round_, tally = maker.make(0, [Assignment(0, problem, 0)], file, GroupAccuracy(), policy_version=0)
    blocks = ["So 3 + 4 = 7, \\boxed{7}.", "So 3 + 4 = 7, \\boxed{8}."]
    assert [block.strip() for block in verifier.read] == blocks  # without tags; the third has no answer block
    assert [None if block is None else block.strip() for block in judge.blocks] == [*blocks, None]
    assert judge.shown == [*blocks, None]
    right, wrong, cut = round_.groups[0].solutions
    assert [s.outcome for s in (right, wrong, cut)] == [Outcome.CORRECT, Outcome.INCORRECT, Outcome.INCORRECT]
    assert (right.answer, wrong.answer, cut.answer) == ("7", "8", None)
    assert cut.verdict.abstained
    assert tally.metrics()["rollout/no_answer_block_share"] == pytest.approx(1 / 3)
    # "3 + 4 = 8." is taken back by the next step.
    steps = [right.solution.text[s.start : s.end] for s in right.verdict.steps]
    assert steps[1:3] == ["3 + 4 = 8.\n\n", "Wait, 3 + 4 = 8 is wrong. It should be 3 + 4 = 7.\n\n"]
    good, bad = StepLabel.CORRECT, StepLabel.INCORRECT
    assert right.verdict.labels == (good, bad, good, good)
    assert [s.is_answer for s in right.verdict.steps] == [False, False, False, True]
    # Every token is in one step, also the tags that the tokenizer calls special.
    assert "".join(steps) == right.solution.text == texts[0]
    spans = [(s.token_start, s.token_end) for s in right.verdict.steps]
    assert spans[0][0] == 0
    assert [a for a, _ in spans[1:]] == [b for _, b in spans[:-1]]
    assert spans[-1][1] == len(right.solution.completion_ids)


class Stopped(Scripted):
    """Samples that a stop string ended."""

    def _completion(self, text: str) -> Completion:
        ids = tuple(self.tokenizer(text)["input_ids"])
        return Completion(ids, (-0.5,) * len(ids), StopReason.STOP_STRING)


def test_a_stop_string_is_in_no_answer_block(tokenizer, tmp_path: Path):
    verifier, judge, params = Reading(), Seeing(), SamplingParams(stop=("\n\nProblem:", "\n\nQuestion:"))
    texts = ["We add.\n\nIt is \\boxed{7}.\n\nQuestion:", "\n\nQuestion:"]
    engine, problem, format = Stopped(tokenizer, texts), Problem("p", "What is 3 + 4?", "7"), PlainChain(("last",))
    template, parts = RolloutPrompt("{problem}"), (judge, ThoughtCredit(), keep_all, tokenizer)
    maker = RoundMaker(engine, verifier, *parts, params, 2, template, show_progress=False, format=format)  # pyright: ignore
    file = RoundStore(tmp_path).open(0, {"group_size": 2}, maker.judging_settings())
    round_, _ = maker.make(0, [Assignment(0, problem, 0)], file, GroupAccuracy(), policy_version=0)
    right, empty = round_.groups[0].solutions
    assert (right.outcome, right.answer, empty.answer) == (Outcome.CORRECT, "7", None)
    assert judge.blocks == judge.shown == ["It is \\boxed{7}.", None]
    assert verifier.read == ["It is \\boxed{7}."]
    assert [(s.start, s.end, s.is_answer) for s in right.verdict.steps] == [(0, 9, False), (9, len(texts[0]), True)]
    evaluated = evaluate_problems(maker, [problem], [0], 2, params, policy_version=0)
    assert [group.answers for _, group in evaluated] == [("7", None)]


def test_verdicts_of_another_format_are_not_reused(tokenizer):
    makers = [
        RoundMaker(
            Scripted(tokenizer, []),  # pyright: ignore[reportArgumentType]
            MathVerifier(),
            RuleJudge(),
            ThoughtCredit(),
            keep_all,
            tokenizer,
            SamplingParams(),
            2,
            RolloutPrompt("{problem}"),
            format=format,
        )
        for format in (ThinkTags(), ThinkTags(), PlainChain(), PlainChain(("box",)))
    ]
    judging = [maker.judging_settings() for maker in makers]
    assert judging[0] == judging[1]
    assert judging[1] != judging[2] != judging[3]
    sampling = [maker.sampling_settings([], 0, "", 0) for maker in makers]
    assert sampling[0] != sampling[2] == sampling[3]  # the same text only if the same tags are kept
