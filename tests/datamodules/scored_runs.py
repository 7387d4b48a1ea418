"""Parts of runs of random policies: a verifier, an engine whose log-probs are off, and a callback that keeps the rounds."""

from __future__ import annotations

from dataclasses import replace

from lit_tpgrpo.callbacks import RoundCallback
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.records import Outcome, Round
from lit_tpgrpo.verify.verifier import MathVerifier

OFFSET = 0.25


class LuckyByTurns(MathVerifier):
    """A random model is never right; here every other solution counts as right, so every group has both kinds."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i % 2 else Outcome.INCORRECT for i, _ in enumerate(pairs)]


class OffEngine(HFEngine):
    """Its log-probs are all too low by ``OFFSET``, so that every token's ratio is exp(OFFSET)."""

    mismatched = True

    def sample(self, prompts, n, params, seeds):
        for i, completions in super().sample(prompts, n, params, seeds):
            yield i, tuple(replace(c, logprobs=tuple(p - OFFSET for p in c.logprobs)) for c in completions)


class Rounds(RoundCallback):
    """Keeps the rounds that it sees."""

    def __init__(self) -> None:
        self.seen: list[Round] = []

    def on_round_end(self, trainer, pl_module, round_):
        self.seen.append(round_)
