"""Chat client on an ``Engine`` in this process: a local judge model, or the policy judging itself."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.chat.base import ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.chat_template import user_turn
from lit_tpgrpo.engines.base import Completion, Engine, Policy, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer, saved_buffers
from lit_tpgrpo.records import StopReason

POLICY = "policy"
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class LoadedModel:
    """A model behind the interface that engines load weights from (``engines.base.Policy``); its version never changes."""

    policy_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    policy_version: int = 0

    def named_tensors(self) -> Iterable[tuple[str, Tensor]]:
        return chain(self.policy_model.named_parameters(), saved_buffers(self.policy_model))


@dataclass(slots=True)
class _QueuedPrompt:
    """A prompt in the queue and its sampling parameters. Prompts with equal ``params`` share a batch."""

    ids: list[int]
    params: SamplingParams
    seed: int
    result: asyncio.Future[Completion]


@checked_arguments()
class LocalChat:
    """Chat client with a model in this process; requests that are waiting at the same time are sampled in one batch.

    A request with thinking is sampled twice: first unconstrained, up to ``</think>`` or its thinking budget, then the
    reply, constrained to its schema, after the closed think block. The thinking budget is therefore exact.

    Args:
        model: Hugging Face folder or hub name, ``embedded:tiny-judge``, or ``policy``: the policy judges itself with a
            copy of its weights, which ``JudgeRefresh`` updates.
        engine: engine that samples; by default ``HFEngine`` or, if the policy judges itself, the rollout engine.
        dtype: dtype of the weights; None keeps the checkpoint's.
        attention: attention implementation of transformers.
        device: device of the model; ``auto`` is this process's GPU if it has one.
    """

    in_process = True  # the patience of a round does not apply: there is no remote endpoint that could be down

    def __init__(
        self,
        model: str,
        engine: Engine | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        attention: str = "sdpa",
        device: str = "auto",
    ) -> None:
        self.model = model
        self._may_share = engine is None and model == POLICY
        self.engine = HFEngine() if engine is None else engine
        self.dtype = dtype
        self.attention = attention
        self.device = device
        self._loaded: LoadedModel | None = None
        self._weights = ""
        self._queue: asyncio.Queue[_QueuedPrompt] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and a fingerprint of its weights.

        Raises:
            ConfigError: the model is the policy, and ``refresh`` has not been called yet.
        """
        self._ready()
        return {"engine": "local", "model": self.model, "weights": self._weights, "dtype": self.dtype}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configured model and dtype."""
        return {"engine": "local", "model": self.model, "dtype": self.dtype}

    @property
    def needs_policy(self) -> bool:
        """Whether the model is the policy and its weights have not been loaded in this process yet."""
        return self.model == POLICY and self._loaded is None

    def share_engine(self, engine: Engine) -> None:
        """Sample with the policy's engine from now on, unless an engine was configured.

        One engine can serve both because the policy is never sampled and judged at the same time. An engine whose
        ``load_weights`` is collective is not shared: some ranks may have nothing to judge.
        """
        if self._may_share and not getattr(engine, "collective", False):
            self.engine = engine

    def refresh(self, policy: Policy) -> bool:
        """Copy the policy's weights, if it judges itself; return whether the weights changed.

        The copy is allocated once, on the policy's device, and overwritten afterwards, tensor by tensor.
        """
        if self.model != POLICY:
            return False
        if self._loaded is None:
            config = copy.deepcopy(policy.policy_model.config)  # from_config writes to it
            dtype = getattr(torch, self.dtype) if self.dtype else policy.policy_model.dtype
            with torch.random.fork_rng(devices=[]):
                model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=self.attention)
            model.generation_config = policy.policy_model.generation_config
            model.to(policy.policy_model.device).eval().requires_grad_(False)
            self._loaded = LoadedModel(cast(PreTrainedModel, model), policy.tokenizer)
        own = dict(self._loaded.named_tensors())
        with torch.no_grad():
            for name, tensor in policy.named_tensors():
                own[name].copy_(tensor)
        before, self._weights = self._weights, fingerprint(self._loaded.named_tensors())
        return self._weights != before

    def close(self) -> None:
        """Free the model. If it is the policy, ``refresh`` must be called again before the next session."""
        self.engine.close()
        self._loaded = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Load the model if necessary, and run the sampling task that serves ``complete`` until the session ends."""
        # At each session: an engine that slept may have lost the weights, and a shared one holds the policy's.
        self.engine.load_weights(self._ready())
        self._queue = asyncio.Queue()
        self.engine.wake()
        sampler = asyncio.create_task(self._sample_queued(self._queue))
        try:
            yield
        finally:
            sampler.cancel()
            await asyncio.gather(sampler, return_exceptions=True)
            self._queue = None
            self.engine.sleep()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Sample the reply to one request, see ``ChatClient``. A prompt that exceeds the model's positions is REFUSED."""
        prompt = self._prompt(request)
        prompt_tokens = len(self._encode(prompt))
        thinking, thinking_tokens = "", 0
        if request.thinking_tokens:
            stop = self._ready().tokenizer.convert_tokens_to_ids(_CLOSE)
            stop_ids = (stop,) if isinstance(stop, int) and stop != self._ready().tokenizer.unk_token_id else ()
            params = self._params(request, request.thinking_tokens, None, stop_ids)
            completion = await self._sample(prompt, params, request.seed)
            thinking = self._decode(completion).split(_CLOSE)[0].strip()
            thinking_tokens = len(completion.token_ids)
            prompt += f"{thinking}\n{_CLOSE}\n\n"
        # Not sorted: structured output writes properties in the schema's order, and models expect that order.
        schema = json.dumps(request.schema) if request.schema is not None else None
        completion = await self._sample(prompt, self._params(request, request.max_tokens, schema, ()), request.seed)
        return ChatReply(
            text=self._decode(completion),
            thinking=thinking,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(completion.token_ids) + thinking_tokens,
            thinking_tokens=thinking_tokens,
            cut=completion.stop is StopReason.LENGTH,
        )

    def _ready(self) -> LoadedModel:
        if self._loaded is None:
            if self.model == POLICY:
                raise ConfigError(
                    "the policy judges itself (judge.chat.model is 'policy'), but its weights were never loaded into the "
                    "judge; add the callback lit_tpgrpo.callbacks.JudgeRefresh, which does so every n rounds"
                )
            dtype = getattr(torch, self.dtype) if self.dtype else None
            model = load_causal_lm(self.model, False, dtype, self.attention)
            model.to(_device(self.device)).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
            self._loaded = LoadedModel(model, load_tokenizer(self.model))
            self._weights = fingerprint(self._loaded.named_tensors())
        return self._loaded

    def _prompt(self, request: ChatRequest) -> str:
        """Return the turn in the chat template, with the think block opened or closed according to the request."""
        thinks = request.thinking_tokens > 0
        tokenizer = self._ready().tokenizer
        if tokenizer.chat_template is None:
            text = request.content + "\n"
        else:
            text = str(user_turn(tokenizer, request.content, tokenize=False, enable_thinking=thinks))
        opened = text.rstrip().endswith(_OPEN)
        if thinks and not opened:
            return text + f"{_OPEN}\n"
        return text + f"\n{_CLOSE}\n\n" if opened and not thinks else text

    def _encode(self, text: str) -> list[int]:
        # The chat template has already added BOS if the model needs it.
        return cast(list[int], self._ready().tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, completion: Completion) -> str:
        return str(self._ready().tokenizer.decode(completion.token_ids.tolist(), skip_special_tokens=True))

    @staticmethod
    def _params(request: ChatRequest, limit: int, schema: str | None, stop_ids: tuple[int, ...]) -> SamplingParams:
        return SamplingParams(limit, request.temperature, request.top_p, json_schema=schema, stop_ids=stop_ids)

    async def _sample(self, prompt: str, params: SamplingParams, seed: int) -> Completion:
        """Queue a prompt and wait for its completion."""
        if self._queue is None:
            raise RuntimeError("LocalChat.complete was called outside of a session")
        ids = self._encode(prompt)
        limit = getattr(self._ready().policy_model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and len(ids) + params.max_new_tokens > limit:
            raise ChatError(
                Fault.REFUSED,
                f"the prompt has {len(ids)} tokens and the reply may have {params.max_new_tokens}, together more than the "
                f"{limit} positions of {self.model}; lower the judge's max_shown_chars or max_tokens",
            )
        queued = _QueuedPrompt(ids, params, seed, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(queued)
        return await queued.result

    async def _sample_queued(self, queue: asyncio.Queue[_QueuedPrompt]) -> None:
        """Serve the queue until cancelled: sample the largest set of prompts with equal parameters, in a thread, repeat."""
        waiting: list[_QueuedPrompt] = []
        while True:
            if not waiting:
                waiting.append(await queue.get())
            while not queue.empty():
                waiting.append(queue.get_nowait())
            waiting = [prompt for prompt in waiting if not prompt.result.done()]  # drop cancelled requests
            if not waiting:
                continue
            by_params: dict[SamplingParams, list[_QueuedPrompt]] = {}
            for prompt in waiting:
                by_params.setdefault(prompt.params, []).append(prompt)
            params, batch = max(by_params.items(), key=lambda item: len(item[1]))
            waiting = [prompt for prompt in waiting if prompt.params != params]
            job = asyncio.ensure_future(asyncio.to_thread(self._generate, batch, params))
            try:
                completions = await asyncio.shield(job)
            except asyncio.CancelledError:
                await asyncio.wait([job])  # a thread cannot be cancelled, and must not outlive the session
                raise
            except BaseException as error:  # a panic in a library must not leave the callers waiting forever
                for prompt in batch:
                    if not prompt.result.done():
                        prompt.result.set_exception(error)
                continue
            for prompt, completion in zip(batch, completions, strict=True):
                if not prompt.result.done():
                    prompt.result.set_result(completion)

    def _generate(self, batch: Sequence[_QueuedPrompt], params: SamplingParams) -> list[Completion]:
        """Sample one completion per prompt, in the order of the batch."""
        prompts, seeds = [prompt.ids for prompt in batch], [prompt.seed for prompt in batch]
        completions = dict(self.engine.sample(prompts, 1, params, seeds))
        return [completions[i][0] for i in range(len(batch))]


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")
