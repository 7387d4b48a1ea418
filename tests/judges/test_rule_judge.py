"""Hand-worked cases. A solution is written as (step, label) pairs; the last one is the answer block."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.chains import Noise, write_chain
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, premise_holds
from lit_tpgrpo.datamodules.arithmetic.problems import Task, make_problems
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.judges.rule import RuleJudge, final_value
from lit_tpgrpo.judges.scoring import count_labels
from lit_tpgrpo.records import Outcome, Problem, Solution, StepLabel, StopReason
from lit_tpgrpo.text.steps import segment_steps

C, I = StepLabel.CORRECT, StepLabel.INCORRECT  # noqa: E741
M, U = StepLabel.MATCHED, StepLabel.UNMATCHED
ANSWER = ("</think>\n\nThe answer is \\boxed{6}.", C)


def case_of(text, outcome):
    starts = tuple(range(len(text)))
    solution = Solution("p", 0, (), starts, (0.0,) * len(text), StopReason.EOS, 0, text, starts)
    # The judge must not look at the problem: it gets one that fits nothing.
    return JudgeCase(Problem("p", "?", "?"), solution, outcome, segment_steps(text, starts, len(starts)))


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
        "Wait, that's not right.",
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


def test_a_value_that_is_defined_anew_is_no_longer_wrong():
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


def test_the_same_error_again_is_traced_to_its_second_statement_only():
    check_correct(
        ("First, 8 * 2 = 4.", I),
        ("Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.", C),
        ("Next, 6 + 4 = 0.", C),
        ("Then 0 - 2 = 8.", C),
        ("Now 8 * 2 = 4.", I),
        ("Hmm, 8 * 2 = 4 is not right. Actually, 8 * 2 = 6.", C),
    )


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


def test_answer_matching_by_equation():
    check(
        Outcome.INCORRECT,
        ("Okay, I start with 3.", U),
        ("First, 3 + 5 = 9.", M),
        ("Next, 9 * 2 = 4.", U),
        ("Wait, 9 * 2 = 4 is wrong. It should be 9 * 2 = 8.", M),
        ("Let me double-check 9 * 2 = 8. Yes, that is right.", M),
        ("Then 8 + 1 = 9.", M),
        ("</think>\n\nSo 3 + 5 = 9, 9 * 2 = 8, 8 + 1 = 9, and the answer is \\boxed{9}.", M),
    )


def test_the_answer_adopts_the_wrong_version():
    check(
        Outcome.INCORRECT,
        ("First, 3 + 5 = 8.", M),
        ("Next, 8 * 2 = 4.", M),
        ("Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.", U),
        ("</think>\n\nSo 3 + 5 = 8, 8 * 2 = 4, and the answer is \\boxed{4}.", M),
    )


def test_an_equal_value_alone_matches_only_the_last_step_that_comes_to_it():
    check(
        Outcome.INCORRECT,
        ("First, 3 + 4 = 7.", U),
        ("Next, 7 - 2 = 5.", M),
        ("Then 5 + 2 = 7.", M),
        ("Well, that is all.", U),
        ("</think>\n\nFrom 7 - 2 = 5 we come to \\boxed{7}.", M),
    )


def test_an_answer_without_equations_matches_by_its_value():
    check(
        Outcome.INCORRECT,
        (r"Adding up, \(3x = 12\).", U),
        (r"Dividing by three, \(x = 4\).", M),
        ("Therefore the answer is 4.", M),
        ("All 4 cases are done.", U),
        ("</think>\n\nThe answer is $\\boxed{x = 4}$.", M),
    )


def test_equations_match_in_either_direction_and_through_a_chain():
    check(
        Outcome.UNVERIFIABLE,
        (r"We have \(12 = 3 \cdot 4\).", M),
        (r"So \(n = 12\).", M),
        (r"And \(m = 5\).", U),
        ("</think>\n\n\\(n = 3 \\times 4 = 12\\), the rest is obvious.", M),
    )


@pytest.mark.parametrize("outcome", Outcome)
def test_a_truncated_solution_is_left_alone(outcome):
    verdict = judge_one("First, 3 + 5 = 9.\n\nWait, 3 + 5 = 9 is wr", outcome)
    assert verdict.abstained
    assert set(verdict.labels) == {StepLabel.ABSTAINED}
    assert len(verdict.labels) == 2
    assert "never closed" in verdict.note


@pytest.mark.parametrize(
    ("outcome", "label"), [(Outcome.CORRECT, C), (Outcome.INCORRECT, M), (Outcome.UNVERIFIABLE, M)]
)
def test_no_think_steps_leave_the_answers_label(outcome, label):
    assert judge_one("</think>\n\nThe answer is \\boxed{6}.", outcome).labels == (label,)


def test_final_value():
    assert final_value(r"\boxed{3} and \boxed{x = \frac{1}{2}}") == "1/2"
    assert final_value("no box") is None
    assert final_value(r"\boxed{}") is None


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
    cases, left_out = label_cases([(p, write_chain(Task.from_prompt(p.prompt), Noise(), rng).text) for p in problems])
    assert not left_out
    # Errors that cancel out unnoticed cannot be read: correct solutions count where the paper's premise holds.
    counts = count_labels(RuleJudge(), [c for c in cases if c[0].outcome is not Outcome.CORRECT or premise_holds(c)])
    assert {label: counts.support(label) > 50 for label in (C, I, M, U)} == {C: True, I: True, M: True, U: True}
    assert min(counts.f1(label) for label in (C, I, M, U)) > 0.97


def test_real_chains_are_labelled_without_complaint(shared_data):
    rows = (shared_data / "prmbench_qwq_solutions.jsonl").read_text().splitlines()
    for row in rows:
        parts = json.loads(row)["modified_process"]
        text = "\n\n".join(parts[:-1]) + "\n</think>\n\n" + parts[-1]
        for outcome in Outcome:
            assert not judge_one(text, outcome).abstained
