"""The chat client that stands in for a good judge of the embedded domain."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from lit_tpgrpo.chat import ChatError, ChatRequest
from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.problems import Task, make_problems
from lit_tpgrpo.datamodules.arithmetic.truth_chat import TruthChat, grade
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.grading.comparison import PairwiseComparison
from lit_tpgrpo.judges.grading.principles import PrinciplesGrader
from lit_tpgrpo.judges.grading.questions import SolutionGroup

PROBLEM = make_problems("3", 1, seed=0, split="train")[0]
TASK = Task.from_prompt(PROBLEM.prompt)


def written(noise: NoiseRates, correct: bool, flawed: bool) -> str:
    """A solution with this outcome, and with or without a wrong step."""
    for seed in range(2000):
        chain = write_chain(TASK, noise, random.Random(seed))
        if chain.correct is correct and (not all(p.right for p in chain.paragraphs)) is flawed:
            return chain.text
    raise AssertionError("no such chain")


RIGHT = written(NO_NOISE, correct=True, flawed=False)
CORRECTED = written(NoiseRates(error=0.4), correct=True, flawed=True)
WRONG = written(NoiseRates(error=0.4), correct=False, flawed=True)
TEXTS = (WRONG, RIGHT, "I cannot say.", CORRECTED)


def test_grades_are_ordered_by_outcome_and_then_by_true_steps():
    wrong, right, unreadable, corrected = (grade(PROBLEM.prompt, text) for text in TEXTS)
    assert (right, unreadable) == (10, 1)
    assert 1 <= wrong <= 5 < corrected < right


def test_the_grader_gets_those_grades_through_its_prompts():
    grader = PrinciplesGrader(chat=TruthChat(), store=None, samples=2)
    ((_, grades),) = grader.grade([SolutionGroup(PROBLEM, TEXTS)])
    assert grades.means == tuple(float(grade(PROBLEM.prompt, text)) for text in TEXTS)


def test_the_comparison_prefers_the_better_solution_in_both_orders():
    comparison = PairwiseComparison(chat=TruthChat(), store=None)
    ((_, matrix),) = comparison.compare([SolutionGroup(PROBLEM, (WRONG, RIGHT, RIGHT))])
    assert matrix.values == ((0, -1, -1), (1, 0, 0), (1, 0, 0))


def test_a_question_about_something_else_is_refused_with_a_line():
    async def asked() -> None:
        await TruthChat().complete(ChatRequest("hello", "who are you?"))

    with pytest.raises(ChatError, match="expected a question about a group of solutions, got 'hello"):
        asyncio.run(asked())


def test_a_problem_of_another_domain_ends_the_judging():
    """All solutions had the lowest grade: no group taught, and nothing said why."""
    grader = PrinciplesGrader(chat=TruthChat(), store=None)
    other = replace(PROBLEM, prompt="What is 2 + 2?")
    with pytest.raises(ConfigError, match=r"'What is 2 \+ 2\?'. Give an LLM .*configs/judge/comparisons.yaml"):
        list(grader.grade([SolutionGroup(other, TEXTS)]))
