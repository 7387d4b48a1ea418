"""VinePPO and score-supervised credit: worked numbers, missing evidence, lengths 1 and 9, the order of the group."""

import dataclasses

import pytest

from lit_tpgrpo.credit import CreditAssignment, ProcessSupervisedCredit, ScoreSupervisedCredit, VinePPOCredit
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Continuations, StepScores
from lit_tpgrpo.functional.continuation_values import EntropyValue, HardValue, SoftValue
from lit_tpgrpo.judges.evidence import MonteCarloContinuations
from lit_tpgrpo.judges.evidence.base import Continued, EvidenceCase
from lit_tpgrpo.search.base import AGGREGATES
from tests.credit.credit_cases import correct, group, incorrect, undecided

THIRD, TWO_THIRDS = (1.0, 0.0, 0.0), (1.0, 1.0, 0.0)


def continued(judged, *outcomes):
    return dataclasses.replace(judged, evidence=(Continuations(outcomes),))


def scored(judged, *scores):
    return dataclasses.replace(judged, evidence=(StepScores(scores, 0.0, 1.0),))


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


def test_vineppo_worked_numbers_and_lengths():
    """V = (1/3, 2/3, 0) and outcome 0; V = (1/3, 2/3, 1) and outcome 1. Lengths 1 and 9 give no more and no less."""
    wrong = continued(incorrect("UMM", lengths=[1, 9, 2]), THIRD, TWO_THIRDS, (0.0, 0.0, 0.0))
    right = continued(correct("CIC", lengths=[9, 1, 1]), THIRD, TWO_THIRDS, (1.0, 1.0, 1.0))
    one, two = VinePPOCredit()(group(wrong, right))
    assert one.advantages.tolist() == pytest.approx([1 / 3] + [-2 / 3] * 9 + [0.0] * 2)
    assert two.advantages.tolist() == pytest.approx([1 / 3] * 9 + [1 / 3] + [0.0])
    # The steps add up to the outcome less the value of the prompt.
    assert sum(one.process_rewards) == pytest.approx(one.outcome_advantage) == pytest.approx(-1 / 3)
    assert sum(two.process_rewards) == pytest.approx(two.outcome_advantage) == pytest.approx(2 / 3)


def test_vineppo_steps_beyond_the_limit_have_no_credit():
    """Known values of the first two steps only: the second gets outcome - V, the others 0."""
    right = continued(correct("CCCC"), THIRD, TWO_THIRDS, None, None)
    credited, _ = VinePPOCredit()(group(right, continued(incorrect("M"), THIRD)))
    assert credited.advantages.tolist() == pytest.approx([1 / 3, 1 / 3, 0.0, 0.0, 0.0])


def test_vineppo_shares_the_change_between_known_values():
    """From 1/3 to 1 over two steps of 1 and 9 tokens, of which the second's value is not known: 1/3 each, and no leap to o."""
    wrong = continued(incorrect("UUM", lengths=[1, 9, 2]), THIRD, None, (1.0, 1.0, 1.0))
    credited, _ = VinePPOCredit()(group(wrong, continued(correct("C"), THIRD)))
    assert credited.advantages.tolist() == pytest.approx([1 / 3] * 10 + [-1.0] * 2)
    assert sum(credited.process_rewards) == pytest.approx(credited.outcome_advantage) == pytest.approx(-1 / 3)


def test_vineppo_of_one_step_is_the_outcome_less_the_prompts_value():
    one, two = VinePPOCredit()(group(continued(correct("C"), THIRD), continued(incorrect("M"), THIRD)))
    assert one.advantages.tolist() == pytest.approx([2 / 3] * 2)
    assert two.advantages.tolist() == pytest.approx([-1 / 3] * 2)


@pytest.mark.parametrize(
    "lacking", [correct("CC"), continued(correct("CC"), None, THIRD), continued(correct("CC"), (), THIRD)]
)
def test_without_a_value_of_the_prompt_there_is_no_credit(lacking):
    none, some = VinePPOCredit()(group(lacking, continued(incorrect("M"), THIRD)))
    assert not none.advantages.any()
    assert some.advantages.any()


class Asked:
    """Tools that continue every prefix correctly and note where it ends."""

    sampling, current = SamplingParams(max_new_tokens=5), True

    def __init__(self):
        self.lengths = []

    def key(self, *content):
        return str(content)

    def stored(self, keys):
        return {}

    def store(self, values): ...

    def continue_from(self, prefixes, n, params):
        self.lengths += [p.length for p in prefixes]
        yield tuple(Continued(p.key, (1.0,) * n, n) for p in prefixes)


def test_a_last_step_without_tokens_is_not_continued():
    """Its prefix would be the whole solution; the step before it is credited with the outcome less its value, 1."""
    judged, tools = incorrect("UMM", lengths=[2, 3, 0]), Asked()
    [given] = MonteCarloContinuations(samples=2).provide([EvidenceCase(group(judged).problem, judged)], tools)
    assert sorted(tools.lengths) == [0, 2]
    assert given == Continuations(((1.0, 1.0), (1.0, 1.0), None))
    credited, _ = VinePPOCredit()(group(dataclasses.replace(judged, evidence=(given,)), correct("C")))
    assert credited.advantages.tolist() == [0.0, 0.0, -1.0, -1.0, -1.0]


def test_evidence_on_other_steps_is_refused():
    with pytest.raises(ValueError, match="sample 0 of problem 'p' has 1 values for 2 steps"):
        VinePPOCredit()(group(continued(correct("CC"), THIRD), correct("C")))
    with pytest.raises(ValueError, match="sample 0 of problem 'p' has 1 scores for 2 steps"):
        ScoreSupervisedCredit()(group(scored(correct("CC"), 1.0), correct("C")))


@pytest.mark.parametrize(
    ("ddof", "expected"),
    [
        (0, [[1.6330, 0.8165], [-1.6330, -2.4495, -1.2247]]),
        (1, [[1.4606, 0.7303], [-1.4606, -2.1909, -1.0954]]),
    ],
)
def test_scores_are_standardised_over_all_steps(ddof, expected):
    """The worked numbers of process-supervised GRPO: (1, 1) and (1, 0, 0), mean .6."""
    solutions = group(
        scored(correct("CC", lengths=[9, 1]), 1.0, 1.0), scored(incorrect("MMM", lengths=[1, 9, 1]), 1.0, 0.0, 0.0)
    )
    credited = ScoreSupervisedCredit(ddof=ddof)(solutions)
    for one, numbers in zip(credited, expected, strict=True):
        steps = one.judged.verdict.steps
        assert [one.advantages[s.token_end - 1].item() for s in steps] == pytest.approx(numbers, abs=1e-3)
        assert [one.advantages[s.token_start].item() for s in steps] == pytest.approx(numbers, abs=1e-3)


def test_scores_of_labels_give_what_labels_give():
    judged = [correct("CIC"), incorrect("MMM"), correct("CC")]
    table = {"correct": 1.0, "incorrect": 0.0, "matched": 0.0}
    by_score = [scored(s, *(table[label.value] for label in s.verdict.labels)) for s in judged]
    expected = advantages(ProcessSupervisedCredit(eps=0.0)(group(*judged)))
    for one, numbers in zip(ScoreSupervisedCredit(eps=0.0)(group(*by_score)), expected, strict=True):
        assert one.advantages.tolist() == pytest.approx(numbers)


def test_steps_and_solutions_without_scores_are_left_out():
    """Scores 1 and 0 on one step each: mean .5, sample deviation .7071; the middle step of the first has none."""
    first, second, third = ScoreSupervisedCredit(eps=0.0)(
        group(scored(correct("CCC"), None, 1.0, None), scored(incorrect("M"), 0.0), correct("CC"))
    )
    assert first.advantages.tolist() == pytest.approx([0.7071, 0.7071, 0.0, 0.0], abs=1e-4)
    assert second.advantages.tolist() == pytest.approx([-0.7071] * 2, abs=1e-4)
    assert not third.advantages.any()


KINDS = [
    (VinePPOCredit(), lambda s: continued(s, *[THIRD, TWO_THIRDS, None][: len(s.verdict.steps)])),
    (ScoreSupervisedCredit(), lambda s: scored(s, *[0.25, 0.5, 1.0][: len(s.verdict.steps)])),
]


@pytest.mark.parametrize(("credit", "evidenced"), KINDS, ids=["vineppo", "scores"])
def test_what_all_credit_assignments_keep_to(credit, evidenced):
    assert isinstance(credit, CreditAssignment)
    judged = [evidenced(s) for s in (correct("CIC"), incorrect("UM"), correct("C"))]
    straight = advantages(credit(group(*judged)))
    assert advantages(credit(group(*reversed(judged)))) == straight[::-1]
    assert advantages(credit(group(undecided("AA"), *judged))) == [[0.0] * 3, *straight]
    assert any(map(any, straight))
    assert not any(map(any, advantages(credit(group(judged[0], undecided("A"))))))
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        credit(group(judged[0]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SoftValue(), 0.375),
        (HardValue(), 1.0),
        (EntropyValue(0.01), 0.3762),
        (EntropyValue(1.0), 0.4973),
        (EntropyValue(10.0), 0.9019),
    ],
)
def test_three_of_eight(value, expected):
    assert value([1.0] * 3 + [0.0] * 5) == pytest.approx(expected, abs=1e-4)
    assert value([0.0] * 8) == 0.0
    assert value([1.0] * 8) == 1.0


def test_math_shepherds_scores_of_a_solution():
    """Of 8 continuations 6, 3 and none are correct: hard 1, 1, 0, soft .75, .375, 0; the least is 0 in both."""
    counts = [[1.0] * n + [0.0] * (8 - n) for n in (6, 3, 0)]
    hard, soft = [HardValue()(c) for c in counts], [SoftValue()(c) for c in counts]
    assert (hard, soft) == ([1.0, 1.0, 0.0], [0.75, 0.375, 0.0])
    assert AGGREGATES["min"](hard) == AGGREGATES["min"](soft) == 0.0


@pytest.mark.parametrize(("eta", "expected"), [(0.01, 0.5012), (1.0, 0.6201), (10.0, 0.9307), (5000.0, 0.9999)])
def test_entropy_value_of_a_half(eta, expected):
    assert EntropyValue(eta)([1.0, 0.0]) == pytest.approx(expected, abs=1e-4)


def test_scores_keep_to_their_scale_and_eta_is_positive():
    with pytest.raises(ValueError, match=r"must lie in \[0.0, 1.0\], the declared scale, got 1.5"):
        StepScores((1.5,), 0.0, 1.0)
    with pytest.raises(ValueError, match="eta must be positive"):
        EntropyValue(0.0)
