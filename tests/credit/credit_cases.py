"""Hand-made judged groups: a label string per solution, C/I/M/U/A, every step being one token but the answer's two."""

import dataclasses
import itertools

from hypothesis import strategies as st

from lit_tpgrpo.evidence import (
    AnswerProbes,
    Continuations,
    Preferences,
    ReferenceLogprobs,
    SolutionGrade,
    StepScores,
    TokenRewards,
)
from lit_tpgrpo.records import (
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Problem,
    Solution,
    Step,
    StepLabel,
    StopReason,
    Verdict,
)

LABELS = {label.name[0]: label for label in StepLabel}


def solution(labels, outcome, stop=StopReason.EOS, answer_step=True, lengths=None):
    """A judged solution; ``labels`` names its steps' labels, the last being the answer step. ``lengths`` are their tokens."""
    last = len(labels) - 1
    ends = [0, *itertools.accumulate([1] * last + [2] if lengths is None else lengths)]
    steps = tuple(
        Step(2 * i, 2 * i + 2, start, end, is_answer=i == last and answer_step)
        for i, (start, end) in enumerate(itertools.pairwise(ends))
    )
    n = ends[-1]
    sampled = Solution("p", 0, (1, 2), (3,) * n, (-1.0,) * n, stop, 0, "x" * 2 * len(labels), tuple(range(n)))
    return JudgedSolution(sampled, outcome, "1", Verdict(steps, tuple(LABELS[c] for c in labels)))


def correct(labels, **settings):
    return solution(labels, Outcome.CORRECT, **settings)


def incorrect(labels, **settings):
    return solution(labels, Outcome.INCORRECT, **settings)


def undecided(labels, **settings):
    return solution(labels, Outcome.UNDECIDED, **settings)


def retold(token_spans, labels="CCC"):
    """A correct solution of four tokens with the given steps and labels, be they fewer or more."""
    judged = correct("CCC")
    steps = tuple(Step(0, 0, a, b, is_answer=i == 2) for i, (a, b) in enumerate(token_spans))
    return dataclasses.replace(judged, verdict=Verdict(steps, tuple(LABELS[c] for c in labels)))


def group(*solutions, capability=None):
    judged = JudgedGroup(Problem("p", "1 + 1?", "2"), tuple(solutions), 0.0)
    return JudgedGroup(judged.problem, judged.solutions, judged.accuracy if capability is None else capability)


def evidenced(*solutions):
    """The solutions as numbered samples, each with every kind of evidence that a credit assignment may need."""
    samples = tuple(range(len(solutions)))
    return [
        dataclasses.replace(
            judged, solution=dataclasses.replace(judged.solution, sample=i), evidence=_evidence(judged, i, samples)
        )
        for i, judged in enumerate(solutions)
    ]


def _evidence(judged, sample, samples):
    steps, tokens = range(len(judged.verdict.steps)), range(len(judged.solution.completion_ids))
    good = judged.outcome is Outcome.CORRECT
    return (
        StepScores(tuple(0.25 + 0.5 * good if j % 2 else 0.5 for j in steps), 0.0, 1.0),
        Continuations(tuple((1.0, float(good), 0.0) if j % 2 else (1.0, 0.0) for j in steps)),
        TokenRewards(tuple(0.1 * t - good for t in tokens)),
        AnswerProbes(tuple(None if j % 3 == 2 else (0.5 + 0.4 * good, 0.25 * (j % 3)) for j in steps)),
        SolutionGrade(3.0 + 5 * good, 1.0, 10.0),
        Preferences(samples, tuple(float((other < sample) - (other > sample)) for other in samples)),
        ReferenceLogprobs([-1.0 for _ in tokens], [-1.0 - 0.1 * t for t in tokens]),
    )


labelled = st.one_of(
    st.text("CI", max_size=5).map(lambda labels: (Outcome.CORRECT, labels + "C")),
    st.text("MU", max_size=5).map(lambda labels: (Outcome.INCORRECT, labels + "M")),
)
with_lengths = labelled.flatmap(
    lambda one: st.lists(st.sampled_from([1, 2, 9]), min_size=len(one[1]), max_size=len(one[1])).map(
        lambda lengths: solution(one[1], one[0], lengths=lengths)
    )
)
"""Solutions with labels that fit their outcome, and steps of 1, 2 or 9 tokens."""
