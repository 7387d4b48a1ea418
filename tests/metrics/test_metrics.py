"""avg@k, pass@k and maj@k: literal values, brute force, standard errors, and exactness over two processes."""

import copy
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.metrics import AvgAtK, MajAtK, PassAtK
from lit_tpgrpo.metrics.scores import average, majority, moments_compute, moments_update, pass_at_k, vote_key
from lit_tpgrpo.records import Outcome

REPOSITORY = Path(__file__).parents[2]
C, I, U = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE  # noqa: E741
outcomes = st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=8)


def test_average():
    assert average([C, I, U, C]) == 0.5
    assert average([U]) == 0.0
    with pytest.raises(ValueError, match="at least one sample"):
        average([])


@pytest.mark.parametrize(
    ("samples", "k", "value"),
    [
        ([C, I, I], 1, 1 / 3),
        ([C, I, I], 2, 2 / 3),
        ([C, I, I], 3, 1.0),
        ([I, U, I], 3, 0.0),
        ([C] * 2 + [I] * 8, 5, 1 - 56 / 252),
        # Floats would overflow here: the binomial coefficient has 600 digits.
        ([C] + [I] * 1999, 1000, 0.5),
    ],
)
def test_pass_at_k(samples, k, value):
    assert pass_at_k(samples, k) == pytest.approx(value, abs=1e-15)


@given(outcomes, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(samples, data):
    k = data.draw(st.integers(1, len(samples)))
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(samples, k) == pytest.approx(sum(C in subset for subset in subsets) / len(subsets), abs=1e-15)


@pytest.mark.parametrize(
    ("samples", "answers", "value"),
    [
        ([C, C, I], ["4", "4", "5"], 1.0),
        ([C, I, I], ["4", "5", "5"], 0.0),
        ([C, C, I, I], ["4", "4", "5", "5"], 0.5),
        ([C, I, I], ["4", "5", "6"], 1 / 3),
        ([C, I, I, I], ["4", None, None, None], 1.0),
        ([I, I], [None, None], 0.0),
        ([C, I, U, U], ["4", "5", "9^9", "9^9"], 0.0),
        # Spellings of one answer vote together ...
        ([C, C, I, I, I], [r"\dfrac{1}{2}", r"$\frac{1}{2}$", "3", "3", "7"], 0.5),
        # ... and equal texts that the verifier judged differently share their candidate's score.
        ([C, U, I], ["4", "4", "5"], 0.5),
    ],
)
def test_majority(samples, answers, value):
    assert majority(samples, answers) == pytest.approx(value)


@given(st.lists(st.sampled_from(["2", "3", "4", "5", None]), min_size=1, max_size=7))
def test_majority_is_the_chance_that_a_random_mode_is_correct(answers):
    """Brute force: the share of the orders of counting in which the first most frequent answer is the gold, 4."""
    samples = [C if answer == "4" else I for answer in answers]
    cast = [answer for answer in answers if answer is not None]
    orders = list(itertools.permutations(set(cast)))
    # max() takes the first of equals, so over all orders each mode comes first equally often.
    hits = sum(max(order, key=cast.count, default=None) == "4" for order in orders)
    assert majority(samples, answers) == pytest.approx(hits / len(orders))


def test_vote_key_disregards_layout_only():
    assert vote_key(r" $\left( 3, \dfrac{\pi}{2} \right)$ ") == r"(3,\frac{\pi}{2})"
    assert vote_key(r"\leftarrow") == r"\leftarrow"
    assert vote_key(r"\$5") == r"\$5"
    assert vote_key("1/2") != vote_key("0.5")
    assert vote_key(r"\left( 1 , x \right)") == vote_key(r"(1,\,x)") == "(1,x)"
    assert vote_key(r"10,\!000") == "10,000"


@pytest.mark.parametrize("space", [" ", "  ", "\n", "\u00a0", r"\ ", r"\,", r"\;", r" \: ", "$ $"])
def test_a_space_between_two_numbers_is_none_within_one(space):
    """A mixed number is another answer than the fraction with its digits; digits grouped in threes are one number."""
    assert vote_key(f"1{space}1/2") == "1 1/2" != vote_key("11/2")
    assert vote_key(f"1{space}100/101") == "1 100/101"
    assert vote_key(f"12{space}345{space}678") == vote_key("12345678")
    assert vote_key(rf"1{space}\dfrac{{1}}{{2}}") == r"1\frac{1}{2}"
    assert vote_key(f"x{space}1") == "x1"
    outcomes, answers = [Outcome.CORRECT] + [Outcome.INCORRECT] * 2, [f"1{space}1/2", "11/2", "11/2"]
    assert majority(outcomes, answers) == 0.0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_mean_and_standard_error_over_problems(scores):
    mean, error = moments_compute(sum((moments_update(score) for score in scores), torch.zeros(3).double()))
    assert mean.item() == pytest.approx(statistics.fmean(scores), abs=1e-12)
    assert error.item() == pytest.approx(statistics.stdev(scores) / math.sqrt(len(scores)), abs=1e-7)


def collection():
    return MetricCollection({m.label: m for m in (AvgAtK(4), PassAtK(1), PassAtK(2), MajAtK(4))})


PROBLEMS = [
    ([C, C, C, C], ["4", "4", "4", "4"]),
    ([C, I, I, U], ["4", "5", "6", None]),
    ([I, I, I, I], ["1", "2", None, None]),
    ([C, C, I, I], ["4", "4", "5", "6"]),
    ([C, I, I, I], ["4", "5", "5", "6"]),
]
EXPECTED = {
    "avg@4": (1 + 1 / 4 + 0 + 1 / 2 + 1 / 4) / 5,
    "pass@1": (1 + 1 / 4 + 0 + 1 / 2 + 1 / 4) / 5,
    "pass@2": (1 + 1 / 2 + 0 + 5 / 6 + 1 / 2) / 5,
    "maj@4": (1 + 1 / 3 + 0 + 1 + 0) / 5,
    "avg@4_se": statistics.stdev([1, 1 / 4, 0, 1 / 2, 1 / 4]) / math.sqrt(5),
    "pass@1_se": statistics.stdev([1, 1 / 4, 0, 1 / 2, 1 / 4]) / math.sqrt(5),
    "pass@2_se": statistics.stdev([1, 1 / 2, 0, 5 / 6, 1 / 2]) / math.sqrt(5),
    "maj@4_se": statistics.stdev([1, 1 / 3, 0, 1, 0]) / math.sqrt(5),
}


def test_one_collection_holds_them_all():
    # The first problem is all correct: with states of one name the collection would take the four metrics for one.
    metrics = collection()
    for samples, answers in PROBLEMS:
        metrics.update(samples, answers)
    values = metrics.compute()
    assert {name: value.item() for name, value in values.items()} == pytest.approx(EXPECTED)
    assert len(metrics.compute_groups) == 4


def test_reset_copy_and_state_in_float64():
    metric = PassAtK(2)
    # From the start: a rank without problems gathers its state with those of the others.
    assert all(getattr(metric, state).dtype == torch.float64 for state in metric._defaults)
    metric.update([C, I])
    other = copy.deepcopy(metric)
    other.update([I, I])
    assert metric.compute()["pass@2"].item() == 1.0
    assert other.compute()["pass@2"].item() == 0.5
    metric.reset()
    metric.update([I, I])
    assert metric.compute()["pass@2"].item() == 0.0
    for _ in range(10_000):
        metric.update([C, I])
    assert metric.half().compute()["pass@2"].item() == pytest.approx(10_000 / 10_001, abs=1e-12)


def test_without_problems_everything_is_nan_and_with_one_the_error():
    metric = AvgAtK(2)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        values = metric.compute()
    assert all(math.isnan(value) for value in values.values())
    metric.update([C, I])
    values = metric.compute()
    assert values["avg@2"].item() == 0.5
    assert math.isnan(values["avg@2_se"])


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="avg@4: expected the 4 samples of one problem, got 3"):
        AvgAtK(4).update([C, I, I])
    with pytest.raises(ValueError, match="maj@2: expected the 2 samples of one problem, got 3"):
        MajAtK(2).update([C, I, I], ["1", "2", "3"])
    with pytest.raises(ValueError, match=r"maj@2: expected one answer \(or None\) per sample, got 1 for 2"):
        MajAtK(2).update([C, I], ["1"])
    with pytest.raises(ValueError, match="pass@4: expected at least 4 samples for each problem, got 3"):
        PassAtK(4).update([C, I, I])
    with pytest.raises(ConfigError, match="pass@k: expected k of at least 1, got 0"):
        PassAtK(0)


def test_key_decides_which_answers_vote_together():
    metric = MajAtK(3, key=lambda answer: str(float(Fraction(answer))))
    metric.update([C, C, I], ["1/2", "0.5", "3"])
    assert metric.compute()["maj@3"].item() == 1.0


@settings(max_examples=20)
@given(st.integers(0, len(PROBLEMS)))
def test_states_of_two_halves_add_up(cut):
    whole, left, right = collection(), collection(), collection()
    for position, (samples, answers) in enumerate(PROBLEMS):
        whole.update(samples, answers)
        (left if position < cut else right).update(samples, answers)
    for name, metric in whole.items():
        (state,) = metric._defaults
        halves = getattr(left[name], state) + getattr(right[name], state)
        torch.testing.assert_close(halves, getattr(metric, state), rtol=0, atol=1e-15)


TWO_RANKS = """
import json, multiprocessing, sys
import torch.distributed as dist

sys.path.insert(0, sys.argv[1])
from tests.metrics.test_metrics import PROBLEMS, collection

def run(rank):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    for cut in (1, 0):  # The second time rank 0 has no problem at all.
        metrics = collection()
        for samples, answers in (PROBLEMS[:cut], PROBLEMS[cut:])[rank]:
            metrics.update(samples, answers)
        values = {name: value.item() for name, value in metrics.compute().items()}
        print(json.dumps(values) + "\\n", end="", flush=True)
    dist.destroy_process_group()

# Forked, because importing torchmetrics takes six seconds of a core.
ranks = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(2)]
[rank.start() for rank in ranks]
[rank.join() for rank in ranks]
sys.exit(max(abs(rank.exitcode) for rank in ranks))
"""


@pytest.mark.slow
def test_two_processes_with_unequal_shares_agree_with_one(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", TWO_RANKS, str(Path(__file__).parent), str(tmp_path / "rendezvous")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert ran.returncode == 0, ran.stderr
    printed = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert len(printed) == 4
    for values in printed:
        assert values == pytest.approx(EXPECTED, abs=1e-14)
