"""Exact step scores of chains of the embedded domain: the state after each step, without the gold answer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic import phrases
from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.problems import Operation, Task
from lit_tpgrpo.datamodules.arithmetic.step_scores import ArithmeticStepScores
from lit_tpgrpo.errors import ConfigError

TASK = Task(10, 3, (Operation("+", 4), Operation("*", 3)))
PROMPT = f"<|user|>{TASK.prompt}<|assistant|><think>\n"
OPENING = "Okay, I start with 3 and work modulo 10.\n\n"


def scores(*steps: str) -> list[float]:
    ((found),) = ArithmeticStepScores().scores([(PROMPT, steps)])
    return list(found)


def test_a_chain_by_hand():
    """3 + 4 = 7, 7 * 3 = 1; an error, a step on top of it, its correction, which retracts both."""
    assert scores(OPENING, "First, 3+4=8.\n\n", "Next, 8*3=4.\n\n") == [1, 0, 0]
    correction = phrases.CORRECTIONS[0].format(denied="3+4=8", claim="3+4=7") + "\n\n"
    answer = phrases.ANSWERS[0].format(claims="7*3=1, 3+4=7", answer=1)
    steps = (OPENING, "First, 3+4=8.\n\n", correction, "Next, 7*3=1.\n</think>\n\n", answer)
    assert scores(*steps) == [1, 0, 1, 1, 1]
    wrong = phrases.ANSWERS[0].format(claims="7*3=1, 3+4=7", answer=2)
    assert scores(*steps[:-1], wrong) == [1, 0, 1, 1, 0]


def test_a_chain_that_ends_early_or_cannot_be_read():
    assert scores(OPENING, "First, 3+4=7.\n</think>\n\n") == [1, 0]
    assert scores(OPENING, "No idea.\n\n", "First, 3+4=7.\n\n") == [1, 0, 0]
    assert scores() == []


@given(st.integers(0, 10_000))
def test_of_written_chains(seed):
    """The last score is 1 exactly if the answer block is right; without noise all scores are 1."""
    rng = random.Random(seed)
    for noise in (NO_NOISE, NoiseRates()):
        chain = write_chain(TASK, noise, rng)
        pieces = chain.text.split("\n\n")
        given = scores(*(piece + "\n\n" for piece in pieces[:-1]), pieces[-1])
        assert bool(given[-1]) is chain.paragraphs[-1].right
        assert noise is not NO_NOISE or set(given) == {1.0}


def test_errors_are_those_of_the_seed():
    steps = (OPENING, "First, 3+4=7.\n\n")
    cases = [(PROMPT, steps)]
    assert ArithmeticStepScores(1.0).scores(cases) == [[0.0, 0.0]]
    flipped = {tuple(ArithmeticStepScores(0.5, seed).scores(cases)[0]) for seed in range(20)}
    assert len(flipped) == 4
    assert ArithmeticStepScores(0.5, 3).scores(cases) == ArithmeticStepScores(0.5, 3).scores(cases)
    # The same text has other errors in another problem.
    other = PROMPT.replace("start with 3", "start with 4")
    assert other != PROMPT
    text = (OPENING, *["No idea.\n\n"] * 60)
    here, there = (ArithmeticStepScores(0.5, 3).scores([(prompt, text)])[0][1:] for prompt in (PROMPT, other))
    assert here != there
    # A step keeps its score when the chain grows.
    assert (
        ArithmeticStepScores(0.5, 3).scores([(PROMPT, steps[:1])])[0]
        == ArithmeticStepScores(0.5, 3).scores(cases)[0][:1]
    )


def test_other_problems_and_settings_are_refused():
    with pytest.raises(ConfigError, match="expected a problem of the embedded domain"):
        ArithmeticStepScores().scores([("What is 2 + 2?", ())])
    with pytest.raises(ConfigError, match="error must be in"):
        ArithmeticStepScores(1.5)
