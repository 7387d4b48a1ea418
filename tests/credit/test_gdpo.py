"""GDPO: terms are standardised one by one, then added up; against TRL's lines, lengths 1 and 9, terms that skip."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit import CreditAssignment, GDPOCredit, OutcomeCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect, undecided


def rewarded(judged, **terms):
    total = sum(v for v in terms.values() if v is not None)
    return dataclasses.replace(judged, reward=Reward(total, terms.get("outcome") or 0.0, terms))


THREE = (
    rewarded(correct("C", lengths=[1]), outcome=1.0, short=0.0),
    rewarded(incorrect("M", lengths=[9]), outcome=0.0, short=3.0),
    rewarded(incorrect("UM"), outcome=0.0, short=0.0),
)


def of_solutions(credited):
    """The advantage of each solution, which all of its tokens have."""
    assert all((c.advantages == c.advantages[0]).all() for c in credited)
    return [c.advantages[0].item() for c in credited]


def test_terms_are_standardised_before_they_are_added():
    """1, 0, 0 and 0, 3, 0 are 1.1547, -.5774 twice and -.5774, 1.1547, -.5774, whatever their scale; the sum 1, 3, 0 is not."""
    credit = GDPOCredit(eps=0.0)
    assert of_solutions(credit(group(*THREE))) == pytest.approx([0.5774, 0.5774, -1.1547], abs=1e-4)
    weighted = GDPOCredit({"short": 0.5}, eps=0.0)
    assert of_solutions(weighted(group(*THREE))) == pytest.approx([0.8660, 0.0, -0.8660], abs=1e-4)
    plain = OutcomeCredit(eps=0.0)(group(*THREE))
    assert of_solutions(plain) == pytest.approx([-0.2182, 1.0911, -0.8729], abs=1e-4)


@given(st.lists(st.tuples(st.floats(-3, 3, width=16), st.floats(-3, 3, width=16)), min_size=2, max_size=6))
def test_against_trls_lines(values):
    """``normalize_then_sum`` before it standardises over the batch."""
    judged = [rewarded(correct("C"), a=a, b=b) for a, b in values]
    grouped = torch.tensor(values, dtype=torch.float64)
    scaled = (grouped - grouped.mean(0)) / (grouped.std(0) + 1e-4)
    want = (scaled * torch.tensor([2.0, 1.0])).sum(1)
    assert of_solutions(GDPOCredit({"a": 2.0})(group(*judged))) == pytest.approx(want.tolist(), abs=1e-5)


def test_a_term_that_skips_or_does_not_differ_adds_nothing():
    """b applies to the first two alone: 1 and 0 are .7071 and -.7071; c to one; d is always 4."""
    judged = [
        rewarded(correct("C"), a=1.0, b=1.0, c=None, d=4.0),
        rewarded(incorrect("M"), a=0.0, b=0.0, c=None, d=4.0),
        rewarded(incorrect("M"), a=0.0, b=None, c=9.0, d=4.0),
    ]
    found = of_solutions(GDPOCredit(eps=0.0)(group(*judged)))
    assert found == pytest.approx([1.1547 + 0.7071, -0.5774 - 0.7071, -0.5774], abs=1e-4)


def test_without_rewards_the_outcome_is_the_only_term():
    judged = group(correct("C"), incorrect("M"), incorrect("UM"), undecided("A"))
    one, two = GDPOCredit(eps=1e-6)(judged), OutcomeCredit()(judged)
    assert [c.advantages.tolist() for c in one] == [c.advantages.tolist() for c in two]


def test_what_all_credit_assignments_keep_to():
    assert isinstance(GDPOCredit(), CreditAssignment)
    straight = of_solutions(GDPOCredit()(group(*THREE)))
    assert of_solutions(GDPOCredit()(group(*reversed(THREE)))) == pytest.approx(straight[::-1])
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        GDPOCredit()(group(THREE[0]))
    with pytest.raises(ConfigError, match=r"weights names long, and data\.rewards has outcome, short"):
        GDPOCredit({"long": 1.0})(group(*THREE))
    with pytest.raises(ConfigError, match="weights must be finite"):
        GDPOCredit({"short": float("nan")})
