"""Hand-worked cases. A solution is written as (step, label) pairs; the last one is the answer block."""

import pytest

from benchmarks.rule_judge import labelled, make_case
from lit_tpgrpo.judges.adoption import final_value
from lit_tpgrpo.records import Outcome, Problem, StepLabel

M, U = StepLabel.MATCHED, StepLabel.UNMATCHED


def check(outcome, *steps, prompt="?"):
    text = "\n\n".join(step for step, _ in steps)
    case = make_case(Problem("p", prompt, "?", "arithmetic"), text, outcome)
    assert [text[s.start : s.end].strip() for s in case.steps] == [step for step, _ in steps]
    assert labelled(case, M) == [n for n, (_, label) in enumerate(steps[:-1], start=1) if label is M]


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


def test_final_value():
    assert final_value(r"\boxed{3} and \boxed{x = \frac{1}{2}}") == "1/2"
    assert final_value("no box") is None
    assert final_value(r"\boxed{}") is None


def check_announced(sentence, answer, label=M, prompt="?"):
    steps = [("Let me think.", U), (sentence, label), ("Now I write it up.", U), (f"</think>\n\n{answer}", M)]
    check(Outcome.INCORRECT, *steps, prompt=prompt)


@pytest.mark.parametrize(
    "value",
    [
        r"60^\circ",
        r"4 \pi",
        r"\text{even}",
        r"2 \sqrt{3}",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"x \in [1,2]",
        r"(-\infty, 2) \cup (3, \infty)",
        r"1\frac{4}{5}",
        r"137 \frac{1}{2}",
        "52_8",
        "3, 5, 7",
        "(D)",
        ".0000672",
    ],
)
def test_a_value_that_is_no_plain_expression_is_announced(value):
    check_announced(f"Therefore, the answer is ${value}$.", f"\\boxed{{{value}}}")
    check_announced(f"Therefore, the answer is ${value}$ and something.", "\\boxed{1234}", U)


@pytest.mark.parametrize(
    "sentence",
    [
        "The answer must be 42.",
        "So the answer should be 42.",
        "Thus we get 42.",
        "We finally obtain $x = 42$ for it.",
        "The total comes to 42 apples.",
        "In the end there are 42 such numbers.",
    ],
)
def test_other_words_of_conclusion(sentence):
    check_announced(sentence, "\\boxed{42}")


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        ("So the answer is 42 + 5.", "42"),
        ("So the answer is 425.", "42"),
        ("So the answer is 42.5.", "42"),
        ("So the answer is 4 2.", "42"),
        (r"So the answer is $4 \pi$.", "4"),
        ("There are 42 of them and more.", "4"),
    ],
)
def test_a_part_of_another_value_is_not_the_value(sentence, value):
    check_announced(sentence, f"\\boxed{{{value}}}", U)


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("So the answer is (D).", "So the answer is (D)."),
        ("So the answer is 42.", "The answer is 42."),
        ("Every such number is even.", "As said:\nEvery such number is even."),
    ],
)
def test_without_a_box_what_is_announced_or_repeated_word_for_word_counts(sentence, answer):
    check_announced(sentence, answer)


def test_what_the_problem_gives_is_no_evidence():
    prompt = "If $x = 12$, what is $y$? Every number is even."
    given, answer = ("We have $x = 12$.", U), ("</think>\n\nFrom $x = 12$ and $x - 5 = 8$ we come to \\boxed{8}.", M)
    check(Outcome.INCORRECT, given, ("So $x - 5 = 8$.", M), answer, prompt=prompt)
    check_announced("Every number is even.", "Well. Every number is even.", U, prompt)
