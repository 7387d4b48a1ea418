"""Search at test time: many samples, step scores, one solution.

``BestOfN`` and ``WeightedVoting`` choose among whole solutions, ``GreedyStepSearch`` and ``BeamSearch`` choose each step.
``SearchingEngine`` makes any of them the engine of ``predict`` and ``test``. Scores come from a ``StepScorer``:
``JudgeStepScores`` asks a judge. A new search implements ``Search``: a generator of requests that returns a solution.
"""

from lit_tpgrpo.search.base import ROOT, Expand, NoScores, Partial, Plan, PreparedScorer, Search, StepScorer
from lit_tpgrpo.search.engine import SearchingEngine, SearchTally
from lit_tpgrpo.search.judged import JudgeStepScores
from lit_tpgrpo.search.loop import Found, run_searches
from lit_tpgrpo.search.steps import BeamSearch, GreedyStepSearch
from lit_tpgrpo.search.whole import BestOfN, WeightedVoting, best_of, weighted_vote

__all__ = [
    "ROOT",
    "BeamSearch",
    "BestOfN",
    "Expand",
    "Found",
    "GreedyStepSearch",
    "JudgeStepScores",
    "NoScores",
    "Partial",
    "Plan",
    "PreparedScorer",
    "Search",
    "SearchTally",
    "SearchingEngine",
    "StepScorer",
    "WeightedVoting",
    "best_of",
    "run_searches",
    "weighted_vote",
]
