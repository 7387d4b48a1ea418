"""The crediting stage: filter before group statistics, credit, batch stage, with what parts of users may return."""

import dataclasses

import pytest

from lit_tpgrpo.credit import CAPOCredit, MeanBaseline, OutcomeCredit, ScoreSupervisedCredit, VinePPOCredit
from lit_tpgrpo.credit.batch import StdScaling, Whitening
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Continuations, StepScores
from lit_tpgrpo.rollout.crediting import Crediting
from tests.credit.credit_cases import correct, group, incorrect, undecided

G = 4
MEAN = OutcomeCredit(baseline=MeanBaseline())


def numbered(*solutions):
    """A group whose solutions are numbered, as sampled ones are."""
    return group(
        *(dataclasses.replace(s, solution=dataclasses.replace(s.solution, sample=i)) for i, s in enumerate(solutions))
    )


GROUPS = {
    2: numbered(correct("C"), incorrect("M"), incorrect("MM"), incorrect("M")),
    5: numbered(correct("C"), correct("CC"), incorrect("M"), undecided("A")),
}


class Keeps:
    """Keeps the same positions of every group and notes what it sees."""

    def __init__(self, *positions):
        self.positions, self.seen = positions, []

    def summarise(self, group):
        return (group.accuracy,)

    def survivors(self, groups, batch):
        self.seen.append((len(groups), list(batch)))
        return [self.positions for _ in groups]


def values(credited):
    return {i: s.outcome_advantage for i, s in credited.items()}


def test_indices_are_those_of_the_round():
    assert list(Crediting(MEAN, G)(GROUPS)) == [8, 9, 10, 11, 20, 21, 22, 23]


def test_removed_solutions_are_in_no_statistics():
    """Of 1, -1, -1, -1 the first two stay: mean 0. Of 1, 1, -1 the first two: mean 1."""
    keeps = Keeps(0, 1)
    credited = Crediting(MEAN, G, keeps)(GROUPS)
    assert values(credited) == {8: 1.0, 9: -1.0, 20: 0.0, 21: 0.0}
    assert keeps.seen == [(2, [(0.25,), (2 / 3,)])]


def test_groups_may_be_ragged():
    class One(Keeps):
        def survivors(self, groups, batch):
            return [(0, 3), (0, 1, 2)]

    credited = Crediting(MEAN, G, One())(GROUPS)
    assert values(credited) == pytest.approx({8: 1.0, 11: -1.0, 20: 2 / 3, 21: 2 / 3, 22: -4 / 3})


@pytest.mark.parametrize("positions", [(), (2,)])
def test_fewer_than_two_survivors_are_not_credited(positions):
    assert Crediting(MEAN, G, Keeps(*positions))(GROUPS) == {}


def test_a_batch_stage_covers_compared_solutions_alone():
    """Advantages 1.5 (2 tokens), -.5 (2, 3, 2 tokens), 2/3 (2 and 3), -4/3 (2); the undecided one keeps 0."""
    groups = GROUPS | {6: numbered(correct("C"), undecided("A"))}
    credited = Crediting(MEAN, G, batch_stage=Whitening(ddof=0))(groups)
    tokens = [1.5] * 2 + [-0.5] * 7 + [2 / 3] * 5 + [-4 / 3] * 2
    mean = sum(tokens) / 16
    std = (sum((t - mean) ** 2 for t in tokens) / 16) ** 0.5
    assert credited[8].advantages.tolist() == pytest.approx([(1.5 - mean) / std] * 2)
    assert credited[22].advantages.tolist() == pytest.approx([(-4 / 3 - mean) / std] * 2)
    assert credited[22].outcome_advantage == pytest.approx(-4 / 3)
    assert not any(credited[i].advantages.any() for i in (23, 24, 25))


@pytest.mark.parametrize(
    ("credit", "known"),
    [
        (VinePPOCredit(), [Continuations(((1.0, 0.0),)), Continuations(((0.0, 0.0),))]),
        (ScoreSupervisedCredit(), [StepScores((1.0,), 0.0, 1.0), StepScores((0.0,), 0.0, 1.0)]),
    ],
)
def test_a_batch_stage_gives_no_credit_to_a_solution_without_evidence(credit, known):
    """Advantages .5 and 0, or .7071 and -.7071, of 2 tokens each: 1 and -1 as without the last three, of 9 tokens."""
    judged = [dataclasses.replace(s, evidence=(e,)) for s, e in zip((correct("C"), incorrect("M")), known, strict=True)]
    lacking = [incorrect("MMM", lengths=[9, 9, 9])] * 3
    credited = Crediting(credit, 8, batch_stage=Whitening(ddof=0))({0: numbered(*judged, *lacking)})
    assert credited[0].advantages.tolist() == pytest.approx([1.0] * 2)
    assert credited[1].advantages.tolist() == pytest.approx([-1.0] * 2)
    assert not any(credited[i].advantages.any() for i in (2, 3, 4))


def test_a_batch_stage_covers_groups_that_are_alike():
    """Their advantage 0 is a comparison: tokens 1.5 x 2, -.5 x 6 and 0 x 4 have mean 0 and deviation .5 ** .5."""
    for alike in (OutcomeCredit(baseline=MeanBaseline()), CAPOCredit()):
        both = {0: numbered(correct("C"), correct("C")), 1: numbered(correct("C"), *[incorrect("M")] * 3)}
        credited = Crediting(alike, G, batch_stage=StdScaling())(both)
        assert credited[0].is_compared
    credited = Crediting(MEAN, G, batch_stage=StdScaling())(both)
    assert credited[4].advantages.tolist() == pytest.approx([1.5 / 0.5**0.5] * 2)


def test_nothing_is_expected_of_a_rank_without_groups():
    assert Crediting(MEAN, G, Keeps(0, 1), Whitening())({}) == {}


class Broken(Whitening):
    def rescale(self, solutions, batch):
        return [s.advantages[:-1] for s in solutions]


class Lazy(Keeps):
    def survivors(self, groups, batch):
        return ((0, 1) for _ in groups)


class Single(Keeps):
    def survivors(self, groups, batch):
        return [0 for _ in groups]


@pytest.mark.parametrize(
    ("crediting", "message"),
    [
        (
            Crediting(MEAN, G, Keeps(1, 0)),
            "Keeps.survivors must return ascending positions from 0 to 3 for problem 'p'",
        ),
        (Crediting(MEAN, G, Keeps(0, 4)), "Keeps.survivors must return ascending positions"),
        (
            Crediting(MEAN, G, batch_stage=Broken()),
            r"Broken.rescale must return tensors of finite .* \(2,\), got shape",
        ),
        (Crediting(MEAN, G, Lazy()), "Lazy.survivors must return a sequence, got"),
        (Crediting(MEAN, G, Single()), "Single.survivors must return ascending positions from 0 to 3"),
        (Crediting(lambda group: (), G), "must return one CreditedSolution for each of the 4 solutions"),
    ],
)
def test_what_parts_return_is_checked(crediting, message):
    with pytest.raises(ConfigError, match=message):
        crediting(GROUPS)
