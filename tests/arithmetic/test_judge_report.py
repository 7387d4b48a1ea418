"""What the judge report counts and leaves out, by hand."""

import pytest

from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, premise_holds, report
from lit_tpgrpo.datamodules.arithmetic.problems import Operation, Task, as_problem
from lit_tpgrpo.judges.rule import RuleJudge

# 3+5=8, 8*7=6, 6-9=7
PROBLEM = as_problem(Task(10, 3, (Operation("+", 5), Operation("*", 7), Operation("-", 9))), "1")
OPENING = "Okay, I start with 3 and work modulo 10."
RIGHT = ("First, 3+5=8.", "Next, 8*7=6.", "Then 6-9=7.")


def solution(*paragraphs, answer="So 6-9=7, and the answer is \\boxed{7}."):
    return PROBLEM, "\n\n".join([OPENING, *paragraphs]) + "\n</think>\n\n" + answer


@pytest.mark.parametrize(
    ("paragraphs", "holds"),
    [
        (RIGHT, True),
        (("First, 3+5=9.", "Wait, 3+5=9 is wrong. It should be 3+5=8.", *RIGHT[1:]), True),
        # Two errors cancel out and the answer block, which restates a true equation alone, does not show it.
        (("First, 3+5=9.", "Next, 9*7=6.", RIGHT[2]), False),
    ],
)
def test_the_premise_is_that_every_error_was_put_right(paragraphs, holds):
    (case,), left_out = label_cases([solution(*paragraphs)])
    assert not left_out
    assert premise_holds(case) is holds


def test_the_premise_is_about_correct_solutions():
    (case,), _ = label_cases([solution(*RIGHT[:2], answer="So 3+5=8, 8*7=6, and the answer is \\boxed{6}.")])
    assert not premise_holds(case)


def test_solutions_left_out_are_counted_by_one_sentence_for_each_cause():
    unknown = [
        solution(*RIGHT, f"Wait, {quoted} is wrong. It should be 6-9=7.") for quoted in ("3+5=9", "3+5=7", "8*7=5")
    ]
    truncated = (PROBLEM, OPENING + "\n\nFirst: 3+5=8")
    pairs = [solution(*RIGHT), *unknown, truncated, solution("Hm: 3+5=8."), solution("Well: 3+5=8.")]
    _, left_out = label_cases(pairs)
    assert left_out == {
        "a reflection quotes an equation that is not in force": 3,
        "paragraph of no known form": 2,
        "the think block is never closed": 1,
    }
    printed = report(RuleJudge(), pairs)
    assert "7 solutions: 1 correct, 0 incorrect, 6 without known truth {" in printed
    assert "correct solutions in which every error was corrected: 1 of 1" in printed
