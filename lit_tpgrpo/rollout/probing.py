"""Probes: make the policy answer at once after a part of a solution, and see how likely it finds the gold answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from lit_tpgrpo.engines.base import Batching, Engine, SamplingParams, ScoringEngine, TokenScores
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.evidence.base import Probe, Probed
from lit_tpgrpo.rollout.sampling import bar, batched


def probe_answers(
    engine: Engine, probes: Sequence[Probe], n: int, params: SamplingParams, seeds: Sequence[int], show: bool = False
) -> Iterator[tuple[Probed, ...]]:
    """Sample n answers of each probe and score them and the gold answer, both forced; yield the results of a batch at once.

    Args:
        engine: samples and scores with the weights that sampled the solutions.
        probes: what is answered.
        n: answers of each.
        params: of the answers.
        seeds: one for each probe.
        show: whether to show a progress bar.

    Raises:
        ConfigError: the engine cannot score given completions.
    """
    if not isinstance(engine, ScoringEngine):
        raise ConfigError(
            f"probes need an engine that scores given completions, and {type(engine).__name__} has no score; use HFEngine"
        )
    prompts = [
        (
            *(s := probe.case.judged.solution).prompt_ids.tolist(),
            *s.completion_ids[: probe.length].tolist(),
            *probe.lead_in,
        )
        for probe in probes
    ]
    at_once = engine.prompts_at_once(n) if isinstance(engine, Batching) else 1
    stream = bar(engine.sample(prompts, n, params, seeds), "probes", len(probes), show, "probe")
    for batch in batched(stream, at_once):
        answers = [(prompts[i], completion.token_ids) for i, completions in batch for completion in completions]
        golds = [(prompts[i], probes[i].gold) for i, _ in batch]
        scores = iter(engine.score([p for p, _ in answers + golds], [c for _, c in answers + golds]))
        sampled = [[next(scores) for _ in completions] for _, completions in batch]
        yield tuple(
            Probed(probes[i].key, accuracy(next(scores)), confidence(own), sum(len(c.token_ids) for c in completions))
            for (i, completions), own in zip(batch, sampled, strict=True)
        )


def accuracy(gold: TokenScores) -> float:
    """Compute the mean probability of the gold answer's tokens, each after the right ones before it: mean_t p_t.

    >>> round(accuracy(TokenScores((math.log(0.5), math.log(0.7)), (0.0, 0.0))), 4)
    0.6
    """
    return min(1.0, fmean(map(math.exp, gold.logprobs)))


def confidence(answers: Sequence[TokenScores]) -> float:
    """Compute mean_n exp(-h_n), where h_n is the mean entropy of the tokens of answer n, in nats.

    >>> round(confidence([TokenScores((0.0,), (0.0,)), TokenScores((0.0, 0.0), (math.log(2), math.log(8)))]), 4)
    0.625
    """
    return min(1.0, fmean(math.exp(-fmean(answer.entropies)) for answer in answers))
