"""The ablation without merging, by hand."""

import pytest
import torch

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.step import StepCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from tests.credit.credit_cases import correct, group, incorrect

EXACT = {"ddof": 0, "eps": 0.0}


def test_steps_add_up():
    # r = +-1, r_c = 0.5; the answer step (two tokens) carries r alone
    right, wrong = StepCredit(**EXACT)(group(correct("CIIC"), incorrect("UUMM")))
    assert right.process_rewards == (0.5, -0.5, -0.5, 0.0)
    assert right.advantages.tolist() == [0.5, 0.0, 0.5, 1.0, 1.0]
    assert right.advantages.dtype == torch.float32
    assert [(t.first_step, t.token_start, t.token_end) for t in right.thoughts] == [
        (0, 0, 1),
        (1, 1, 2),
        (2, 2, 3),
        (3, 3, 5),
    ]
    assert wrong.process_rewards == (1.0, 1.0, -1.0, 0.0)
    assert wrong.advantages.tolist() == [0.0, -1.0, -2.0, -1.0, -1.0]


def test_alternating_steps_are_paid_as_thoughts():
    judged = group(correct("CIC"), incorrect("UM"))
    for step, thought in zip(StepCredit(**EXACT)(judged), ThoughtCredit(**EXACT)(judged), strict=True):
        assert torch.equal(step.advantages, thought.advantages)


def test_outcome_alone_where_labels_do_not_apply():
    judged = group(correct("AA"), incorrect("UUM", stop=StopReason.LENGTH))
    abstained, truncated = StepCredit(**EXACT)(judged)
    assert abstained.advantages.tolist() == [1.0] * 3
    assert truncated.advantages.tolist() == [-1.0] * 4
    assert not any(abstained.process_rewards + truncated.process_rewards)


def test_refusals():
    assert isinstance(StepCredit(), CreditAssignment)
    with pytest.raises(ConfigError, match="alpha must be positive"):
        StepCredit(alpha=0.0)
    with pytest.raises(ConfigError, match="ddof must be 0"):
        StepCredit(ddof=3)
    with pytest.raises(ConfigError, match="has 1 solution"):
        StepCredit()(group(correct("C")))
    with pytest.raises(ValueError, match="answer block"):
        StepCredit()(group(correct("CI"), incorrect("M")))
