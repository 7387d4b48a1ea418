"""The loop that runs many searches at once: their requests are sampled together, their new solutions scored together."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lit_tpgrpo.engines.base import Completion, Engine, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.search.base import Expand, Partial, Plan, Search, StepScorer
from lit_tpgrpo.seeds import derived_seed

STEP_END = "\n\n"
"""Text that ends a step: steps are paragraphs."""
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: the solution that it chose, and how many tokens it sampled on the way."""

    partial: Partial
    tokens: int


@dataclass
class _Running:
    """A search in progress, and what it asks for next."""

    prompt: tuple[int, ...]
    statement: str
    plan: Plan
    seed: int
    request: Expand
    asked: int = 0
    tokens: int = 0


def run_searches(
    engine: Engine,
    scorer: StepScorer,
    decode: Decode,
    prompts: Sequence[Sequence[int]],
    searches: Sequence[Search],
    params: SamplingParams,
    seeds: Sequence[int],
    step_tokens: int = 256,
) -> Iterator[tuple[int, Found]]:
    """Search for a solution of each prompt and yield (index, result) as searches end.

    The requests of all searches are sampled together and all new solutions are scored together. What a search samples depends
    on its prompt and seed alone, not on the others.

    Args:
        engine: samples continuations; it holds the policy's weights already.
        scorer: scores steps.
        decode: text of token ids, with the tags that solutions hold; it is not given the EOS of a solution.
        prompts: token ids.
        searches: one for each prompt.
        params: of the solutions; a step's text ends at ``STEP_END``. A stop string may begin in an earlier step.
        seeds: one for each prompt.
        step_tokens: most tokens of one step; a longer one is continued as the next step.
    """
    running: dict[int, _Running] = {}
    for i, (prompt, search, seed) in enumerate(zip(prompts, searches, seeds, strict=True)):
        plan = search.plan()
        running[i] = _Running(tuple(prompt), decode(prompt), plan, seed, next(plan))
    while running:
        grown = _sampled(engine, decode, list(running.values()), params, step_tokens)
        scored = iter(_scored(scorer, [(r.statement, child) for r, _, child in grown]))
        children: defaultdict[int, list[list[Partial]]] = defaultdict(list)
        for run, parent, _ in grown:
            while len(children[id(run)]) <= parent:
                children[id(run)].append([])
            children[id(run)][parent].append(next(scored))
        for i, run in list(running.items()):
            try:
                run.request = run.plan.send(children[id(run)])
                run.asked += 1
            except StopIteration as end:
                del running[i]
                yield i, Found(end.value, run.tokens)


def _sampled(
    engine: Engine, decode: Decode, runs: Sequence[_Running], params: SamplingParams, step_tokens: int
) -> list[tuple[_Running, int, Partial]]:
    """Sample what all searches ask for; return (search, index of the parent, child), the children of a parent in order."""
    rows = [(run, parent) for run in runs for parent in range(len(run.request.parents))]
    calls: defaultdict[tuple[int, bool, int], list[int]] = defaultdict(list)
    for row, (run, parent) in enumerate(rows):
        left = params.max_new_tokens - len(run.request.parents[parent].token_ids)
        limit = left if run.request.whole else min(left, step_tokens)
        calls[run.request.n, run.request.whole, limit].append(row)
    sampled: dict[int, list[Partial]] = {}
    for (n, whole, limit), members in calls.items():
        stop = params.stop if whole else (*params.stop, STEP_END)
        prompts = [(*rows[row][0].prompt, *rows[row][0].request.parents[rows[row][1]].token_ids) for row in members]
        seeds = [derived_seed(rows[row][0].seed, "search", rows[row][0].asked, rows[row][1]) for row in members]
        for k, completions in engine.sample(prompts, n, replace(params, max_new_tokens=limit, stop=stop), seeds):
            run, parent = rows[members[k]]
            run.tokens += sum(len(completion.token_ids) for completion in completions)
            ancestor = run.request.parents[parent]
            sampled[members[k]] = [_child(decode, ancestor, completion, params) for completion in completions]
    return [(*rows[row], child) for row in range(len(rows)) for child in sampled[row]]


def _child(decode: Decode, parent: Partial, completion: Completion, params: SamplingParams) -> Partial:
    """Append a completion to a partial solution; its text is divided into steps after each ``STEP_END``."""
    ids = (*parent.token_ids, *completion.token_ids.tolist())
    new = decode(ids[:-1] if completion.stop is StopReason.EOS else ids)[len(parent.text) :]
    stop: StopReason | None = completion.stop
    completed = _completes_stop_string(parent.text, new, params.stop)
    if completed:
        ids, stop = _cut_at_stop_string(decode, parent, ids, params.stop), StopReason.STOP_STRING
        new = decode(ids)[len(parent.text) :]
    pieces = new.split(STEP_END)
    steps = [piece + STEP_END for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
    ended = completed or any(string in new for string in params.stop)
    at_step_end = stop is StopReason.STOP_STRING and not ended
    if at_step_end or stop is StopReason.LENGTH:
        # A step may end with the last token that the solution may have: nothing can follow it.
        stop = None if len(ids) < params.max_new_tokens else StopReason.LENGTH
    logprobs = (*parent.logprobs, *completion.logprobs.tolist())[: len(ids)]
    return Partial(ids, logprobs, (*parent.steps, *(steps or [""])), stop, parent.scores)


def _completes_stop_string(before: str, new: str, strings: Sequence[str]) -> bool:
    """Return whether a stop string begins in ``before`` and ends in ``new``.

    Engines look for stop strings in what one call samples, and each step is a call of its own.
    """
    lengths = [(string, len(string) - 1) for string in strings]
    return any(string in before[max(0, len(before) - n) :] + new[:n] for string, n in lengths)


def _cut_at_stop_string(
    decode: Decode, parent: Partial, ids: tuple[int, ...], strings: Sequence[str]
) -> tuple[int, ...]:
    """Return the tokens up to the one that completes the first stop string, as an engine would have ended there."""
    begin = len(parent.token_ids)

    def is_complete(end: int) -> bool:
        return _completes_stop_string(parent.text, decode(ids[:end])[len(parent.text) :], strings)

    return ids[: begin + 1 + bisect.bisect_left(range(begin + 1, len(ids)), True, key=is_complete)]


def _scored(scorer: StepScorer, cases: Sequence[tuple[str, Partial]]) -> list[Partial]:
    """Score new partial solutions.

    Raises:
        ConfigError: the scorer does not give one score in [0, 1] for each step.
    """
    scores = scorer.scores([(statement, partial.steps) for statement, partial in cases])
    scored = []
    for (_, partial), given in zip(cases, scores, strict=True):
        if len(given) != len(partial.steps) or not all(0 <= score <= 1 for score in given):
            raise ConfigError(
                f"{type(scorer).__name__} must give one score in [0, 1] for each of {len(partial.steps)} steps, got {given}"
            )
        scored.append(replace(partial, scores=tuple(map(float, given))))
    return scored
