"""PURE: the worked numbers, a naive reference from labels, and solutions without usable labels."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit import pure
from lit_tpgrpo.credit.pure import PURECredit, min_form_rewards, step_baseline, token_baseline
from lit_tpgrpo.credit.score_pure import ScorePURECredit
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import StepScores
from lit_tpgrpo.judges.evidence import LabelScores
from lit_tpgrpo.records import Outcome, StopReason
from tests.credit.credit_cases import correct, group, incorrect, with_lengths

# s1 is incorrect, s2 correct: outcomes (0, 1), steps of 4, 2, 4 and of 3, 2 tokens.
TWO = group(incorrect("MMM", lengths=[4, 2, 4]), correct("CC", lengths=[3, 2]))
SCORES = {3: [0.9, -0.5, 0.8], 2: [0.6, 0.7]}


def at_step_ends(credited):
    return [[c.advantages[s.token_end - 1].item() for s in c.judged.verdict.steps] for c in credited]


def test_min_form_rewards():
    """Weights 8.3e-7, .999997 and 2.3e-6: what is small is compared relatively, for zeros would be near enough."""
    scores = torch.tensor(SCORES[3], dtype=torch.float64)
    rewards = min_form_rewards(scores, 0.1)
    for found, least, middle, most in ((rewards / scores, 8.3e-7, 0.999997, 2.3e-6), (rewards, 7.5e-7, -0.5, 1.8e-6)):
        assert found[[0, 2]].tolist() == pytest.approx([least, most], rel=0.02)
        assert found[1].item() == pytest.approx(middle, abs=2e-6)
    assert min_form_rewards(torch.tensor(SCORES[2]), 0.1).tolist() == pytest.approx([0.4386, 0.1883], abs=1e-4)


def test_numbers_on_the_way_to_the_worked_ones():
    """Weights .7311 and .2689, sums -.5 and .6269; baselines of a token .6269 / 5 and -.5 / 10, of a step .3134 and -.1667."""
    first, second = (torch.tensor(SCORES[n], dtype=torch.float64) for n in (3, 2))
    r1, r2 = min_form_rewards(first, 0.1), min_form_rewards(second, 0.1)
    assert (r2 / second).tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)
    assert (r1.sum().item(), r2.sum().item()) == pytest.approx((-0.5, 0.6269), abs=1e-4)
    n1, n2 = torch.tensor([4.0, 2.0, 4.0]), torch.tensor([3.0, 2.0])
    assert token_baseline([(r2, n2)], torch.ones(1)).tolist() == pytest.approx([0.12538], abs=1e-5)
    assert token_baseline([(r1, n1)], torch.ones(1)).tolist() == pytest.approx([-0.05], abs=1e-5)
    assert (r1 - token_baseline([(r2, n2)], n1)).tolist() == pytest.approx([-0.5015, -0.7508, -0.5015], abs=1e-4)
    assert (r2 - token_baseline([(r1, n1)], n2)).tolist() == pytest.approx([0.5886, 0.2883], abs=1e-4)
    assert step_baseline([(r2, n2)], n1).tolist() == pytest.approx([0.3134] * 3, abs=1e-4)
    assert step_baseline([(r1, n1)], n2).tolist() == pytest.approx([-0.1667] * 2, abs=1e-4)


@pytest.mark.parametrize(
    ("baseline", "outcome_weight", "expected"),
    [
        ("token", 0.0, [[-1.7538, -1.2523, -0.5015], [0.8769, 0.2883]]),
        ("token", 1.0, [[-2.7538, -2.2523, -1.5015], [1.8769, 1.2883]]),
        ("step", 0.0, [[-1.4403, -1.1269, -0.3134], [0.9602, 0.3549]]),
    ],
)
def test_worked_numbers(baseline, outcome_weight, expected, monkeypatch):
    monkeypatch.setattr(pure, "step_scores", lambda judged, unmatched: SCORES[len(judged.verdict.steps)])
    credited = PURECredit(baseline=baseline, outcome_weight=outcome_weight)(TWO)
    for found, numbers in zip(at_step_ends(credited), expected, strict=True):
        assert found == pytest.approx(numbers, abs=2e-4)
    assert [c.outcome_advantage for c in credited] == [-outcome_weight, outcome_weight]


def with_scores(judged, *scores, low=-1.0, high=1.0):
    return dataclasses.replace(judged, evidence=(StepScores(scores, low, high),))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize(
    ("baseline", "outcome_weight", "expected"),
    [
        ("token", 1.0, [[-2.7538, -2.2523, -1.5015], [1.8769, 1.2883]]),
        ("step", 0.0, [[-1.4403, -1.1269, -0.3134], [0.9602, 0.3549]]),
    ],
)
def test_worked_numbers_of_declared_scores(baseline, outcome_weight, expected, low, high):
    """On the source's scale and on [0, 1], where P(good) - P(bad) = .8 is .9."""
    judged = [
        with_scores(s, *((p + 1) / 2 * (high - low) + low for p in SCORES[len(s.verdict.steps)]), low=low, high=high)
        for s in TWO.solutions
    ]
    credited = ScorePURECredit(baseline=baseline, outcome_weight=outcome_weight)(group(*judged))
    for found, numbers in zip(at_step_ends(credited), expected, strict=True):
        assert found == pytest.approx(numbers, abs=2e-4)


@given(st.lists(with_lengths, min_size=2, max_size=5), st.sampled_from(["step", "token"]))
def test_scores_of_labels_give_what_labels_give(solutions, baseline):
    """``LabelScores`` on [0, 1]: 1 and 0 are +1 and -1, its 0.5 for UNMATCHED is 0."""
    scores = {"correct": 1.0, "incorrect": 0.0, "matched": 0.0, "unmatched": LabelScores().unmatched}
    judged = [with_scores(s, *(scores[label.value] for label in s.verdict.labels), low=0.0) for s in solutions]
    by_scores = ScorePURECredit(baseline=baseline)(group(*judged))
    for one, other in zip(by_scores, PURECredit(baseline=baseline)(group(*solutions)), strict=True):
        assert one.advantages.tolist() == pytest.approx(other.advantages.tolist(), abs=1e-6)


@pytest.mark.parametrize("lacking", [incorrect("UM"), with_scores(incorrect("UM"), None, None)])
def test_without_scores_there_is_the_outcome_alone(lacking):
    """Lengths 1 and 9: the others are credited as if it were not there, but for the outcomes' mean."""
    judged = [with_scores(correct("C", lengths=[1]), 0.5), with_scores(correct("C", lengths=[9]), 0.25)]
    *others, one = ScorePURECredit()(group(*judged, lacking))
    assert one.advantages.tolist() == [-1.0] * 3  # 0 minus the mean of 1 and 1
    assert [c.process_rewards for c in others] == [pytest.approx((0.25,)), pytest.approx((-0.25,))]
    assert [c.advantages.tolist() for c in others] == [pytest.approx([0.75]), pytest.approx([0.25] * 9)]
    _, only = ScorePURECredit()(group(incorrect("UM"), judged[0]))
    assert only.advantages.tolist() == [1.0]


def test_scores_are_needed_and_must_be_of_all_steps():
    with pytest.raises(ConfigError, match="ScorePURECredit needs StepScores"):
        checked_evidence(None, ScorePURECredit())
    with pytest.raises(ValueError, match="has 1 scores for 2 steps"):
        ScorePURECredit()(group(with_scores(correct("CC"), 0.5), with_scores(correct("CC"), 0.5, 0.5)))


def test_the_step_baseline_does_not_see_lengths_and_the_token_baseline_does():
    """Lengths 1 and 9. One step each, scores -1 and +1: r = -1 and 1 whatever the temperature."""
    judged = group(incorrect("M", lengths=[9]), correct("C", lengths=[1]))
    by_step = at_step_ends(PURECredit(outcome_weight=0.0)(judged))
    assert by_step == [[-2.0], [2.0]]
    # b = 1 / 1 for each of 9 tokens, and -1 / 9 for one.
    assert at_step_ends(PURECredit(baseline="token", outcome_weight=0.0)(judged)) == [
        [-10.0],
        [pytest.approx(1 + 1 / 9)],
    ]


@pytest.mark.parametrize(
    "judged",
    [incorrect("AAA"), incorrect("UMM", stop=StopReason.LENGTH), incorrect("UUU", answer_step=False)],
    ids=["abstained", "truncated", "no answer block"],
)
@pytest.mark.parametrize("baseline", ["step", "token"])
def test_without_usable_labels_there_is_the_outcome_alone(judged, baseline):
    labelled = [correct("CC"), incorrect("UM")]
    alone = PURECredit(baseline=baseline, outcome_weight=0.0)(group(*labelled))
    *others, one = PURECredit(baseline=baseline)(group(*labelled, judged))
    assert one.advantages.tolist() == [-0.5] * 4  # 0 minus the mean of 1 and 0
    for with_outcome, process in zip(others, alone, strict=True):
        assert with_outcome.process_rewards == process.process_rewards
    # The only one with labels has nothing to be compared with.
    _, only = PURECredit(baseline=baseline)(group(judged, correct("CIC")))
    assert only.advantages.tolist() == [1.0] * 4


@given(
    st.lists(with_lengths, min_size=2, max_size=5),
    st.sampled_from(["step", "token"]),
    st.sampled_from([0.0, 0.5, None]),
    st.sampled_from([0.1, 1.0]),
)
def test_against_a_naive_reference(solutions, baseline, unmatched, temperature):
    scale = {"correct": 1.0, "incorrect": -1.0, "matched": -1.0, "unmatched": unmatched}
    rewards, lengths, scored = [], [], []
    for s in solutions:
        scores = [scale[label.value] for label in s.verdict.labels]
        total = sum(math.exp(-p / temperature) for p in scores if p is not None)
        rewards.append([None if p is None else p * math.exp(-p / temperature) / total for p in scores])
        scored.append(len(scores) - scores.count(None))
        lengths.append([step.token_end - step.token_start for step in s.verdict.steps])
    solved = [s.outcome is Outcome.CORRECT for s in solutions]
    credited = PURECredit(temperature, baseline, 0.7, unmatched)(group(*solutions))
    for i, one in enumerate(credited):
        others = [k for k in range(len(solutions)) if k != i]
        if baseline == "step":
            per_step = sum(sum(r for r in rewards[k] if r is not None) / scored[k] for k in others) / len(others)
            left = [0.0 if r is None else r - per_step for r in rewards[i]]
        else:
            pairs = [(r, n) for k in others for r, n in zip(rewards[k], lengths[k], strict=True) if r is not None]
            per_token = sum(r for r, _ in pairs) / sum(n for _, n in pairs)
            left = [0.0 if r is None else r - per_token * n for r, n in zip(rewards[i], lengths[i], strict=True)]
        outcome = 0.7 * (solved[i] - sum(solved[k] for k in others) / len(others))
        steps = one.judged.verdict.steps
        for t, advantage in enumerate(one.advantages.tolist()):
            ahead = [r for step, r in zip(steps, left, strict=True) if step.token_end > t]
            assert advantage == pytest.approx(sum(ahead) + outcome, abs=1e-4)


def test_without_tokens_among_the_others_the_token_baseline_is_nothing():
    """r = -1 and 1; sum(r) / sum(L) of the second one's others is -1 / 0, which would be an infinite reward."""
    empty, other = incorrect("M", lengths=[0]), correct("C", lengths=[2])
    one, two = PURECredit(baseline="token", outcome_weight=0.0)(group(empty, other))
    assert (one.process_rewards, one.advantages.tolist()) == ((-1.0,), [])  # 0 tokens times 1 / 2
    assert (two.process_rewards, two.advantages.tolist()) == ((1.0,), [1.0, 1.0])


@pytest.mark.parametrize("baseline", ["step", "token"])
def test_a_step_without_a_score_is_left_out(baseline):
    """Of UMM the first step is in nothing: r = 0, -.5, -.5 and 1; b = 1 of the other, and -1 / 2 steps or -1 / 5 tokens."""
    judged = group(incorrect("UMM", lengths=[9, 2, 3]), correct("C", lengths=[1]))
    one, other = PURECredit(baseline=baseline, outcome_weight=0.0, unmatched=None)(judged)
    left = [-1.5, -1.5] if baseline == "step" else [-2.5, -3.5]
    assert one.process_rewards == pytest.approx((0.0, *left))
    assert one.advantages.tolist() == pytest.approx([sum(left)] * 11 + [left[1]] * 3)
    assert other.process_rewards == pytest.approx((1.5,) if baseline == "step" else (1.2,))


def test_settings_are_refused():
    with pytest.raises(ConfigError, match="temperature must be positive"):
        PURECredit(temperature=0.0)
    with pytest.raises(ConfigError, match="outcome_weight must be finite and not be negative"):
        PURECredit(outcome_weight=-1.0)
    with pytest.raises(ConfigError, match="baseline: expected step or token, got 'steps'"):
        PURECredit(baseline="steps")
    with pytest.raises(ConfigError, match="unmatched must be in"):
        PURECredit(unmatched=2.0)
