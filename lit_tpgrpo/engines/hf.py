"""Sampling with transformers' ``generate`` on the policy's weights in place: no copy, any device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import compress
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams, Sharded, TokenScores
from lit_tpgrpo.engines.checks import check_lengths, position_limit, stop_ids
from lit_tpgrpo.engines.forced_scores import forced_scores
from lit_tpgrpo.engines.grouped_queries import shared_key_heads
from lit_tpgrpo.engines.live_rows import SHARE, EnoughRowsEnded, PerRow, left_padded
from lit_tpgrpo.engines.row_cache import RowCache
from lit_tpgrpo.engines.schema_constraint import SchemaConstraint
from lit_tpgrpo.engines.seeded_choice import SeededChoice, truncations
from lit_tpgrpo.engines.shared_prompts import prefill_distinct
from lit_tpgrpo.engines.stop_strings import StopStrings
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.token_arrays import Offsets


@checked_arguments()
class HFEngine:
    """Engine on transformers: batched sampling with left padding, longest prompts first to reduce padding.

    Weights are shared with the trainer, so ``load_weights`` only stores a reference. The weights of a sharded policy are
    all-gathered from ``wake`` to ``sleep``, which are collective; between them each rank samples independently.

    Args:
        batch_size: sequences decoded at once; it determines the memory of the KV cache.
    """

    def __init__(self, batch_size: int = 128) -> None:
        if batch_size < 1:
            raise ConfigError(f"HFEngine needs a batch_size of at least 1, got {batch_size}")
        self.batch_size = batch_size
        self._policy: Policy | None = None
        self._unsharded = ExitStack()

    def load_weights(self, policy: Policy) -> None:
        self._policy = policy

    def sleep(self) -> None:
        """Reshard the weights of a sharded policy; the engine holds no other memory."""
        self._unsharded.close()

    def wake(self) -> None:
        """All-gather the weights of a sharded policy."""
        self.sleep()
        if isinstance(self._policy, Sharded):
            self._unsharded.enter_context(self._policy.unsharded())

    def close(self) -> None:
        self.sleep()
        self._policy = None

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield ``(prompt index, n completions)`` as prompts finish; the global random state does not change.

        Raises:
            InputError: a prompt is empty, or prompt plus ``max_new_tokens`` exceeds the model's positions.
        """
        if self._policy is None:
            raise RuntimeError("HFEngine.sample was called before load_weights: it has no policy to sample from")
        model = self._policy.policy_model
        check_lengths(prompts, params.max_new_tokens, position_limit(model))
        # Batches hold all samples of a prompt: groups complete together, and batches are the same after a crash.
        queue = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        size = self.prompts_at_once(n)
        for start in range(0, len(queue), size):
            chunk = queue[start : start + size]
            rows = [(i, k) for i in chunk for k in range(n)]
            completions: list[Completion] = []
            for first in range(0, len(rows), self.batch_size):
                part = rows[first : first + self.batch_size]
                completions += self._generate([prompts[i] for i, _ in part], params, [seeds[i] + k for i, k in part])
            for position, i in enumerate(chunk):
                yield i, tuple(completions[position * n : (position + 1) * n])

    def score(self, prompts: Sequence[Offsets], completions: Sequence[Offsets]) -> list[TokenScores]:
        """Score given completions in batches of ``batch_size``, see ``ScoringEngine``.

        Raises:
            InputError: a prompt is empty, or prompt and completion exceed the model's positions.
        """
        if self._policy is None:
            raise RuntimeError("HFEngine.score was called before load_weights: it has no policy to score with")
        model = self._policy.policy_model
        limit = position_limit(model)
        for prompt, completion in zip(prompts, completions, strict=True):
            check_lengths([prompt], len(completion), limit)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]) - len(completions[i]))
        scores: dict[int, TokenScores] = {}
        with _inference(model):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = forced_scores(model, [(prompts[i], completions[i]) for i in rows])
                scores |= dict(zip(rows, batch, strict=True))
        return [scores[i] for i in range(len(prompts))]

    def prompts_at_once(self, n: int) -> int:
        """Return the number of prompts in a batch, with n samples each; at least one."""
        return max(1, self.batch_size // n)

    def _generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one batch; finished rows leave it, one in ``SHARE`` at once, so that it does not wait for the longest."""
        assert self._policy is not None
        model, tokenizer = self._policy.policy_model, self._policy.tokenizer
        eos_ids = sorted({*stop_ids(model, cast(int | None, tokenizer.eos_token_id)), *params.stop_ids})
        pad_id = cast(int, tokenizer.pad_token_id)
        ids, mask = (tensor.to(model.device) for tensor in left_padded(prompts, pad_id))
        width = ids.shape[1]
        recorder = _LogprobRecorder(params.temperature)
        processors: list[LogitsProcessor] = [recorder]
        if params.json_schema is not None:
            processors.append(SchemaConstraint(tokenizer, params.json_schema, eos_ids))
        if params.temperature > 0:
            processors += truncations(params)
            processors.append(SeededChoice(seeds, params.max_new_tokens, width, model.device))
        stops = StopStrings(tokenizer, params.stop, width, len(prompts))
        cache = RowCache.of(model)
        cache_argument: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        per_row = [part for part in (*processors, stops, cache) if isinstance(part, PerRow)]
        rows = list(range(len(prompts)))  # those that are still in the batch
        completions: dict[int, Completion] = {}
        with _inference(model), shared_key_heads(model):
            if cache is not None:
                prefill_distinct(model, cache, prompts, ids, mask, _greedy(1, eos_ids, pad_id))
            while True:
                quota = len(rows) if cache is None else math.ceil(len(rows) / SHARE)
                enough = EnoughRowsEnded(eos_ids, stops, quota, model.device)
                ids = model.generate(  # pyright: ignore[reportCallIssue]
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=_greedy(params.max_new_tokens - (ids.shape[1] - width), eos_ids, pad_id),
                    logits_processor=LogitsProcessorList(processors),
                    stopping_criteria=StoppingCriteriaList([enough]),
                    synced_gpus=False,  # each rank holds the full weights and samples its own prompts
                    **cache_argument,
                )
                recorder.finish(ids)
                ended = (enough.ended | (ids.shape[1] - width == params.max_new_tokens)).tolist()
                new_ids, logprobs = ids[:, width:].cpu().numpy(), recorder.stacked().cpu().numpy()
                for i in compress(range(len(rows)), ended):
                    completions[rows[i]] = _truncate(new_ids[i], logprobs[i], eos_ids, stops.ends[i])
                if all(ended):
                    return [completions[row] for row in range(len(prompts))]
                left = [i for i in range(len(rows)) if not ended[i]]
                rows = [rows[i] for i in left]
                kept = torch.tensor(left, device=model.device)
                ids = ids[kept]
                mask = pad(mask[kept], (0, ids.shape[1] - mask.shape[1]), value=1)
                for part in per_row:
                    part.keep_rows(kept)


def _greedy(max_new_tokens: int, eos_ids: list[int], pad_id: int) -> GenerationConfig:
    """Return settings of ``generate`` under which the logits processors alone decide what is sampled."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # the last processor masks all tokens but the sampled one
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=eos_ids,
        pad_token_id=pad_id,
        use_cache=True,
    )


class _LogprobRecorder(LogitsProcessor):
    """Divides logits by the temperature, and records the log-prob of each sampled token one call later, when it is known.

    It holds one (batch, vocabulary) tensor at a time; ``output_logits=True`` would hold one for every token.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature or 1.0
        self._last: Tensor | None = None
        self._recorded: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.finish(input_ids)
        scaled = scores / self.temperature
        self._last = torch.log_softmax(scaled.float(), dim=-1)
        return scaled

    def finish(self, input_ids: Tensor) -> None:
        if self._last is not None:
            self._recorded.append(self._last.gather(-1, input_ids[:, -1:]))
            self._last = None

    def keep_rows(self, rows: Tensor) -> None:
        self._recorded = [self.stacked()[rows]]

    def stacked(self) -> Tensor:
        return torch.cat(self._recorded, dim=-1)


def _truncate(ids: NDArray[Any], logprobs: NDArray[Any], eos_ids: Sequence[int], end: int | None) -> Completion:
    """Cut off the padding after EOS, or after ``end`` tokens, where a stop string ended."""
    (at,) = np.isin(ids[:end], eos_ids).nonzero()
    if len(at):
        return Completion(ids[: at[0] + 1], logprobs[: at[0] + 1], StopReason.EOS)
    stop = StopReason.LENGTH if end is None else StopReason.STOP_STRING
    return Completion(ids[:end], logprobs[:end], stop)


@contextmanager
def _inference(model: PreTrainedModel) -> Iterator[None]:
    """Set evaluation mode and neutral generation defaults (a checkpoint's repetition penalty would bias the log-probs)."""
    training, defaults = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        with torch.no_grad():  # not inference_mode: a rotary cache rebuilt here must serve the backward pass too
            yield
    finally:
        model.generation_config = defaults
        model.train(training)
