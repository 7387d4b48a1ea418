"""Scores of evaluated groups, by hand."""

from __future__ import annotations

import math
import random

import pytest

from lit_tpgrpo.evaluation.log import score_line
from lit_tpgrpo.evaluation.scores import ScoredGroup, by_set, interval, percentile, set_scores, suite_scores
from lit_tpgrpo.evaluation.tables import Efficiency, SuiteTable
from lit_tpgrpo.records import Outcome

C, I, UNDECIDED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNDECIDED  # noqa: E741


def group(
    outcomes: tuple[Outcome, ...],
    answers: tuple[str | None, ...] | None = None,
    set_name: str = "",
    index: int = 0,
    level: str | None = None,
    subject: str | None = None,
    truncated: int = 0,
    tokens: tuple[int, ...] | None = None,
) -> ScoredGroup:
    answers = answers or (None,) * len(outcomes)
    tokens = tokens or (1,) * len(outcomes)
    problem = (f"{set_name}/{index}", "?", "1")
    return ScoredGroup(set_name, index, problem, level, subject, outcomes, answers, truncated, tokens)


def plain(scores) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}


def test_undecided_samples_count_as_not_correct_and_are_reported():
    groups = [
        group((C, UNDECIDED), ("1", "1"), truncated=1, tokens=(4, 6)),
        group((I, C), ("2", None), tokens=(2, 4), index=1),
    ]
    scores = plain(set_scores(groups, (1,)))
    assert scores["avg@2"] == 0.5
    assert scores["pass@2"] == 1.0
    assert scores["undecided_share"] == scores["truncated_share"] == scores["no_answer_share"] == 0.25
    assert (scores["length_mean"], scores["length_median"]) == (4.0, 4.0)
    assert scores["length_p95"] == pytest.approx(5.7)  # 2 4 4 6: at place 2.85 of 0..3, 4 + 0.85 * 2


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([7], 0.95, 7), ([0, 10], 0.25, 2.5), ([1, 2, 3, 4, 5], 0.5, 3), ([1, 2, 3, 4, 5], 1.0, 5)],
)
def test_percentiles_are_linear_between_neighbours(values, share, expected):
    assert percentile(values, share) == expected


def test_the_average_is_over_sets_not_over_problems():
    """aime: 1/2 and 0 of two samples, so 0.25; math: 1, 1, 1, 0 of one, so 0.75: 0.5, whatever the number of problems."""
    sets = {
        "aime": [group((C, I), set_name="aime"), group((I, I), set_name="aime", index=1)],
        "math": [group((o,), set_name="math", index=i) for i, o in enumerate((C, C, C, I))],
    }
    scores = plain(suite_scores(sets, (1, 2)))
    assert (scores["aime/avg@2"], scores["math/avg@1"], scores["average"]) == (0.25, 0.75, 0.5)
    # se of a set: s / sqrt(P). aime: s^2 = 2 * 0.25^2, se 0.25; math: s^2 = 0.75 / 3, se 0.25.
    assert (scores["aime/avg@2_se"], scores["math/avg@1_se"]) == pytest.approx((0.25, 0.25))
    assert scores["average_se"] == pytest.approx(math.sqrt(0.125) / 2)
    assert scores["problems"] == 6
    assert "aime/pass@2" in scores
    assert "math/pass@2" not in scores  # one sample a problem
    line = score_line("eval", 8, suite_scores(sets, (1, 2)))
    assert line == "eval | step 8 | average 0.500 ± 0.177 | aime avg@2 0.250, math avg@1 0.750 | 6 problems"


def test_scores_do_not_depend_on_the_order_in_which_groups_arrive():
    groups = [group((C,) * (i % 5) + (I,) * (4 - i % 5), set_name=s, index=i) for s in "ab" for i in range(20)]
    shuffled = random.Random(0).sample(groups, len(groups))
    assert plain(suite_scores(by_set(groups, ["b", "a"]), (1,))) == plain(
        suite_scores(by_set(shuffled, ["b", "a"]), (1,))
    )
    assert list(by_set(shuffled, ["b", "a"])) == ["b", "a"]
    assert list(by_set(shuffled)) == ["a", "b"]


def test_bootstrap_intervals():
    """The mean of n equal coins resampled is binomial / n: for 100 problems, half solved, 2.5% is at 0.40, 97.5% at 0.60."""
    low, high = interval([[0.0, 1.0] * 50])
    assert low == pytest.approx(0.40, abs=0.015)
    assert high == pytest.approx(0.60, abs=0.015)
    assert interval([[0.0, 1.0] * 50]) == (low, high)  # no chance in it
    assert interval([[0.25] * 9]) == (0.25, 0.25)
    # Of two sets: each is resampled by itself. A constant one halves the width.
    narrow = interval([[0.0, 1.0] * 50, [1.0] * 3])
    assert narrow[1] - narrow[0] == pytest.approx((high - low) / 2)
    # Of two problems the resampled means are 0, 1/2, 1 with 1/4, 1/2, 1/4.
    assert interval([[0.0, 1.0]]) == (0.0, 1.0)


def test_accuracy_by_level_and_subject():
    groups = [
        group((C, C), level="10", subject="Number Theory"),
        group((C, I), level="2", subject="Number Theory", index=1),
        group((I, I), level="2", subject="Algebra", index=2),
        group((I, I), index=3),
    ]
    scores = plain(set_scores(groups, (1,)))
    parts = {name: value for name, value in scores.items() if "/" in name}
    assert parts == {
        "level_2/avg@2": 0.25,
        "level_10/avg@2": 1.0,
        "subject_Algebra/avg@2": 0.0,
        "subject_Number_Theory/avg@2": 0.75,
    }
    assert [name for name in plain(set_scores(groups[1:3], (1,))) if "level" in name] == []  # of one level: no table


def accuracies(*labels: str) -> dict[str, float]:
    """The names and values of accuracies by subject, where the problems of the first subject alone are solved."""
    groups = [group((C,) if n == 0 else (I,), subject=label, index=n) for n, label in enumerate(labels)]
    return {name: value for name, value in plain(set_scores(groups, (1,))).items() if "/" in name}


def test_labels_that_differ_have_metrics_of_their_own():
    """What loggers do not accept in a name is replaced; a label that needs no such thing keeps its name."""
    assert accuracies("C++", "C", "D") == {
        "subject_C_f1deb75f/avg@1": 1.0,
        "subject_C/avg@1": 0.0,
        "subject_D/avg@1": 0.0,
    }
    assert accuracies("C", "C#", "C++").keys() == {
        "subject_C/avg@1",
        "subject_C_f1deb75f/avg@1",
        "subject_C_04022884/avg@1",
    }
    # Neither of two that were changed, and their order and that of other labels is no matter.
    assert accuracies("A/B", "A B").keys() == accuracies("A B", "A/B", "Z").keys() - {"subject_Z/avg@1"}
    assert len(accuracies("A/B", "A B", "*", "?", "A_B")) == 5
    assert accuracies("A/B", "*").keys() == {"subject_A_B/avg@1", "subject__/avg@1"}  # as ever where names differ


def test_efficiency_is_that_of_the_papers_table():
    """Gain in points over the base's 48.06, per solution, times 1e5: the rows of the paper's results at 1.5B."""
    for trained, solutions, expected in [(50.10, 5600, 36.43), (49.64, 34_000, 4.65), (48.85, 4_700, 16.81)]:
        assert Efficiency(48.06, trained, solutions).value == pytest.approx(expected, abs=0.005)
    assert Efficiency(48.06, 48.06, 0).value is None


def test_lengths_of_the_csv_have_no_digits_of_float32():
    sets = {"": [group((C, I), tokens=(92, 114))]}
    assert ",103.0,103.0,112.9," in SuiteTable.of(sets, suite_scores(sets, (1,))).csv()  # 92 + 0.95 x 22


def test_tables():
    sets = {
        "aime24": [group((C, I), set_name="aime24", tokens=(1000, 3000)), group((I, I), set_name="aime24", index=1)],
        "math500": [
            group((C,), ("1",), set_name="math500", level="1", subject="a|b"),
            group((I,), set_name="math500", index=1, level="5", subject="c", truncated=1),
        ],
    }
    table = SuiteTable.of(sets, suite_scores(sets, (1,)))
    efficiency = Efficiency(30.0, 37.5, 1000)
    printed = table.markdown(efficiency)
    print(printed)
    cells = [[c.strip() for c in line.strip("|").split(" |")] for line in printed.splitlines() if line[2:3] != "-"]
    assert cells[1:3] == [
        ["aime24", "2", "2", "25.00", "0.00", "50.00", "0.00", "50.00", "1,000", "500", "2,700", "0.0", "100.0"],
        ["math500", "2", "1", "50.00", "0.00", "100.00", "50.00", "50.00", "1", "1", "1", "50.0", "50.0"],
    ]
    assert cells[3][:4] == ["average", "4", "", "37.50"]
    print(table.csv(efficiency))
