"""Hand-worked cases. A solution is written as (step, label) pairs; the last one is the answer block."""

import json
import random
import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rule_judge import labelled, read_annotations
from lit_tpgrpo.datamodules.arithmetic.chains import NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, premise_holds
from lit_tpgrpo.datamodules.arithmetic.problems import Task, make_problems
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.judges.error_detection import make_record
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.scoring import count_labels
from lit_tpgrpo.records import Outcome, Problem, Solution, StepLabel, StopReason
from lit_tpgrpo.text.steps import segment_steps
from tests.real_data import RealData

C, I = StepLabel.CORRECT, StepLabel.INCORRECT  # noqa: E741
M, U = StepLabel.MATCHED, StepLabel.UNMATCHED
ANSWER = ("</think>\n\nThe answer is \\boxed{6}.", C)


def case_of(text, outcome, prompt="?"):
    starts = tuple(range(len(text)))
    solution = Solution("p", 0, (), starts, (0.0,) * len(text), StopReason.EOS, 0, text, starts)
    # The judge must not look at the gold: it gets one that fits nothing.
    return JudgeCase(
        Problem("p", prompt, "?", "arithmetic"), solution, outcome, segment_steps(text, starts, len(starts))
    )


def judge_one(text, outcome, judge=None):
    ((index, verdict),) = (judge or RuleJudge()).judge([case_of(text, outcome)])
    assert index == 0
    return verdict


def check(outcome, *steps):
    text = "\n\n".join(step for step, _ in steps)
    verdict = judge_one(text, outcome)
    given = [(text[s.start : s.end].strip(), label) for s, label in zip(verdict.steps, verdict.labels, strict=True)]
    assert given == list(steps)


def check_correct(*steps):
    check(Outcome.CORRECT, *steps, ANSWER)


def test_no_reflection_means_all_correct():
    check_correct(("First, 3 + 5 = 8.", C), ("Next, 8 * 2 = 6.", C))


@pytest.mark.parametrize(
    "reflection",
    [
        "Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.",
        "Wait, is 8 * 2 = 4 right? No, 8 * 2 = 6.",
        "I made a mistake: 8 * 2 = 4 is wrong, because 8 * 2 = 6.",
        "Wait, 8 * 2 = 6, not 4.",
        "Hmm, it should be 6, not 4.",
        "Actually, 8 * 2 = 6.",
        "Wait, that's not right. It should be 8 * 2 = 6.",
        "I had 8 * 2 = 4, but that is wrong.",
        "Earlier I got 4, but that was wrong.",
        "My result 4 is wrong.",
        "Wait, 4 is wrong.",
        r"Wait, \(8 \times 2 = 4\) is incorrect; it should be \(8 \times 2 = 6\).",
    ],
)
def test_a_correction_marks_its_source_alone(reflection):
    check_correct(("First, 3 + 5 = 8.", C), ("Next, 8 * 2 = 4.", I), (reflection, C), ("With that, 6 + 1 = 7.", C))


def test_steps_built_on_the_error_are_wrong_until_the_reflection():
    check_correct(
        ("First, 3 + 5 = 8.", C),
        ("Next, 8 * 2 = 4.", I),
        ("Then 4 + 3 = 7.", I),
        ("Hmm, let me see what comes next.", C),
        ("Now 7 - 2 = 5.", I),
        ("Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.", C),
        ("So now 6 + 3 = 9.", C),
        ("Next, 9 + 5 = 4.", C),
        ("After that, 4 + 3 = 7.", C),
    )


def test_steps_in_the_interval_that_use_other_values_are_correct():
    check_correct(
        ("Area of the first: 3 * 4 = 11.", I),
        ("Area of the second: 5 * 6 = 30.", C),
        ("Half of the second is 30 / 2 = 15.", C),
        ("Together 11 + 15 = 26.", I),
        ("So there are 26 tiles.", I),
        ("So the colour does not matter.", C),
        ("Wait, 3 * 4 = 11 is wrong, it should be 12.", C),
        ("Together 12 + 15 = 27.", C),
    )


def test_a_value_that_is_redefined_is_no_longer_wrong():
    check_correct(
        ("We get x = 4.", I),
        ("Hence x + 1 = 5.", I),
        ("For the other, x = 9.", C),
        ("Hence x + 2 = 11.", C),
        ("Wait, x = 4 is wrong, it should be x = 3.", C),
    )


def test_a_wrong_expression_is_followed():
    check_correct(
        (r"Expand: \((a+b)^2 = a^2+b^2\).", I),
        (r"So \(2(a^2+b^2) = 10\).", I),
        (r"Also \(ab = 3\).", C),
        (r"Wait, \((a+b)^2 = a^2+b^2\) is wrong. It should be \((a+b)^2 = a^2+2ab+b^2\).", C),
    )


def test_an_error_that_is_quoted_by_name_is_traced_past_other_steps():
    check_correct(
        ("First, 3 + 5 = 9.", I),
        ("Besides, 2 * 2 = 4.", C),
        ("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C),
    )


def test_an_ineffective_reflection_changes_nothing():
    check_correct(
        ("First, 3 + 5 = 8.", C),
        ("Let me double-check 3 + 5 = 8. Yes, that is right.", C),
        ("Wait, is 3 + 5 = 8 right? Yes, it is.", C),
        ("Hmm, that can't be right. Let me recompute: 3 + 5 = 8. Yes, that's correct.", C),
    )


def test_a_check_that_confirms_an_error_is_wrong():
    check_correct(
        ("First, 3 + 5 = 9.", I),
        ("Let me double-check 3 + 5 = 9. Yes, that is right.", I),
        ("Next, 9 + 1 = 0.", I),
        ("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C),
    )


def test_wait_as_an_ordinary_word():
    check_correct(
        ("The wait time is t = 5 minutes.", C),
        ("They wait until noon, so t + 1 = 6.", C),
        ("Wait, I should keep the order in mind.", C),
    )


def test_a_reflection_that_quotes_nothing_is_explained_by_what_is_done_over():
    check_correct(
        ("First, 3 + 5 = 9.", I),
        ("Next, 9 * 2 = 8.", I),
        ("Hmm, I made a mistake somewhere. Let me start over.", C),
        ("First, 3 + 5 = 8.", C),
        ("Next, 8 * 2 = 6.", C),
    )


def test_a_reflection_that_quotes_nothing_and_redoes_nothing_blames_nobody():
    check_correct(("First, 3 + 5 = 8.", C), ("Hmm, I made a mistake somewhere.", C), ("Next, 8 * 2 = 6.", C))


def test_the_first_step_can_be_a_reflection():
    check_correct(("Wait, that's wrong.", C), ("First, 3 + 5 = 8.", C))


def test_two_corrections_of_the_same_step():
    check_correct(
        ("First, 3 + 5 = 9.", I),
        ("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 7.", I),
        ("With that, 7 + 1 = 8.", I),
        ("Wait, 3 + 5 = 7 is wrong. It should be 3 + 5 = 8.", C),
        ("So now 8 + 1 = 9.", C),
    )


def test_the_same_correction_twice():
    check_correct(
        ("First, 3 + 5 = 9.", I),
        ("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C),
        ("As I said, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C),
    )


def test_a_wrong_statement_that_a_correction_tries_again_in_vain_stays_wrong():
    check_correct(
        ("First, 5 * 3 = 5.", I),
        ("Wait, 5 * 3 = 5 is wrong. It should be 3 * 3 = 9.", C),
        ("Next, 6 * 3 = 8.", I),
        ("Wait, 6 * 3 = 8 is wrong. It should be 5 * 3 = 5.", I),
        ("Wait, 5 * 3 = 5 is wrong. It should be 7 * 3 = 1.", C),
    )


def test_the_same_error_again_is_traced_to_its_second_statement_only():
    check_correct(
        ("First, 8 * 2 = 4.", I),
        ("Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.", C),
        ("Next, 6 + 4 = 0.", C),
        ("Then 0 - 2 = 8.", C),
        ("Now 8 * 2 = 4.", I),
        ("Hmm, 8 * 2 = 4 is not right. Actually, 8 * 2 = 6.", C),
    )


@pytest.mark.parametrize(
    "steps",
    [
        # Nothing that can be quoted is denied.
        ["Next, 8 * 2 = 6.", "Wait, that's not right."],
        ["Next, 8 * 2 = 6.", "Wait, that can't be right. Let me see."],
        # The solver's own question, answered with no.
        [
            "Each block holds the numbers 1-9.",
            "Perhaps each block is a Latin square of order 3? No, that doesn't make sense.",
        ],
        ["There are 4 * 3 = 12 pairs.", "Could the order matter here? No, that's not correct."],
        ["So x = 3.", "Could x = 3 here? No."],
        # Pieces of what cannot be read.
        ["1 + 2 + ... + 10 = 55.", "Wait, actually 1 + 3 + ... + 10 = 30."],
        ["2,3,6,7=18.", "Wait, 1,3,5,7=16."],
        ["One way: 4+9=13 coins.", "Wait, for the other: total2+4+9=15 coins."],
        # Another value that is named beside it, another statement with the same value.
        ["So there are 117 of them.", "In the first approach I thought it was 49, but that was wrong."],
        ["Together there are 12 + 5 = 17 ways.", "Before, I thought it was 20, but that was incorrect."],
        ["gcd(24,10)=2.", "Wait, my assumption that each cycle contributes a factor of 2 is incorrect."],
        ["We have M=150.", "Wait, 310/2=155, which is not 150."],
        ["So 6 - 4 = 2.", "It should be 1 instead of 2 in the question."],
        # A doubt that ends in a confirmation.
        ["So a + b = 10.", "Hmm, that can't be right since 3*10 = 30, which is correct after all. OK, consistent."],
        ["So u + v = 24.", "Wait, this can't be right: 2*24 = 48, and that is correct. It is consistent."],
        ["12 * 167 = 2004.", "Wait, that can't be right.", "Let me check: 12 * 167 = 2004."],
        # Something else is called wrong.
        ["Hence 6 * 3 / 2 = 9.", "Choice A: the number is not 6, so this choice is incorrect."],
        ["Hence 12 + 160 = 172.", "No choice matches 172: there is an error in the question."],
        ["Hence n = 32.", "For choice B, n = 64 and this is not the answer, so Choice B is not correct."],
        ["Hence 9x - 8y = -3.", "Inserting, 9(0) - 8(6) = -3, which is not correct."],
        # Both are right.
        ["So 1/3 = 0.33.", "Actually, 1/3 = 0.333."],
        ["So 3 * 4 = 2 mod 10.", "Actually, 3 * 4 = 5 mod 7."],
        # Another modulus, base or unit gives another number.
        ["7 * 8 = 56.", "So 56 / 7 = 8.", "Hmm, working modulo 10, 7 * 8 = 6, so the last digit is 6."],
        ["7 * 8 = 56.", "Wait, 7 * 8 = 6 modulo 10."],
        ["Mod 7, we have 3 * 4 = 5.", "Actually, mod 10, 3 * 4 = 2."],
        ["10 + 10 = 20.", "Wait, in binary 10 + 10 = 100."],
        ["3 + 4 = 7.", "Wait, let me check in base 5: 3 + 4 = 12."],
        ["3 + 4 = 7.", "Wait, let me check: 3 + 4 = 12 in base five."],
        ["11 + 3 = 14.", "Actually on a clock, 11 + 3 = 2."],
        ["2 * 60 = 120 minutes.", "Let me double-check: 2 * 60 = 7200 seconds."],
        ["3 * 4 = 12 feet.", "Hmm, that is 3 * 4 = 144 inches."],
        # A guess.
        ["Step 1: 3 + 5 = 8.", "Step 2: I must have made a mistake in step 1."],
        ["Step 1: 3 + 5 = 8.", "Step 2: Perhaps there is a mistake in step 1."],
    ],
)
def test_where_nothing_quotable_is_denied_nothing_is_labelled(steps):
    check_correct(*[(step, C) for step in steps], ("So the count is 5.", C))


def test_a_value_that_the_solver_held_is_traced_to_the_step_that_came_to_it():
    check_correct(
        ("First approach: 7 * 7 = 49 pairs.", I),
        ("Second approach: 51 + 67 - 1 = 117.", C),
        ("Earlier I thought 49, but that was wrong because y need not be even.", C),
    )


@pytest.mark.parametrize(
    "reflection",
    [
        "We made an error in our calculation of the area in Step 2.",
        "However, there is a mistake in step 2.",
        "The flaw in Step 2 was that we forgot a factor.",
        "Our assumption in step 2 was also incorrect.",
        "It seems we made an incorrect assumption in step 2.",
        "Step 2 is wrong.",
        "Looking back, in step 2, we added the probability instead of the number.",
    ],
)
def test_a_step_that_is_blamed_by_its_number_is_the_source(reflection):
    check_correct(("Step 1: Let a be it.", C), ("**Step 2:** So it is more.", I), ("Step 3: So.", C), (reflection, C))


def test_a_number_that_is_given_twice_is_the_latest_step_s():
    check_correct(("Step 1: a.", C), ("Step 1: b.", I), ("There is a mistake in step 1.", C), ("Step 1: c.", C))


def test_what_the_problem_gives_is_no_error_of_a_step():
    text = "Expand $(x+y)^2 = 4$.\n\nThere is a mistake in the equation (x+y)^2 = 4, it should be (x+y)^2 = 64."
    text += "\n</think>\n\n\\boxed{6}"
    for prompt, first in (("If $(x+y)^2 = 4$, what is x?", C), ("What is x?", I)):
        ((_, verdict),) = RuleJudge().judge([case_of(text, Outcome.CORRECT, prompt)])
        assert verdict.labels == (first, C, C)


def test_a_small_number_is_taken_up_within_five_steps_only():
    talk = [("Let me go on.", C)] * 5
    check_correct(("3 + 4 = 9.", I), *talk[:4], ("9 + 1 = 10.", I), ("Wait, 3 + 4 = 9 is wrong.", C))
    check_correct(("3 + 4 = 9.", I), *talk, ("9 + 1 = 10.", C), ("Wait, 3 + 4 = 9 is wrong.", C))
    check_correct(("3 * 41 = 122.", I), *talk, ("122 + 1 = 123.", I), ("Wait, 3 * 41 = 122 is wrong.", C))


def test_of_equal_statements_about_a_letter_only_the_latest_is_meant():
    check_correct(
        ("Case one: x = 5.", C),
        ("Case two: x = 5.", I),
        ("Wait, x = 5 is wrong, it should be x = 4.", C),
    )


def test_a_false_alarm_that_is_taken_back():
    check_correct(
        ("First, 3 + 5 = 8.", C),
        ("Wait, 3 + 5 = 8 is wrong. It should be 3 + 5 = 9.", I),
        ("With that, 9 + 1 = 0.", I),
        ("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C),
        ("So now 8 + 1 = 9.", C),
    )


@pytest.mark.parametrize(
    "restored",
    [
        "No wait, 3 + 4 = 7.",
        "Hmm, let me recheck. 3 + 4 = 7.",
        "Let me double-check: 3 + 4 = 7. Yes, that is right.",
        "Wait, 3 + 4 = 8 is wrong, 3 + 4 = 7.",
    ],
)
def test_a_step_that_is_replaced_and_restored_is_correct(restored):
    check_correct(("3 + 4 = 7.", C), ("Wait, 3 + 4 = 8.", I), (restored, C), ("So 7 + 1 = 8.", C))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Modulo 10, 7 * 8 = 5.", "Wait, modulo 10, 7 * 8 = 6."),
        ("In base 5, 3 + 4 = 13.", "Wait, in base 5, 3 + 4 = 12."),
        ("Let us work modulo 10. Besides, 7 * 8 = 55.", "Let us work modulo 7. Wait, 7 * 8 = 56."),
        ("2 * 60 = 110 minutes.", "Let me double-check: 2 * 60 = 120 minutes."),
        ("2 * 60 = 110 mins.", "Let me double-check: 2 * 60 = 120 minutes."),
        ("2 * 60 = 110 minutes.", "Let me double-check: 2 * 60 = 120."),
        ("2 * 60 = 110 cm.", "Let me double-check: 2 * 60 = 120 centimetres."),
        ("Binary strings of length 3: 2 * 4 = 9.", "Wait, 2 * 4 = 8."),
        ("At 3 o'clock there are 2 * 4 = 9.", "Wait, 2 * 4 = 8."),
        ("3 + 5 = 9 apples.", "Wait, 3 + 5 = 8 so there are 8."),
        ("The base 6 and the height 4 give 6 * 4 / 2 = 14.", "Wait, 6 * 4 / 2 = 12."),
    ],
)
def test_a_result_in_the_same_modulus_base_or_unit_is_replaced(wrong, right):
    check_correct((wrong, I), (right, C))


def test_a_step_that_is_restored_and_replaced_again_is_wrong():
    check_correct(
        ("3 + 4 = 8.", I),
        ("Wait, 3 + 4 = 7.", C),
        ("Wait, 3 + 4 = 8.", I),
        ("Actually, 3 + 4 = 7.", C),
    )


def test_a_correction_built_on_an_older_error_is_wrong():
    check_correct(
        ("First, 3 + 5 = 9.", I),
        ("Next, 9 * 2 = 7.", I),
        ("Wait, 9 * 2 = 7 is wrong. It should be 9 * 2 = 8.", I),
        ("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C),
    )


def test_a_reflection_that_stands_by_what_it_denies_is_wrong_itself():
    # It replaces nothing: the statement is in force before and after, so neither it nor what was built on it is wrong.
    check_correct(
        ("First, 8+6=4.", C),
        ("Next, 4+3=7.", C),
        ("Wait, 8+6=4 is wrong. It should be 8+6=4.", I),
        ("With that, 4+2=6.", C),
    )


def test_a_wrong_number_does_not_stand_in_a_longer_one():
    check_correct(
        ("50 + 40 = 100.", I),
        ("1000 + 1 = 1001.", C),
        ("Wait, 50 + 40 = 100 is wrong. It should be 50 + 40 = 90.", C),
    )


def test_a_step_that_corrects_itself_is_correct():
    check_correct(
        ("First, 2 + 2 = 4.", C),
        ("Next, 8 * 2 = 4. Wait, that's wrong, it should be 6.", C),
        ("Then 6 + 1 = 7.", C),
    )


def test_a_letter_with_another_value_contradicts_nothing_by_itself():
    check_correct(("Try x = 3.", C), ("This gives x = 3.", C), ("Hmm, let me check the next one: x = 4.", C))


def test_other_forms_of_a_value_contradict_nothing():
    check_correct((r"So 2/4 + 0 = \frac{1}{2}.", C), ("Wait, actually 2/4 + 0 = 0.5 and 2/4 + 0 = 50%.", C))


@pytest.mark.parametrize("outcome", Outcome)
def test_a_truncated_solution_is_left_alone(outcome):
    verdict = judge_one("First, 3 + 5 = 9.\n\nWait, 3 + 5 = 9 is wr", outcome)
    assert verdict.abstained
    assert set(verdict.labels) == {StepLabel.ABSTAINED}
    assert len(verdict.labels) == 2
    assert "no answer block" in verdict.note


@pytest.mark.parametrize(
    ("outcome", "label"), [(Outcome.CORRECT, C), (Outcome.INCORRECT, M), (Outcome.UNVERIFIABLE, M)]
)
def test_no_think_steps_leave_the_answers_label(outcome, label):
    assert judge_one("</think>\n\nThe answer is \\boxed{6}.", outcome).labels == (label,)


def denied_one_by_one(n):
    """n statements, each denied later: n corrections with n statements between each error and its correction."""
    stated = [f"So {i} + 1 = {i}." for i in range(100, 100 + n)]
    denied = [f"Wait, {i} + 1 = {i} is wrong. It should be {i} + 1 = {i + 1}." for i in range(100, 100 + n)]
    return "\n\n".join([*stated, *denied]) + "\n</think>\n\nThe answer is \\boxed{6}."


def test_a_solution_that_makes_too_much_work_is_left_alone():
    judge = RuleJudge(max_work=10_000)
    verdict = judge_one(denied_one_by_one(100), Outcome.CORRECT, judge)
    assert set(verdict.labels) == {StepLabel.ABSTAINED}
    assert verdict.note == "tracing its corrections takes more than max_work 10000"
    counts = judge.metrics()
    assert (counts["cases"], counts["abstained"], counts["steps"], counts["reflections_nominated"]) == (1, 1, 0, 0)
    # An incorrect solution needs no tracing, and the limit is per solution.
    assert not judge_one(denied_one_by_one(100), Outcome.INCORRECT, judge).abstained
    for _ in range(2):
        assert not judge_one(denied_one_by_one(10), Outcome.CORRECT, judge).abstained
    with pytest.raises(ConfigError, match="max_work must be at least 1, got 0"):
        RuleJudge(max_work=0)


@pytest.mark.slow
def test_an_adversarial_text_ends_at_the_default_limit():
    assert "max_work" in judge_one(denied_one_by_one(2_000), Outcome.CORRECT).note


def test_a_long_chain_with_many_corrections_is_within_the_default_limit():
    # 1,500 statements, 140 paragraphs of talk, and at the very end 60 corrections of the first 60 statements.
    stated = [(f"So {i} + 1 = {i}.", I if i < 2_060 else C) for i in range(2_000, 3_500)]
    talk = [("Let me go on.", C)] * 140
    denied = [(f"Wait, {i} + 1 = {i} is wrong. It should be {i} + 1 = {i + 1}.", C) for i in range(2_000, 2_060)]
    check_correct(*stated, *talk, *denied)


@pytest.mark.slow
def test_a_statement_made_many_times_is_traced_to_all_of_its_places():
    check_correct(*[("So 3 + 5 = 9.", I)] * 300, *[("Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.", C)])


def test_counters_are_read_once():
    judge = RuleJudge()
    assert isinstance(judge, Judge)
    text = "\n\n".join(
        [
            "First, 3 + 5 = 9.",
            "Wait, 3 + 5 = 9 is wrong. It should be 3 + 5 = 8.",
            "Let me double-check 3 + 5 = 8. Yes, that is right.",
            "Hmm, I made a mistake somewhere.",
            "</think>\n\nThe answer is \\boxed{8}.",
        ]
    )
    judge_one(text, Outcome.CORRECT, judge)
    judge_one(text, Outcome.INCORRECT, judge)
    judge_one("truncated", Outcome.INCORRECT, judge)
    assert judge.metrics() == {
        "cases": 3,
        "abstained": 1,
        "steps": 10,
        "steps_incorrect": 1,
        "steps_matched": 3,
        "reflections_nominated": 3,
        "reflections_confirmed": 1,
        "reflections_ineffective": 1,
        "reflections_untraced": 1,
    }
    assert set(judge.metrics().values()) == {0}
    judge.close()
    judge.close()


@settings(deadline=None)
@given(
    outcome=st.sampled_from(Outcome),
    text=st.lists(
        st.sampled_from(
            ["Wait, ", "3 + 5 = 8", "3 + 5 = 9", " is wrong. ", "No, ", "?", "\n\n", "</think>", "x = 3", "8 + 1 = 9. "]
        )
    ).map("".join),
)
def test_any_solution_gets_one_fitting_label_per_step(outcome, text):
    case = case_of(text, outcome)
    ((_, verdict),) = RuleJudge().judge([case])
    assert verdict.steps == case.steps
    fitting = {C, I} if outcome is Outcome.CORRECT else {M, U}
    assert set(verdict.labels) <= (fitting if case.steps[-1].is_answer else {StepLabel.ABSTAINED})
    assert len(verdict.labels) == len(verdict.steps)


@pytest.mark.parametrize("level", ["1", "2", "3", "4", "5"])
def test_labels_of_generated_chains_agree_with_the_truth(level):
    rng = random.Random(level)
    problems = make_problems(level, 300, 0, "heldout")
    cases, left_out = label_cases(
        [(p, write_chain(Task.from_prompt(p.prompt), NoiseRates(), rng).text) for p in problems]
    )
    assert not left_out
    # Errors that cancel out unnoticed cannot be read: correct solutions count where the paper's premise holds.
    counts = count_labels(RuleJudge(), [c for c in cases if c[0].outcome is not Outcome.CORRECT or premise_holds(c)])
    assert {label: counts.support(label) > 50 for label in (C, I, M, U)} == {C: True, I: True, M: True, U: True}
    assert min(counts.f1(label) for label in (C, I, M, U)) > 0.97


def test_real_chains_are_labelled_without_complaint(real_data: RealData):
    rows = (real_data.folder / "prmbench_qwq_solutions.jsonl").read_text().splitlines()
    for row in rows:
        parts = json.loads(row)["modified_process"]
        text = "\n\n".join(parts[:-1]) + "\n</think>\n\n" + parts[-1]
        for outcome in Outcome:
            assert not judge_one(text, outcome).abstained


def test_it_says_once_what_it_can_see_where_problems_are_not_the_embedded_domains():
    judge, home = RuleJudge(), case_of("So 3 + 5 = 8.\n</think>\n\n\\boxed{8}", Outcome.CORRECT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(judge.judge([home]))
    away = replace(home, problem=replace(home.problem, source="math500"))
    with pytest.warns(
        UserWarning, match="outside the embedded arithmetic domain .source 'math500'.*language model as judge"
    ) as caught:
        list(judge.judge([home, away, away, home, away]))
    assert len(caught) == 1


def test_real_corrections_are_labelled_precisely():
    """The steps and reflections that we read of MR-Ben and PRMBench, each chain shortened to them."""
    given_right = given = true = 0
    for uid, row in read_annotations().items():
        numbers = [int(n) for n in row["steps"]]
        problem = Problem(uid, row["problem"], "?", "arithmetic")
        record = make_record(problem, list(row["steps"].values()), "\\boxed{1}", Outcome.CORRECT, None)
        labelled_steps = [numbers[n - 1] for n in labelled(record.case, I)]
        given += len(labelled_steps)
        given_right += len(set(labelled_steps) & set(row["incorrect"]))
        true += len(row["incorrect"])
    assert (given, given_right, true) == (14, 14, 32)
