"""The truth of step labels, by hand for texts of every kind, and equal to the writer's for its own."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.chains import NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, Operation, Task, as_problem, draw_task
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, Unparsable, solution_truth
from lit_tpgrpo.records import StepLabel

# 3+5=8, 8*7=6, 6-9=7
PROBLEM = as_problem(Task(10, 3, (Operation("+", 5), Operation("*", 7), Operation("-", 9))), "1")
C, W, M, U = StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.MATCHED, StepLabel.UNMATCHED
OPENING = "Okay, I start with 3 and work modulo 10."


def text(*paragraphs: str) -> str:
    *think, answer = paragraphs
    return "\n\n".join(think) + "\n</think>\n\n" + answer


def labels(*paragraphs: str) -> tuple[StepLabel, ...]:
    truth = solution_truth(PROBLEM, text(*paragraphs))
    assert isinstance(truth, ChainTruth), truth
    return truth.labels


def test_a_wrong_step_noticed_late_in_a_correct_solution():
    assert labels(
        OPENING,
        "First, 3+5=9.",  # wrong table entry
        "Next, 9*7=3.",  # true arithmetic on a wrong value
        "Let me double-check 9*7=3. Yes, that is right.",  # confirms a wrong step
        "Wait, 3+5=9 is wrong. It should be 3+5=8.",
        "With that, 8*7=6.",
        "Hmm, let me see what comes next.",
        "Then 6-9=7.",
        "Wait, is 6-9=7 right? Yes, it is.",
        "So 3+5=8, 8*7=6, 6-9=7, and the answer is \\boxed{7}.",
    ) == (C, W, W, W, C, C, C, C, C, C)


def test_a_botched_correction_and_a_false_alarm_are_incorrect():
    assert labels(
        OPENING,
        "First, 3+5=8.",
        "Hmm, 3+5=8 is not right. Actually, 3+5=7.",  # false alarm
        "Wait, is 3+5=7 right? No, 3+5=9.",  # botched
        "I made a mistake: 3+5=9 is wrong, because 3+5=8.",
        "So now 8*7=6.",
        "Then 6-9=7.",
        "We have 8*7=6, 6-9=7. The answer is \\boxed{7}.",
    ) == (C, C, W, W, C, C, C, C)


def test_an_incorrect_solution_is_matched_against_what_its_answer_restates():
    assert labels(
        OPENING,
        "First, 3+5=8.",  # right, and adopted all the same
        "Next, 8*7=5.",  # denied below
        "Wait, 8*7=5 is wrong. It should be 8*7=4.",  # asserts what is adopted
        "With that, 4-9=6.",  # denied below: asserts what is not adopted
        "Let me verify that 4-9=6. That holds.",
        "Hmm, 4-9=6 is not right. Actually, 4-9=5.",
        "Wait, I should keep the order in mind.",
        "Let me double-check 4-9=5. Yes, that is right.",
        "From last to first: 4-9=5, 8*7=4, 3+5=8. The result is \\boxed{5}.",
    ) == (U, M, U, M, U, U, M, U, M, M)


def test_what_the_answer_leaves_out_is_unmatched():
    assert labels(
        OPENING,
        "First, 3+5=8.",
        "Next, 8*7=4.",
        "Then 4-9=5.",
        "So 8*7=4, 4-9=5, and the answer is \\boxed{5}.",
    ) == (U, U, M, M, M)


def test_a_right_box_over_a_wrong_derivation():
    # Two errors that cancel: the premise "all errors were put right" fails, the truth says so.
    assert labels(
        OPENING,
        "First, 3+5=9.",
        "Next, 9*7=6.",
        "Then 6-9=7.",
        "So 3+5=9, 9*7=6, 6-9=7, and the answer is \\boxed{7}.",
    ) == (C, W, W, C, W)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("Next, 8-9=9.", "skips an operation"),
        ("Next, 8*3=4.", "another operand"),
        ("Next, 6*7=2.", "another value than the one in force"),
    ],
)
def test_true_arithmetic_of_another_step_is_incorrect(step, why):
    assert labels(OPENING, "First, 3+5=8.", step, "Then 6-9=7.", "So 6-9=7, and the answer is \\boxed{7}.") == (
        C,
        C,
        W,
        C,
        C,
    ), why


def test_an_opening_that_misstates_the_problem_is_incorrect():
    steps = ("First, 3+5=8.", "Next, 8*7=6.", "Then 6-9=7.")
    answer = "So 6-9=7, and the answer is \\boxed{7}."
    assert labels("Okay, I start with 4 and work modulo 10.", *steps, answer) == (W, C, C, C, C)
    assert labels("Okay, I start with 3 and work modulo 23.", *steps, answer) == (W, C, C, C, C)


def standing(*paragraphs: str) -> tuple[str, bool]:
    """A letter for each paragraph: s where it stands, - where it was taken back; and whether nothing wrong stands."""
    truth = solution_truth(PROBLEM, text(*paragraphs))
    assert isinstance(truth, ChainTruth), truth
    return "".join("s" if step.still_holds else "-" for step in truth.steps), truth.all_errors_corrected


def test_a_correction_takes_back_its_object_and_what_was_built_on_it():
    assert standing(
        OPENING,
        "First, 3+5=9.",  # denied below
        "Next, 9*7=3.",  # built on it
        "Let me double-check 9*7=3. Yes, that is right.",  # confirms what was built on it
        "Wait, 3+5=9 is wrong. It should be 3+5=7.",  # botched, and denied in its turn
        "Hmm, 3+5=7 is not right. Actually, 3+5=8.",
        "With that, 8*7=6.",
        "Wait, I should keep the order in mind.",
        "Then 6-9=7.",
        "So 3+5=8, 8*7=6, 6-9=7, and the answer is \\boxed{7}.",
    ) == ("s----sssss", True)


def test_errors_that_cancel_out_are_standing():
    steps = ("First, 3+5=9.", "Next, 9*7=6.", "Then 6-9=7.")
    # The answer block restates a true equation only, and yet two wrong ones are in force.
    assert standing(OPENING, *steps, "So 6-9=7, and the answer is \\boxed{7}.") == ("sssss", False)


def test_an_equation_stands_at_its_place_not_by_its_words():
    assert standing(
        OPENING,
        "First, 8*7=6.",  # the second operation in the place of the first; taken back
        "Wait, 8*7=6 is wrong. It should be 3+5=8.",
        "With that, 8*7=6.",  # the same words where they are right
        "Then 6-9=7.",
        "So 6-9=7, and the answer is \\boxed{7}.",
    ) == ("s-ssss", True)


def test_an_opening_that_misstates_the_problem_is_standing():
    steps = ("First, 3+5=8.", "Next, 8*7=6.", "Then 6-9=7.")
    answer = "So 6-9=7, and the answer is \\boxed{7}."
    assert standing("Okay, I start with 4 and work modulo 10.", *steps, answer) == ("sssss", False)


def test_a_denial_of_what_it_asserts_itself_is_standing():
    assert standing(
        OPENING,
        "First, 3+5=8.",
        "Wait, 3+5=8 is wrong. It should be 3+5=8.",
        "Next, 8*7=6.",
        "Then 6-9=7.",
        "So 6-9=7, and the answer is \\boxed{7}.",
    ) == ("s-ssss", False)


def test_an_answer_block_that_restates_what_was_denied_is_an_error_that_stands():
    assert standing(
        OPENING,
        "First, 3+5=9.",
        "Wait, 3+5=9 is wrong. It should be 3+5=8.",
        "Next, 8*7=6.",
        "Then 6-9=7.",
        "So 3+5=9, 6-9=7, and the answer is \\boxed{7}.",
    ) == ("s-ssss", False)


def test_steps_beyond_the_last_operation_are_incorrect():
    assert labels(
        OPENING,
        "First, 3+5=8.",
        "Next, 8*7=6.",
        "Then 6-9=7.",
        "Then 7+0=7.",
        "So 6-9=7, 7+0=7, and the answer is \\boxed{7}.",
    ) == (C, C, C, C, W, W)


def test_starts_point_at_the_paragraphs():
    solution = text(OPENING, "First, 3+5=8.", "So 3+5=8, and the answer is \\boxed{8}.")
    truth = solution_truth(PROBLEM, solution)
    assert isinstance(truth, ChainTruth)
    assert [solution[s.start :][:5] for s in truth.steps] == ["Okay,", "First", "So 3+"]
    assert [s.kind for s in truth.steps] == [Kind.OPENING, Kind.STEP, Kind.ANSWER]


@pytest.mark.parametrize(
    ("solution", "reason", "found"),
    [
        ("", "the think block is never closed", ""),
        (OPENING + "\n\nFirst, 3+5", "the think block is never closed", ""),
        (text(OPENING, "So 3+5=8, and the answer is \\boxed{8}.</think>"), "more than one </think>", ""),
        (text(OPENING, "The answer is 7."), "answer block of no known form", "The answer is 7."),
        (text(OPENING, ""), "answer block of no known form", ""),
        (text("Hmm 3+5=8.", "So 3+5=8, and the answer is \\boxed{8}."), "paragraph of no known form", "Hmm 3+5=8."),
        (
            text(
                "First, 3+5=8.",
                "Wait, 3+5=9 is wrong. It should be 3+5=8.",
                "So 3+5=8, and the answer is \\boxed{8}.",
            ),
            "a reflection quotes an equation that is not in force",
            "3+5=9",
        ),
    ],
)
def test_other_texts_are_unparsable_and_say_why(solution, reason, found):
    assert solution_truth(PROBLEM, solution) == Unparsable(reason, found)


@given(st.text(max_size=200))
@pytest.mark.slow
def test_no_text_raises(solution):
    solution_truth(PROBLEM, solution)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(LEVELS)), st.integers(0, 10**9), st.sampled_from([0.05, 0.17, 0.5]))
@example("2", 21330, 0.05)  # the denied equation is in force at two places
def test_truth_finds_what_the_writer_knows(level, seed, error):
    rng = random.Random(seed)
    task = draw_task(LEVELS[level], rng)
    chain = write_chain(
        task,
        NoiseRates(error, error, false_alarm=0.05, check=0.07, botched=0.2, filler=0.1, omitted=0.2, notice_late=0.15),
        rng,
    )
    truth = solution_truth(as_problem(task, level), chain.text)
    assert isinstance(truth, ChainTruth), truth
    assert truth.correct == chain.correct
    assert truth.labels == chain.labels
    assert [s.kind for s in truth.steps] == [p.kind for p in chain.paragraphs]
    assert [s.claim for s in truth.steps] == [p.claim for p in chain.paragraphs]
    for step, paragraph in zip(truth.steps, chain.paragraphs, strict=True):
        assert chain.text[step.start :].startswith(paragraph.text)
