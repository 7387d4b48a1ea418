"""Training rows of the tiny judge: chains, questions about them, and the replies that follow from the exact labels.

One row has a chain once and all questions about it as *branches*: each attends to the shared text and to itself, and its
positions continue from the end of the shared text, so it is equivalent to a prompt with this question only
(``pad_branch_rows`` builds the mask). The loss is on the replies and, with a lower weight, on the shared text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import Task
from lit_tpgrpo.datamodules.arithmetic.tokenizer import ASSISTANT, USER
from lit_tpgrpo.datamodules.arithmetic.training_data import IGNORED
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, StepTruth
from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution
from lit_tpgrpo.judges.generative.prompts import PromptSet, Question
from lit_tpgrpo.judges.generative.verdicts import (
    JudgementsVerdict,
    MatchingVerdict,
    ReflectionSource,
    ReflectionsVerdict,
    SegmentationVerdict,
    SourcesVerdict,
    StepJudgement,
    StepVerdict,
    VerdictModel,
)
from lit_tpgrpo.records import StepLabel

REFLECTION_KINDS = (Kind.CHECK, Kind.CORRECTION)


@dataclass(frozen=True)
class Exchange:
    """A question and its target reply."""

    question: Question
    variables: Mapping[str, Any]
    verdict: VerdictModel


def source_intervals(steps: Sequence[StepTruth], number: int) -> list[list[int]]:
    """Return what reflection ``number`` (from 1) shows to be wrong: from the denied paragraph up to it, if that is wrong."""
    denied = steps[number - 1].denied
    if denied is None or steps[denied].label is not StepLabel.INCORRECT:
        return []
    return [[denied + 1, number - 1]]


def suspect_steps(sources: Sequence[ReflectionSource]) -> list[int]:
    """Return the steps to verify: all that lie in an interval. In this domain every paragraph is a step."""
    return sorted({n for s in sources for first, last in s.intervals for n in range(first, last + 1)})


def _judgements(id: str, asked: Sequence[int], wrong: Sequence[bool]) -> JudgementsVerdict:
    judgements = [StepJudgement(step=n, wrong=w) for n, w in zip(asked, wrong, strict=True)]
    return JudgementsVerdict(id=id, judgements=judgements)


def stage_exchanges(numbered: NumberedSolution, truth: ChainTruth, ids: Sequence[str]) -> list[Exchange]:
    """Return the questions of the paper's protocol for a solution; ``ids`` has one for each of at most three questions."""
    think = truth.steps[:-1]
    last = len(think)
    if not truth.correct:
        matched = [n for n, step in enumerate(think, 1) if step.label is StepLabel.MATCHED]
        return [Exchange(Question.MATCHING, {"first": 1, "last": last}, MatchingVerdict(id=ids[0], matched=matched))]
    numbers = [n for n, step in enumerate(think, 1) if step.kind in REFLECTION_KINDS]
    verdict = ReflectionsVerdict(id=ids[0], reflections=numbers)
    exchanges = [Exchange(Question.REFLECTIONS, {"first": 1, "last": last}, verdict)]
    if numbers:
        sources = [ReflectionSource(reflection=n, intervals=source_intervals(think, n)) for n in numbers]
        shown = [(n, numbered.texts[n - 1]) for n in numbers]
        exchanges.append(Exchange(Question.SOURCES, {"reflections": shown}, SourcesVerdict(id=ids[1], sources=sources)))
        if asked := suspect_steps(sources):
            wrong = [think[n - 1].label is StepLabel.INCORRECT for n in asked]
            exchanges.append(Exchange(Question.VERIFICATION, {"asked": asked}, _judgements(ids[2], asked, wrong)))
    return exchanges


def segmentation_exchange(truth: ChainTruth, id: str) -> Exchange:
    last = len(truth.steps) - 1
    verdict = SegmentationVerdict(id=id, steps=[[n, n] for n in range(1, last + 1)])
    return Exchange(Question.SEGMENTATION, {"first": 1, "last": last}, verdict)


def labelling_exchange(truth: ChainTruth, id: str) -> Exchange:
    asked = list(range(1, len(truth.steps)))
    verdict = _judgements(id, asked, [not step.right for step in truth.steps[:-1]])
    return Exchange(Question.LABELLING, {"asked": asked, "correct": truth.correct}, verdict)


def step_exchange(truth: ChainTruth, number: int, id: str) -> Exchange:
    variables = {"step": number, "last": number, "correct": truth.correct}
    return Exchange(Question.STEP, variables, StepVerdict(id=id, wrong=not truth.steps[number - 1].right))


@dataclass(frozen=True, slots=True)
class ExchangeMix:
    """Frequencies of the optional questions about a chain; the questions of ``stage_exchanges`` are always included."""

    segmentation: float = 0.1
    labelling: float = 0.25
    steps: int = 2
    """Number of questions about a single step; half of the steps are drawn from the wrong ones, if there are any."""


def training_exchanges(
    numbered: NumberedSolution, truth: ChainTruth, mix: ExchangeMix, rng: random.Random
) -> list[Exchange]:
    """Draw the questions of one training row."""

    def new_id() -> str:
        return f"{rng.randrange(16**4):04x}"

    exchanges = stage_exchanges(numbered, truth, [new_id() for _ in range(3)])
    if rng.random() < mix.segmentation:
        exchanges.append(segmentation_exchange(truth, new_id()))
    if rng.random() < mix.labelling:
        exchanges.append(labelling_exchange(truth, new_id()))
    all_steps = range(1, len(truth.steps))
    wrong = [n for n in all_steps if not truth.steps[n - 1].right]
    for _ in range(mix.steps):
        numbers = wrong if wrong and rng.random() < 0.5 else all_steps
        exchanges.append(step_exchange(truth, rng.choice(numbers), new_id()))
    return exchanges


@dataclass(frozen=True, slots=True)
class Branch:
    """Token ids of a question and its reply; the loss is on those from index ``reply`` on."""

    question: Question
    ids: list[int]
    reply: int


MARKS = (2, 2, 2, 2, 64, 64, 64, 64)
"""Number of classes of each mark of a paragraph (see ``paragraph_marks``)."""
_EQUATION = re.compile(r"(?<!\d)\d+[-+*]\d+=\d+")


def paragraph_marks(numbered: NumberedSolution, truth: ChainTruth) -> list[tuple[int, ...]]:
    """Return auxiliary targets ("marks") for the end of each think paragraph, as class indices in the order of ``MARKS``.

    They are: whether it is a reflection, is right, asserts an equation of the answer block, and asserts a true table
    entry; then its number, the numbers of the last reflection and of the last restated paragraph before it, and the
    number of the paragraph which it shows to be wrong (0 if none).
    """
    restated, modulus = set(_EQUATION.findall(numbered.answer)), Task.from_prompt(numbered.case.problem.prompt).modulus
    marks, reflection, restating = [], 0, 0
    for number, step in enumerate(truth.steps[:-1], 1):
        claim = step.claim
        known = claim is None or claim.operation(claim.left, modulus) == claim.result
        source = 0 if step.denied is None or truth.steps[step.denied].right else step.denied + 1
        flags = step.kind in REFLECTION_KINDS, step.right, str(claim) in restated, known
        marks.append((*map(int, flags), *(min(n, 63) for n in (number, reflection, restating, source))))
        reflection, restating = number if flags[0] else reflection, number if flags[2] else restating
    return marks


@dataclass(frozen=True, slots=True)
class BranchRow:
    """Token ids of the shared text, the branches after it, and the marks of paragraphs by position of their last token."""

    shared: list[int]
    branches: tuple[Branch, ...]
    marks: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.shared) + sum(len(branch.ids) for branch in self.branches)


def render_exchange(prompts: PromptSet, numbered: NumberedSolution, exchange: Exchange) -> tuple[str, str, str]:
    """Render shared text, question and reply in the chat format; the first two together are the full prompt.

    The shared text ends with a line feed after a sentence and the question begins with a letter: no token of Qwen2's
    pre-tokenizer spans the two, so they can be tokenized separately.

    Raises:
        ValueError: the prompt does not have this form.
    """
    shared = prompts.shared(numbered, 1, len(numbered.paragraphs))
    # The id is stored in the verdict only.
    question = prompts.question(exchange.question, exchange.verdict.id, **exchange.variables)
    if not shared.endswith(".\n") or not question[0].isalpha():
        raise ValueError(f"the prompt cannot be cut between {shared[-10:]!r} and {question[:10]!r}")
    return USER + shared, question + ASSISTANT, exchange.verdict.model_dump_json()


def branch_row(
    prompts: PromptSet,
    numbered: NumberedSolution,
    truth: ChainTruth,
    exchanges: Sequence[Exchange],
    tokenizer: PreTrainedTokenizerBase,
) -> BranchRow:
    """Tokenize all exchanges about one solution into a row."""
    texts = [render_exchange(prompts, numbered, exchange) for exchange in exchanges]
    flat = [texts[0][0], *(part for _, question, reply in texts for part in (question, reply))]
    shared, *parts = cast(list[list[int]], tokenizer(flat, add_special_tokens=False)["input_ids"])
    end = [cast(int, tokenizer.eos_token_id)]
    branches = (
        Branch(exchange.question, parts[2 * i] + parts[2 * i + 1] + end, len(parts[2 * i]))
        for i, exchange in enumerate(exchanges)
    )
    # The problem, the answer and each paragraph are one line each.
    ends = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(shared)) if token.endswith("Ċ")][2:]
    return BranchRow(shared, tuple(branches), dict(zip(ends, paragraph_marks(numbered, truth), strict=True)))


@dataclass(frozen=True, slots=True)
class BranchBatch:
    """Right-padded rows.

    ``targets`` is the next token of the shared text or a reply, or IGNORED; ``kinds`` is 0 in the shared text and the
    index in ``Question``, from 1, in a question. ``ends`` indexes the last tokens of paragraphs, whose marks are ``marks``.
    """

    input_ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    kinds: Tensor
    ends: tuple[Tensor, Tensor]
    marks: Tensor


def pad_branch_rows(rows: Sequence[BranchRow], pad: int) -> BranchBatch:
    """Pad rows to tensors. The mask is ``(rows, 1, query, key)``, True where the query attends to the key."""
    size = (len(rows), max(map(len, rows)))
    input_ids, targets = torch.full(size, pad), torch.full(size, IGNORED)
    positions, kinds = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
    owner = torch.full(size, -1)  # 0: shared text, from 1: branches, -1: padding (attends to shared text and itself)
    for i, row in enumerate(rows):
        at = len(row.shared)
        input_ids[i, :at], positions[i, :at], owner[i, :at] = torch.tensor(row.shared), torch.arange(at), 0
        targets[i, : at - 1] = torch.tensor(row.shared[1:])
        for number, branch in enumerate(row.branches, 1):
            ids, end = torch.tensor(branch.ids), at + len(branch.ids)
            input_ids[i, at:end], owner[i, at:end] = ids, number
            positions[i, at:end] = torch.arange(len(ids)) + len(row.shared)
            targets[i, at + branch.reply - 1 : end - 1] = ids[branch.reply :]
            kinds[i, at:end] = 1 + list(Question).index(branch.question)
            at = end
    same = owner[:, None, :] == owner[:, :, None]
    mask = torch.ones(size[1], size[1], dtype=torch.bool).tril() & (same | (owner[:, None, :] == 0))
    marks = torch.tensor([(i, at, *marks) for i, row in enumerate(rows) for at, marks in row.marks.items()])
    ends = marks[:, 0], marks[:, 1]
    return BranchBatch(input_ids, positions, mask[:, None], targets, kinds, ends, marks[:, 2:])
