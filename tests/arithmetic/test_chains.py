"""The writer of noisy chains: form, rates, and bookkeeping that is checked by a plain recomputation."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, Operation, Task, draw_task
from lit_tpgrpo.records import StepLabel

TASK = Task(10, 3, (Operation("+", 5), Operation("*", 7), Operation("-", 9)))

levels = st.sampled_from(sorted(LEVELS))


def test_a_chain_without_noise_reads_as_it_should():
    chain = write_chain(TASK, NO_NOISE, random.Random(0))
    assert [p.kind for p in chain.paragraphs] == [Kind.OPENING, Kind.STEP, Kind.STEP, Kind.STEP, Kind.ANSWER]
    assert "modulo 10" in chain.paragraphs[0].text
    assert [str(e) for e in chain.restated] == ["3+5=8", "8*7=6", "6-9=7"]
    think, answer = chain.text.split("\n</think>\n\n")
    assert think.count("\n\n") == 3
    assert "6-9=7, 8*7=6, 3+5=8" in answer  # the last one first
    assert answer.endswith("\\boxed{7}.")
    assert chain.correct
    assert set(chain.labels) == {StepLabel.CORRECT}


def test_errors_that_are_never_noticed_are_adopted():
    noise = NoiseRates(error=1, error_multiply=1, notice_now=0, notice_late=0, check=0, filler=0, omitted=0)
    for seed in range(30):
        chain = write_chain(TASK, noise, random.Random(seed))
        assert not any(p.right for p in chain.paragraphs if p.kind is Kind.STEP)
        if not chain.correct:  # three errors may cancel
            assert chain.labels == (StepLabel.UNMATCHED, *[StepLabel.MATCHED] * 4)


def test_errors_noticed_at_once_are_corrected_before_anything_builds_on_them():
    noise = NoiseRates(error=1, error_multiply=1, notice_now=1, botched=0, check=0, filler=0, omitted=0)
    chain = write_chain(TASK, noise, random.Random(0))
    expected = [Kind.OPENING, *[Kind.STEP, Kind.CORRECTION] * 3, Kind.ANSWER]
    assert [p.kind for p in chain.paragraphs] == expected
    assert chain.correct
    assert chain.has_corrected_error
    wrong_then_right = [StepLabel.INCORRECT, StepLabel.CORRECT] * 3
    assert chain.labels == (StepLabel.CORRECT, *wrong_then_right, StepLabel.CORRECT)


def test_a_late_correction_has_its_dependants_redone():
    noise = NoiseRates(
        error=0.5,
        error_multiply=0.5,
        notice_now=0,
        notice_late=1,
        botched=0,
        check=0,
        filler=0,
        omitted=0,
        false_alarm=0,
    )
    seen = 0
    for seed in range(200):
        chain = write_chain(TASK, noise, random.Random(seed))
        kinds = [p.kind for p in chain.paragraphs]
        if Kind.CORRECTION not in kinds or not chain.correct:
            continue
        at = kinds.index(Kind.CORRECTION)
        assert not chain.paragraphs[at - 1].right  # built on the error that is now found
        assert kinds[at + 1] is Kind.STEP
        assert chain.paragraphs[at + 1].claim.operation == chain.paragraphs[at - 1].claim.operation
        assert chain.paragraphs[at + 1].claim.left == chain.paragraphs[at].claim.result
        seen += 1
    assert seen > 20


@settings(max_examples=200, deadline=None)
@given(levels, st.integers(0, 10**9))
def test_bookkeeping_agrees_with_a_plain_recomputation(level, seed):
    rng = random.Random(seed)
    task = draw_task(LEVELS[level], rng)
    chain = write_chain(
        task, NoiseRates(error=0.3, error_multiply=0.3, check=0.2, filler=0.1, false_alarm=0.05, botched=0.2), rng
    )
    value = task.start
    for operation in task.operations:  # the answer, once more, by hand
        value = eval(f"{value} {operation.symbol} {operation.operand}") % task.modulus
    assert chain.correct == (chain.answer == value)
    assert chain.paragraphs[-1].text.endswith(f"\\boxed{{{chain.answer}}}.")
    assert chain.restated[-1].result == chain.answer
    assert len(chain.labels) == len(chain.paragraphs)
    reflections = sum(p.kind in (Kind.CHECK, Kind.CORRECTION) for p in chain.paragraphs)
    assert reflections <= NoiseRates().max_reflections
    # What is in force at the end hangs together: each equation starts from the result of the one before it.
    if len(chain.restated) == len(task.operations):
        lefts = [e.left for e in chain.restated]
        assert lefts == [task.start, *(e.result for e in chain.restated[:-1])]


def test_the_same_seed_writes_the_same_chain():
    assert write_chain(TASK, NoiseRates(), random.Random(5)) == write_chain(TASK, NoiseRates(), random.Random(5))


def test_rates_are_those_asked_for():
    rng = random.Random(0)
    noise = NoiseRates(error=0.1, error_multiply=0.5, notice_now=0, notice_late=0, check=0, filler=0, false_alarm=0)
    chains = [write_chain(draw_task(LEVELS["2"], rng), noise, rng) for _ in range(4000)]
    for symbols, rate in (("+-", 0.1), ("*", 0.5)):
        firsts = [c.paragraphs[1] for c in chains if c.task.operations[0].symbol in symbols]
        wrong = sum(not p.right for p in firsts) / len(firsts)
        assert wrong == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(firsts)) ** 0.5)


def test_variety_is_the_share_of_phrases_drawn_evenly():
    rng = random.Random(0)
    noise = replace(NO_NOISE, variety=0.4)
    openings = [write_chain(TASK, noise, rng).paragraphs[0].text for _ in range(2000)]
    usual = sum(text.startswith("Okay") for text in openings) / len(openings)
    assert usual == pytest.approx(0.6 + 0.4 / 3, abs=0.04)  # four standard deviations


def test_process_rewards_have_work_to_do_in_correct_solutions():
    # The share of correct solutions of the default level that hold an error put right.
    rng = random.Random(0)
    chains = [write_chain(draw_task(LEVELS["2"], rng), NoiseRates(), rng) for _ in range(1000)]
    correct = [chain for chain in chains if chain.correct]
    assert sum(chain.has_corrected_error for chain in correct) / len(correct) > 0.25
