"""Token rewards of another model, batch by batch: what the store lacks is computed and stored at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.functional.token_budget import token_budget_slices
from lit_tpgrpo.judges.evidence.base import EvidenceTools
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Solution

log = logging.getLogger(__name__)
VALUES: TypeAdapter[list[float]] = TypeAdapter(list[FiniteFloat])


@dataclass(frozen=True)
class TokenScoring:
    """How the tokens of solutions are scored.

    Args:
        score: (L,) values of each solution of a batch.
        tokens_per_batch: padded tokens of one forward pass.
        what: is computed, in the plural, for messages: "ChosenTokenLogits: logits of 'model'".
        counts: ``scored_solutions``, ``scored_solutions_reused`` and ``scored_tokens`` are added to.
        remedy: of values that are not finite, a sentence for the message.
    """

    score: Callable[[Sequence[Solution]], list[Tensor]]
    tokens_per_batch: int
    what: str
    counts: Counter[str]
    remedy: str = "Try dtype float32, then resume with --ckpt_path"

    def __call__(self, keys: Sequence[str], solutions: Sequence[Solution], tools: EvidenceTools) -> list[list[float]]:
        """Return the values of each solution, in order; equal keys are scored once.

        Raises:
            NonFiniteLossError: a value is NaN or infinite; those of other solutions are stored.
        """
        unique = dict(zip(keys, solutions, strict=True))
        known = _readable(tools.stored(unique.keys()), unique)
        missing = [key for key in unique if key not in known]
        self.counts["scored_solutions_reused"] += len(keys) - len(missing)
        lengths = [length_of(unique[key]) for key in missing]
        for rows in token_budget_slices(lengths, self.tokens_per_batch):
            batch = [missing[i] for i in rows]
            values = dict(zip(batch, self.score([unique[key] for key in batch]), strict=True))
            finite = {key: row.tolist() for key, row in values.items() if row.isfinite().all()}
            tools.store(finite)
            if len(finite) < len(values):
                raise NonFiniteLossError(
                    f"{self.what} are NaN or infinite in {len(values) - len(finite)} solutions; the others are stored. "
                    f"{self.remedy}"
                )
            known |= finite
            self.counts["scored_solutions"] += len(batch)
            self.counts["scored_tokens"] += sum(lengths[i] for i in rows)
        return [known[key] for key in keys]


def refuse_other_tokenizer(provider: str, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a model's tokens are the policy's.

    Raises:
        ConfigError: they are not, or there is no such tokenizer.
    """
    if load_tokenizer(model).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"{provider}: {model!r} has another tokenizer than the policy, and rewards of tokens belong to the policy's; "
            "name a model with the same vocabulary"
        )


def device_of(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is this process's GPU if it has one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def length_of(solution: Solution) -> int:
    """Return the number of tokens of prompt and completion."""
    return len(solution.prompt_ids) + len(solution.completion_ids)


def _readable(stored: Mapping[str, Any], solutions: Mapping[str, Solution]) -> dict[str, list[float]]:
    """Return the stored values; leave out what is something else, which is then computed again, with a warning."""
    read: dict[str, list[float]] = {}
    for key, plain in stored.items():
        try:
            values = VALUES.validate_python(plain)
        except ValidationError:
            continue
        if len(values) == len(solutions[key].completion_ids):
            read[key] = values
    if len(read) < len(stored):
        log.warning("%d stored rows of token rewards cannot be read; they are computed again", len(stored) - len(read))
    return read
