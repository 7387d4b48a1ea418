"""Log-probs under the reference between collectives: what fails on one rank, what is not finite, what is stored."""

from __future__ import annotations

import math

import pytest
import torch

from lit_tpgrpo.errors import NonFiniteLossError, StorageError, raised_on_all_ranks
from lit_tpgrpo.evidence import ReferenceLogprobs
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Outcome, Problem, Solution, StopReason, Verdict
from lit_tpgrpo.rollout.reference import _key, add_reference_logprobs
from lit_tpgrpo.rollout.round_file import RoundFile

NAN = math.nan


class Scorer:
    """Gives -1 under the policy and -2 under the reference, but what it is told for a completion."""

    def __init__(self, reference=-2.0, policy=-1.0, told=None, weights="initial"):
        self.reference, self.policy, self.told = reference, policy, told or {}
        self.calls, self.weights = [], weights

    def reference_fingerprint(self):
        return self.weights

    def completion_logprobs(self, sequences, temperature):
        self.calls.append(("policy", len(sequences)))
        return [torch.full((2,), self.policy) for _ in sequences]

    def completion_reference_logprobs(self, sequences, temperature):
        self.calls.append(("reference", len(sequences)))
        return [torch.full((2,), self.told.get(int(s.completion_ids[0]), self.reference)) for s in sequences]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "round").mkdir()
    return RoundFile(tmp_path / "round")


SOLUTIONS = [Solution("p", i, (1,), (5 + i, 3), (-0.5, -0.5), StopReason.EOS, 0, "ab", (0, 1)) for i in range(2)]


def with_logprobs(file, scorer, *, current=True):
    """Of one group of two solutions, by an engine with a mismatch."""
    judged = tuple(JudgedSolution(s, Outcome.CORRECT, "1", Verdict((), ())) for s in SOLUTIONS)
    groups = {0: JudgedGroup(Problem("p", "1 + 1?", "2"), judged, 1.0)}
    added = add_reference_logprobs(groups, 2, 1.0, file, scorer, mismatched=True, current=current)
    return [s.evidence for s in added[0].solutions]


def test_a_write_that_fails_comes_after_all_collectives_and_stops_all_ranks(file, monkeypatch):
    def full(key, logprobs):
        raise StorageError("disk full")

    monkeypatch.setattr(file, "add_reference", full)
    scorer = Scorer()
    with pytest.raises(StorageError, match="disk full") as failed:
        with_logprobs(file, scorer)
    assert scorer.calls == [("reference", 2), ("policy", 2)]
    assert raised_on_all_ranks(failed.value)


@pytest.mark.parametrize(
    ("scorer", "of"), [(Scorer(told={6: NAN}), "the reference"), (Scorer(policy=-math.inf), "the policy")]
)
def test_log_probs_that_are_not_finite_have_a_message_and_are_not_stored(file, scorer, of):
    with pytest.raises(
        NonFiniteLossError, match=f"log-probs under {of} are NaN or infinite in [12] of 2 sol"
    ) as failed:
        with_logprobs(file, scorer)
    assert raised_on_all_ranks(failed.value)
    good = Scorer()
    expected = (ReferenceLogprobs((-1.0, -1.0), (-2.0, -2.0)),)
    assert with_logprobs(file, good) == [expected, expected]
    # What was finite is stored: of the reference one solution of two and of the policy both, or the other way round.
    assert len(file.references({_key(s, 1.0, "initial") for s in SOLUTIONS})) == 2
    assert good.calls == (
        [("reference", 2), ("policy", 0)] if of == "the reference" else [("reference", 0), ("policy", 2)]
    )


def test_stored_values_that_are_not_finite_are_computed_again(file):
    again = Scorer()
    for i, (one, last) in enumerate(((NAN, -math.inf), (-2.0, -1.0))):
        file.add_reference(_key(SOLUTIONS[i], 1.0, again.reference_fingerprint()), (-2.0, one))
        file.add_score(i, SOLUTIONS[i], (-1.0, last))
    expected = (ReferenceLogprobs((-1.0, -1.0), (-2.0, -2.0)),)
    assert with_logprobs(file, again) == [expected, expected]
    assert again.calls == [("reference", 2), ("policy", 2)]


def test_a_crash_among_stores_changes_nothing_where_values_depend_on_what_is_computed_with_them(file, monkeypatch):
    class Batched(Scorer):
        """Another number for each number of sequences, as a sum rounds otherwise."""

        def completion_logprobs(self, sequences, temperature):
            return [torch.full((2,), -1.0 / len(sequences)) for _ in sequences]

        def completion_reference_logprobs(self, sequences, temperature):
            return [torch.full((2,), -2.0 / len(sequences)) for _ in sequences]

    expected = (ReferenceLogprobs((-0.5, -0.5), (-1.0, -1.0)),)
    for store in ("add_reference", "add_score"):
        (file.folder / store).mkdir()
        crashing = RoundFile(file.folder / store)
        add, stored = getattr(crashing, store), []

        def once(*args, add=add, stored=stored):
            if stored:
                raise StorageError("killed")
            stored.append(add(*args))

        monkeypatch.setattr(crashing, store, once)
        with pytest.raises(StorageError, match="killed"):
            with_logprobs(crashing, Batched())
        assert with_logprobs(RoundFile(crashing.folder), Batched()) == [expected, expected]


def test_what_the_policy_never_scored_has_no_log_probs_once_it_moved_on(file):
    scorer = Scorer()
    assert with_logprobs(file, scorer, current=False) == [(), ()]
    assert scorer.calls == [("reference", 2)]


def test_a_round_that_is_resumed_with_another_reference_does_not_mix_the_two(file):
    with_logprobs(file, Scorer())
    other = Scorer(reference=-3.0, weights="another model")
    expected = (ReferenceLogprobs((-1.0, -1.0), (-3.0, -3.0)),)
    assert with_logprobs(file, other) == [expected, expected]
    assert other.calls == [("reference", 2), ("policy", 0)]
    same = Scorer()
    assert with_logprobs(file, same)[0] == (ReferenceLogprobs((-1.0, -1.0), (-2.0, -2.0)),)
    assert same.calls == [("reference", 0), ("policy", 0)]
