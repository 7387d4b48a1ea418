"""Measure a judge against exact step truth: ``python -m lit_tpgrpo.datamodules.arithmetic.judge_report --level 2``.

Prints precision, recall and F1 per label with support, the confusion matrix, and what was left out, for chains of the
noisy writer or, with ``--samples model``, sampled from the packaged tiny policy. A second table covers only the correct
solutions for which the paper's premise holds (Stage I: every wrong step was corrected by a reflection): in the remaining
ones errors cancelled out unnoticed, which a judge that only reads and does not recalculate cannot detect.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lit_tpgrpo.datamodules.arithmetic.chains import NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.problems import DEFAULT_LEVEL, LEVELS, Task, make_problems
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, Unparsable, solution_truth
from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import Outcome, Problem, Solution, StepLabel, StopReason, Verdict
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.token_arrays import token_ints

JUDGES: dict[str, Callable[[], Judge]] = {"rule": RuleJudge}

LabelledCase = tuple[JudgeCase, tuple[StepLabel, ...]]


def label_cases(pairs: Sequence[tuple[Problem, str]]) -> tuple[list[LabelledCase], Counter[str]]:
    """Return cases with the true label of every step (segmented by rules), and counts of why other texts have no labels."""
    cases: list[LabelledCase] = []
    left_out: Counter[str] = Counter()
    for problem, text in pairs:
        truth = solution_truth(problem, text)
        if isinstance(truth, Unparsable):
            left_out[truth.reason] += 1
            continue
        # Only the text is labelled, so one token per character replaces a tokenizer.
        starts = tuple(range(len(text)))
        steps = segment_steps(text, starts, len(starts))
        if len(steps) != len(truth.steps):
            left_out["steps and paragraphs differ"] += 1
            continue
        tokens = token_ints(starts, "starts")
        nothing = np.zeros(len(text), np.float32)
        solution = Solution(problem.uid, 0, tokens[:0], tokens, nothing, StopReason.EOS, 0, text, tokens)
        outcome = Outcome.CORRECT if truth.correct else Outcome.INCORRECT
        cases.append((JudgeCase(problem, solution, outcome, steps), truth.labels))
    return cases, left_out


def premise_holds(case: LabelledCase) -> bool:
    """Return whether a solution is correct and all its errors were corrected: no wrong step holds at the end."""
    truth = solution_truth(case[0].problem, case[0].solution.text)
    return isinstance(truth, ChainTruth) and truth.correct and truth.all_errors_corrected


def writer_samples(level: str, n: int, seed: int) -> list[tuple[Problem, str]]:
    """Write one noisy chain for each of n held-out problems."""
    rng = random.Random(f"judge report/{level}/{seed}")
    problems = make_problems(level, n, seed, "heldout")
    return [(p, write_chain(Task.from_prompt(p.prompt), NoiseRates(), rng).text) for p in problems]


def policy_samples(level: str, n: int, seed: int) -> list[tuple[Problem, str]]:
    """Sample one solution of the packaged tiny policy, at temperature 1, for each of n held-out problems."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    from lit_tpgrpo.datamodules.arithmetic.measure import sample_texts
    from lit_tpgrpo.datamodules.arithmetic.tiny import tiny_policy_path

    path = tiny_policy_path()
    model, tokenizer = Qwen2ForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    problems = make_problems(level, n, seed, "heldout")
    texts = sample_texts(model, tokenizer, problems, seed, greedy=False)
    return [(problem, text) for problem, (text, *_) in zip(problems, texts, strict=True)]


def confusion(counts: LabelCounts) -> str:
    """Format the confusion matrix: steps by true label (rows) and predicted label (columns)."""
    given = [label for label in StepLabel if any(g is label for _, g in counts.pairs)]
    lines = [f"{'true / given':<14}" + "".join(f"{g.value:>11}" for g in given)]
    for true in counts.present():
        lines.append(f"{true.value:<14}" + "".join(f"{counts.pairs[true, g]:>11}" for g in given))
    return "\n".join(lines)


class LabelReport:
    """Scores of a judge's verdicts on solutions of the domain: of all, and of those for which the paper's premise holds."""

    def __init__(self, pairs: Sequence[tuple[Problem, str]]) -> None:
        self.labelled, self.left_out = label_cases(pairs)
        self.premised = frozenset(i for i, case in enumerate(self.labelled) if premise_holds(case))
        self.counts = LabelCounts()
        self.premise_counts = LabelCounts()

    @property
    def cases(self) -> list[JudgeCase]:
        """The cases to judge."""
        return [case for case, _ in self.labelled]

    def truth(self, index: int) -> list[str]:
        """Return the true labels of a case."""
        return [label.value for label in self.labelled[index][1]]

    def known_labels(self, index: int) -> tuple[StepLabel, ...]:
        """Return the true labels of a case: all of them are known."""
        return self.labelled[index][1]

    def add(self, index: int, verdict: Verdict) -> None:
        """Count the verdict on a case."""
        self.counts.add(*self.labelled[index], verdict)
        if index in self.premised:
            self.premise_counts.add(*self.labelled[index], verdict)

    def heading(self) -> str:
        """Return a line that says how many solutions are correct, incorrect and without known labels."""
        correct = sum(case.outcome is Outcome.CORRECT for case in self.cases)
        missing = sum(self.left_out.values())
        return (
            f"{len(self.labelled) + missing} solutions: {correct} correct, {len(self.labelled) - correct} incorrect, "
            f"{missing} without known truth {dict(self.left_out) or ''}".rstrip()
        )

    def tables(self) -> str:
        """Return the tables for all solutions and for the correct ones in which every error was corrected."""
        correct = sum(case.outcome is Outcome.CORRECT for case in self.cases)
        return "\n".join(
            (
                self.counts.table(),
                confusion(self.counts),
                f"\ncorrect solutions in which every error was corrected: {len(self.premised)} of {correct}",
                self.premise_counts.table(),
            )
        )


def report(judge: Judge, pairs: Sequence[tuple[Problem, str]]) -> str:
    """Judge the solutions and return the full report as text."""
    labels = LabelReport(pairs)
    for index, verdict in judge.judge(labels.cases):
        labels.add(index, verdict)
    metrics = ", ".join(f"{name} {value:g}" for name, value in judge.metrics().items())
    return "\n".join((labels.heading(), f"judge {judge.name}: {metrics}", labels.tables()))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=LEVELS, default=DEFAULT_LEVEL)
    parser.add_argument("--n", type=int, default=2000, help="solutions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", choices=JUDGES, default="rule")
    parser.add_argument("--samples", choices=("writer", "model"), default="writer")
    args = parser.parse_args()
    pairs = (policy_samples if args.samples == "model" else writer_samples)(args.level, args.n, args.seed)
    judge = JUDGES[args.judge]()
    try:
        print(report(judge, pairs))
    finally:
        judge.close()


if __name__ == "__main__":
    main()
