"""SPAE: worked numbers, a naive reference, lengths 1 and 9, and any division among ranks."""

import dataclasses
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit import CreditAssignment, MeanBaseline, OutcomeCredit, SPAECredit
from lit_tpgrpo.credit.batch import BatchStage, PotentialGain
from lit_tpgrpo.credit.batch.potential_gain import StepGains
from lit_tpgrpo.credit.spae import potential, potential_changes, saturations
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import AnswerProbes
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect, undecided, with_lengths

PROBES = ((0.1, 0.4), (0.8, 0.9), (0.98, 0.98))


def probed(judged, *values):
    return dataclasses.replace(judged, evidence=(AnswerProbes(values),))


def half_reward(judged, reward):
    """Rewards of which one of two has a difference of .5 from their mean."""
    return dataclasses.replace(judged, reward=Reward(reward, reward, {"outcome": reward}))


def rescaled(stage, solutions, batch=None):
    summaries = [stage.summarise(s) for s in solutions] if batch is None else batch
    return [a.tolist() for a in stage.rescale(solutions, summaries)]


def test_worked_numbers():
    """R - mean = .5; the fourth step, the answer block, is not probed and comes after a potential above .9."""
    right = half_reward(probed(correct("CCCC", lengths=[1, 9, 1, 2]), *PROBES, None), 1.0)
    wrong = half_reward(incorrect("M"), 0.0)
    phi = [potential(*pair) for pair in PROBES]
    assert phi == pytest.approx([-0.29, 0.58, 0.9506])
    changes = potential_changes(phi)
    assert changes == pytest.approx([0.0, 0.87, 0.3706])
    gains = StepGains.of(changes)
    assert (changes[2] - gains.low) / (gains.high - gains.low) == pytest.approx(0.4260, abs=1e-4)
    raised = [gains(c) + gains.mean for c in changes]
    assert raised == pytest.approx([1.0, 2.7183, 1.5311], abs=1e-4)
    assert [gains(c) for c in changes] == pytest.approx([-0.7498, 0.9685, -0.2187], abs=1e-4)
    assert saturations([*phi, None], 0.5, 0.9) == pytest.approx([1.0, 1.0, 1.0, 0.6839], abs=1e-4)
    credited = SPAECredit()(group(right, wrong))
    assert credited[0].advantages.tolist() == pytest.approx([0.5] * 11 + [0.5 * 0.6839] * 2, abs=1e-4)
    assert credited[1].advantages.tolist() == [-0.5] * 2
    before = PotentialGain().gained(credited[0], gains).tolist()
    assert before == pytest.approx([0.1251, *[0.9842] * 9, 0.3906, *[0.5 * 0.6839] * 2], abs=1e-4)
    # Standardised over all tokens of both, the unprobed solution's too.
    values = [*before, -0.5, -0.5]
    mean, std = statistics.fmean(values), statistics.stdev(values)
    found = rescaled(PotentialGain(), credited)
    assert [x for row in found for x in row] == pytest.approx([(v - mean) / std for v in values], abs=1e-5)


def test_without_probes_there_is_the_outcome_less_the_mean():
    judged = [correct("CIC"), incorrect("UM"), undecided("A")]
    plain = [c.advantages.tolist() for c in OutcomeCredit(baseline=MeanBaseline())(group(*judged))]
    assert [c.advantages.tolist() for c in SPAECredit()(group(*judged))] == plain


probes_of = st.one_of(st.none(), st.tuples(st.floats(0, 1), st.floats(0, 1)))
solutions_with_probes = with_lengths.flatmap(
    lambda judged: st.lists(probes_of, min_size=len(judged.verdict.steps), max_size=len(judged.verdict.steps)).map(
        lambda values: probed(judged, *values)
    )
)


@given(st.lists(solutions_with_probes, min_size=2, max_size=5), st.floats(0, 1), st.integers(0, 5))
def test_against_a_naive_reference_however_the_round_is_divided(judged, xi, ranks):
    credited = SPAECredit(alpha=0.3, epsilon=0.2)(group(*judged))
    outcome = [1.0 if s.outcome.value == "correct" else -1.0 for s in judged]
    mean = sum(outcome) / len(outcome)
    rows, steps = [], []
    for s, r in zip(judged, outcome, strict=True):
        known, last, row = 0, None, []
        for pair in s.evidence[0].values:
            phi = None if pair is None else 1.5 * pair[0] * pair[1] + 0.5 * pair[0] - pair[1]
            change = None if phi is None else 0.0 if last is None else phi - last
            row.append(((r - mean) * (1 - 0.3 * (1 - math.exp(-known))), change))
            known, last = known + (phi is not None and phi > 0.2), last if phi is None else phi
        rows.append(row)
        steps += [change for _, change in row if change is not None]
    low, high = min(steps, default=0), max(steps, default=0)
    scaled = [math.exp((c - low) / (high - low)) for c in steps] if high > low else []
    tokens = []
    for s, row in zip(judged, rows, strict=True):
        own = []
        for step, (base, change) in zip(s.verdict.steps, row, strict=True):
            gain = 0.0
            if scaled and change is not None:
                gain = math.exp((change - low) / (high - low)) - sum(scaled) / len(scaled)
            own += [base + xi * gain] * (step.token_end - step.token_start)
        tokens.append(own)
    for c, row in zip(credited, rows, strict=True):
        first = [c.advantages[s.token_start].item() for s in c.judged.verdict.steps]
        assert first == pytest.approx([base for base, _ in row], abs=1e-5)
    stage = PotentialGain(xi=xi, eps=1e-3)
    batch = [stage.summarise(c) for c in credited]
    whole = rescaled(stage, credited)
    every = [x for own in tokens for x in own]
    std = statistics.stdev(every)
    for own, found in zip(tokens, whole, strict=True):
        expected = [(x - statistics.fmean(every)) / (std + 1e-3) if std > 1e-9 else 0.0 for x in own]
        assert found == pytest.approx(expected, abs=1e-3)
    cut = min(ranks, len(credited))
    assert rescaled(stage, credited[:cut], batch) + rescaled(stage, credited[cut:], batch) == whole


def test_all_equal_teaches_nothing():
    judged = [probed(correct("CC"), (0.5, 0.5), None)] * 2
    credited = SPAECredit()(group(*judged))
    assert not any(any(row) for row in rescaled(PotentialGain(), credited))
    assert rescaled(PotentialGain(), []) == []


def test_what_all_credit_assignments_keep_to():
    judged = [probed(correct("CC"), *PROBES[:2]), probed(incorrect("UM"), *PROBES[1:])]
    assert isinstance(SPAECredit(), CreditAssignment)
    assert isinstance(PotentialGain(), BatchStage)
    straight = [c.advantages.tolist() for c in SPAECredit()(group(*judged))]
    assert [c.advantages.tolist() for c in SPAECredit()(group(*reversed(judged)))] == straight[::-1]
    assert all(c.advantages.dtype == torch.float32 for c in SPAECredit()(group(*judged)))
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        SPAECredit()(group(judged[0]))


def test_needs_records_and_settings_are_checked():
    with pytest.raises(ConfigError, match=r"SPAECredit needs AnswerProbes .*lit_tpgrpo\.GoldAnswerProbes"):
        checked_evidence(None, SPAECredit())
    with pytest.raises(ConfigError, match="PotentialGain needs AnswerProbes"):
        checked_evidence(None, OutcomeCredit(), None, PotentialGain())
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got \(0.5, 1.5\)"):
        AnswerProbes(((0.5, 1.5),))
    with pytest.raises(ValueError, match="has 1 probes for 2 steps"):
        SPAECredit()(group(probed(correct("CC"), None), correct("CC")))
    for build, settings in (
        (SPAECredit, {"alpha": 1.5}),
        (SPAECredit, {"epsilon": 2.0}),
        (PotentialGain, {"xi": -1.0}),
    ):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            build(**settings)
