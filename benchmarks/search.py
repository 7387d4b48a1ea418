"""Searches at test time beside plain sampling at equal tokens, on the embedded domain.

    python -m benchmarks.search --problems 60 --samples 8 --out benchmarks/results/search.md

Every row has accuracy and tokens a problem, all sampled tokens counted, those of solutions and steps that were not chosen
included, and majority voting over as many plain samples as those tokens pay for, from one pool: its expectation over subsets
of that size. A row says so if the pool is smaller than that: the search had more tokens then. Intervals are 95% percentile
bootstraps over problems; those of the difference are paired. A second table says what the scores know: a search over whole
solutions can choose no better than they tell right ones from wrong ones.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import transformers

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.datamodules.arithmetic.measure import is_correct
from lit_tpgrpo.datamodules.arithmetic.problems import make_problems
from lit_tpgrpo.datamodules.arithmetic.step_scores import ArithmeticStepScores
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.judges.intervals import interval
from lit_tpgrpo.judges.rule import EMBEDDED_SOURCE, RuleJudge
from lit_tpgrpo.metrics.scores import majority
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rollout.prompts import RolloutPrompt, prompt_ids
from lit_tpgrpo.search import BeamSearch, GreedyStepSearch, JudgeStepScores, Search, StepScorer, run_searches
from lit_tpgrpo.search.base import ROOT, Aggregate, Expand, Partial, Plan, solution_score
from lit_tpgrpo.search.whole import answer_of, best_of, weighted_vote
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.text.formats.think_tags import ThinkTags

SHORT_LEVELS = ("1", "2", "4")
"""The levels whose solutions fit into ``MAX_TOKENS``, and their answer blocks into ``STEP_TOKENS``."""
MAX_TOKENS, STEP_TOKENS = 176, 64
AGGREGATES: tuple[Aggregate, ...] = ("min", "last", "mean")
"""How step scores become a solution's; ``min`` is Math-Shepherd's, and the default of the searches."""
SUBSETS = 200
"""Subsets of the pool over which the expectation of plain majority voting is taken, if there are more."""


@dataclass(frozen=True, slots=True)
class SearchRow:
    """A search on all problems: share of right answers and tokens of each problem."""

    search: str
    scores: str
    right: tuple[float, ...]
    tokens: tuple[int, ...]


class OneSample(Search):
    """Sample one solution and take it."""

    def plan(self) -> Plan:
        ((solution,),) = yield Expand((ROOT,), 1, whole=True)
        return solution


class SearchBench:
    """The policy, the problems, and the pool of plain samples."""

    def __init__(self, model: str, level: str, problems: int, samples: int, seed: int) -> None:
        self.tokenizer = load_tokenizer(model)
        self.engine = HFEngine(batch_size=128)
        self.engine.load_weights(
            LoadedModel(
                load_causal_lm(model, random_init=False, dtype=torch.float32, attention="sdpa").eval(), self.tokenizer
            )
        )
        self.problems = make_problems(level, problems, seed=seed, split="heldout")
        as_trained = RolloutPrompt("{problem}")  # without the request to box the answer, as in the quickstart
        self.prompts = [prompt_ids(self.tokenizer, problem, as_trained) for problem in self.problems]
        self.seed = seed
        self.params = SamplingParams(max_new_tokens=MAX_TOKENS)
        numbered = [(i, k) for i in range(problems) for k in range(samples)]
        found = self.run([OneSample()] * len(numbered), ArithmeticStepScores(), numbered)
        self.pool = [[found[i * samples + k] for k in range(samples)] for i in range(problems)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def run(self, searches: Sequence[Search], scorer: StepScorer, numbered: Sequence[tuple[int, int]]):
        """Search for problem i with seed k for each (i, k)."""
        prompts = [self.prompts[i] for i, _ in numbered]
        seeds = [derived_seed(self.seed, "benchmark", i, k) for i, k in numbered]
        results = dict(
            run_searches(
                self.engine, scorer, self.decode, prompts, searches, self.params, seeds, step_tokens=STEP_TOKENS
            )
        )
        return [results[j] for j in range(len(numbered))]

    def is_right(self, i: int, partial: Partial) -> bool:
        return partial.is_whole and is_correct(self.problems[i], partial.text)

    def scored(self, scorer: StepScorer) -> list[list[Partial]]:
        """Return the pool with the scores of another scorer."""
        flat = [(self.problems[i].prompt, f.partial) for i, own in enumerate(self.pool) for f in own]
        scores = iter(scorer.scores([(prompt, partial.steps) for prompt, partial in flat]))
        return [
            [Partial(p.token_ids, p.logprobs, p.steps, p.stop, tuple(next(scores))) for p in (f.partial for f in own)]
            for own in self.pool
        ]

    def choices(self, name: str, scorer: StepScorer, aggregate: Aggregate) -> list[SearchRow]:
        """Return best-of-n and weighted voting over the whole pool."""
        spent = tuple(sum(f.tokens for f in own) for own in self.pool)
        best, voted = [], []
        for i, own in enumerate(self.scored(scorer)):
            values = [solution_score(partial, aggregate) * partial.is_whole for partial in own]
            best.append(float(self.is_right(i, own[best_of(values)])))
            answers = [answer_of(partial, ThinkTags()) for partial in own]
            voted.append(float(self.is_right(i, own[weighted_vote(answers, values)])))
        n = len(self.pool[0])
        return [
            SearchRow(f"best of {n}, {aggregate}", name, tuple(best), spent),
            SearchRow(f"weighted vote of {n}, {aggregate}", name, tuple(voted), spent),
        ]

    def searched(self, label: str, search: Search, name: str, scorer: StepScorer) -> SearchRow:
        """Return a search step by step."""
        numbered = [(i, 0) for i in range(len(self.problems))]
        found = self.run([search] * len(numbered), scorer, numbered)
        right = tuple(float(self.is_right(i, f.partial)) for i, f in enumerate(found))
        return SearchRow(label, name, right, tuple(f.tokens for f in found))

    def plain(self, n: int) -> tuple[float, ...]:
        """Return for each problem the expected accuracy of majority voting over n plain samples of the pool."""
        return tuple(_expected_majority(self, i, n) for i in range(len(self.problems)))


def _expected_majority(bench: SearchBench, i: int, n: int) -> float:
    own = [f.partial for f in bench.pool[i]]
    outcomes = [Outcome.CORRECT if bench.is_right(i, partial) else Outcome.INCORRECT for partial in own]
    answers = [answer_of(partial, ThinkTags()) for partial in own]
    if math.comb(len(own), n) > SUBSETS:  # too many to list
        rng = random.Random(derived_seed("subsets", i, n))
        subsets = [tuple(rng.sample(range(len(own)), n)) for _ in range(SUBSETS)]
    else:
        subsets = list(itertools.combinations(range(len(own)), n))
    return fmean(majority([outcomes[k] for k in s], [answers[k] for k in s]) for s in subsets)


HEADER = """\
| search | step scores | tokens a problem | accuracy | plain majority at those tokens | difference |
|---|---|---|---|---|---|"""


def line_of(bench: SearchBench, row: SearchRow) -> str:
    """Return a row of the table in Markdown."""
    a_sample = fmean(f.tokens for own in bench.pool for f in own)
    spent = fmean(row.tokens)
    paid = max(1, round(spent / a_sample))
    n = min(len(bench.pool[0]), paid)
    plain = bench.plain(n)
    columns = (row.right, plain, [a - b for a, b in zip(row.right, plain, strict=True)])
    short = "" if n == paid else f", not the {paid} that those tokens pay for: take more samples"
    cells = [_with_interval(values) for values in columns]
    return f"| {row.search} | {row.scores} | {spent:.0f} | {cells[0]} | {cells[1]}, n = {n}{short} | {cells[2]} |"


def _with_interval(values: Sequence[float]) -> str:
    """Return the mean over problems and its interval."""
    n = len(values)
    bounds = interval([(value,) for value in values], lambda sums: sums[:, 0] / n)
    assert bounds is not None  # a benchmark has problems
    return f"{fmean(values):.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


SCORE_HEADER = """\
| step scores | of a solution | right solutions | wrong solutions | right above wrong | ties |
|---|---|---|---|---|---|"""


def score_line(bench: SearchBench, name: str, scorer: StepScorer, aggregate: Aggregate) -> str:
    """Return the mean scores of right and wrong solutions of the pool, and how often a right one has the higher score.

    The pairs are those of a right and a wrong solution of one problem; ties count half.
    """
    sides: tuple[list[float], list[float]] = [], []
    wins: list[float] = []
    for i, own in enumerate(bench.scored(scorer)):
        right, wrong = (
            [solution_score(s, aggregate) * s.is_whole for s in own if bench.is_right(i, s) is side]
            for side in (True, False)
        )
        sides[0].extend(right)
        sides[1].extend(wrong)
        wins += [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    shown = [f"{fmean(values):.3f}" if values else "-" for values in (*sides, wins, [w == 0.5 for w in wins])]
    return f"| {name} | {aggregate} | {' | '.join(shown)} |"


def scorers_of(error: float) -> list[tuple[str, StepScorer]]:
    """Return the scorers of the tables; the rule judge is the last one."""
    return [
        ("exact", ArithmeticStepScores()),
        (f"exact, {error:.0%} wrong", ArithmeticStepScores(error)),
        ("rule judge", JudgeStepScores(RuleJudge(), source=EMBEDDED_SOURCE)),
    ]


def rows_of(bench: SearchBench, error: float) -> Iterator[SearchRow]:
    """Yield the rows of the table as they are measured."""
    spent = tuple(sum(f.tokens for f in own) for own in bench.pool)
    one = tuple(spent_ // len(bench.pool[0]) for spent_ in spent)
    yield SearchRow("one sample", "-", bench.plain(1), one)
    scorers = scorers_of(error)
    for name, scorer in scorers:
        for aggregate in AGGREGATES:
            yield from bench.choices(name, scorer, aggregate)
    for name, scorer in scorers[:2]:  # the rule judge abstains on solutions without an answer
        greedy = GreedyStepSearch(4, max_expansions=30)
        yield bench.searched("greedy with back-tracking, 4", greedy, name, scorer)
        yield bench.searched("beam of 2 x 4, mean", BeamSearch(2, 4, "mean", max_steps=30), name, scorer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:tiny-qwen2", help="policy: a folder or an embedded model")
    parser.add_argument("--level", default="2", choices=SHORT_LEVELS, help="level of the held-out problems")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--samples", type=int, default=8, help="plain samples of each problem")
    parser.add_argument("--error", type=float, default=0.2, help="share of wrong step scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args()
    bench = SearchBench(args.model, args.level, args.problems, args.samples, args.seed)
    rows = (line_of(bench, row) for row in rows_of(bench, args.error))
    scores = (score_line(bench, *named, agg) for named in scorers_of(args.error) for agg in AGGREGATES)
    lines = []
    for line in itertools.chain(_setting(), [HEADER], rows, ["", SCORE_HEADER], scores):
        lines.append(line)
        print(line, flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _setting() -> list[str]:
    """Return the command, the hardware and the versions."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    cpu = f"{os.cpu_count()} {platform.machine()} CPU cores, {torch.get_num_threads()} thread"
    return [f"`python -m benchmarks.search {' '.join(sys.argv[1:])}`: {cpu}; {versions}.", ""]


if __name__ == "__main__":
    main()
