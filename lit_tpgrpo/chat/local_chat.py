"""Chat on a sampling engine of ours: a judge model in this process, or the policy judging itself."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import StopReason

POLICY = "policy"
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class LoadedModel:
    """A model as an engine asks for it (see ``engines.base.Policy``); its version never changes."""

    policy_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    policy_version: int = 0

    def named_tensors(self) -> Iterable[tuple[str, Tensor]]:
        return self.policy_model.named_parameters()


@dataclass(slots=True)
class _Waiting:
    """A prompt in the queue, and what it is to be sampled with. Prompts with equal ``params`` share a batch."""

    ids: list[int]
    params: SamplingParams
    seed: int
    result: asyncio.Future[Completion]


@checked_arguments()
class LocalChat:
    """Answers chat requests with a model in this process; requests that wait together are sampled together.

    A request that may think is sampled twice: first freely, up to ``</think>`` or its thinking budget, then the reply,
    constrained to its schema, behind the closed think block. The thinking budget is therefore exact.

    Args:
        model: Hugging Face folder or hub name, ``embedded:tiny-judge``, or ``policy``: the policy judges itself with a
            copy of its weights, which ``JudgeRefresh`` renews.
        engine: samples; by default transformers or, where the policy judges itself, the engine that it is sampled with.
        dtype: of the weights; the checkpoint's own where not given.
        attention: of transformers.
        device: ``auto`` is this process's GPU where there is one.
    """

    in_process = True  # a round's patience ends no request: nobody else could be down

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
        self.engine = engine or HFEngine()
        self.dtype = dtype
        self.attention = attention
        self.device = device
        self._loaded: LoadedModel | None = None
        self._weights = ""
        self._queue: asyncio.Queue[_Waiting] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and a fingerprint of its weights.

        Raises:
            ConfigError: the policy is to judge itself, but has not been taken over yet.
        """
        self._ready()
        return {"engine": "local", "model": self.model, "weights": self._weights, "dtype": self.dtype}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with."""
        return {"engine": "local", "model": self.model, "dtype": self.dtype}

    @property
    def needs_policy(self) -> bool:
        """Whether the policy is to judge itself and has not been taken over since the process began."""
        return self.model == POLICY and self._loaded is None

    def share_engine(self, engine: Engine) -> None:
        """Sample with the policy's engine from now on, unless an engine was given: one copy of a large engine serves both,
        for a policy is never sampled and judged at once. Not one whose weights all ranks send together: a rank may have
        nothing to judge."""
        if self._may_share and not getattr(engine, "collective", False):
            self.engine = engine

    def refresh(self, policy: Policy) -> bool:
        """Take over the policy's weights, if it judges itself; returns whether anything changed.

        The copy is made once, on the policy's device, and overwritten afterwards, name by name.
        """
        if self.model != POLICY:
            return False
        if self._loaded is None:
            config = copy.deepcopy(policy.policy_model.config)  # from_config writes to it
            dtype = getattr(torch, self.dtype) if self.dtype else policy.policy_model.dtype
            with torch.random.fork_rng(devices=[]):
                own_model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=self.attention)
            own_model.generation_config = policy.policy_model.generation_config
            own_model.to(policy.policy_model.device).eval().requires_grad_(False)
            self._loaded = LoadedModel(cast(PreTrainedModel, own_model), policy.tokenizer)
        own = dict(self._loaded.policy_model.named_parameters())
        with torch.no_grad():
            for name, tensor in policy.named_tensors():
                own[name].copy_(tensor)
        before, self._weights = self._weights, fingerprint(self._loaded.named_tensors())
        return self._weights != before

    def close(self) -> None:
        """Give the model back; a judge that is the policy needs a new ``refresh`` then."""
        self.engine.close()
        self._loaded = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Load the model if need be, and sample for ``complete`` until the session ends."""
        # Each time: an engine that slept may have lost them, and a shared one has the policy's.
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
        """See ``ChatClient``. A prompt that the model has no positions for is REFUSED."""
        prompt = self._prompt(request)
        asked = len(self._encode(prompt))
        thinking, thought = "", 0
        if request.thinking_tokens:
            stop = self._ready().tokenizer.convert_tokens_to_ids(_CLOSE)
            stop_ids = (stop,) if isinstance(stop, int) and stop != self._ready().tokenizer.unk_token_id else ()
            free = await self._sampled(
                prompt, self._params(request, request.thinking_tokens, None, stop_ids), request.seed
            )
            thinking = self._decode(free).split(_CLOSE)[0].strip()
            thought = len(free.token_ids)
            prompt += f"{thinking}\n{_CLOSE}\n\n"
        # Not sorted: structured output writes the properties in the schema's order, and models expect theirs.
        schema = json.dumps(request.schema) if request.schema is not None else None
        made = await self._sampled(prompt, self._params(request, request.max_tokens, schema, ()), request.seed)
        return ChatReply(
            text=self._decode(made),
            thinking=thinking,
            prompt_tokens=asked,
            completion_tokens=len(made.token_ids) + thought,
            thinking_tokens=thought,
            cut=made.stop is StopReason.LENGTH,
        )

    def _ready(self) -> LoadedModel:
        if self._loaded is None:
            if self.model == POLICY:
                raise ConfigError(
                    "the policy is to judge itself (judge.chat.model is 'policy'), but its weights were never taken over; "
                    "add the callback lit_tpgrpo.callbacks.JudgeRefresh, which does it every n rounds"
                )
            dtype = getattr(torch, self.dtype) if self.dtype else None
            model = load_causal_lm(self.model, False, dtype, self.attention)
            model.to(_device(self.device)).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
            self._loaded = LoadedModel(model, load_tokenizer(self.model))
            self._weights = fingerprint(self._loaded.named_tensors())
        return self._loaded

    def _prompt(self, request: ChatRequest) -> str:
        """The turn in the chat template, with the think block opened or closed as the request wants it."""
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
        # The chat template has written BOS where the model wants one.
        return cast(list[int], self._ready().tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, completion: Completion) -> str:
        return str(self._ready().tokenizer.decode(list(completion.token_ids), skip_special_tokens=True))

    @staticmethod
    def _params(request: ChatRequest, limit: int, schema: str | None, stop_ids: tuple[int, ...]) -> SamplingParams:
        return SamplingParams(limit, request.temperature, request.top_p, json_schema=schema, stop_ids=stop_ids)

    async def _sampled(self, prompt: str, params: SamplingParams, seed: int) -> Completion:
        if self._queue is None:
            raise RuntimeError("LocalChat.complete was called outside of a session")
        ids = self._encode(prompt)
        limit = getattr(self._ready().policy_model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and len(ids) + params.max_new_tokens > limit:
            raise ChatError(
                Fault.REFUSED,
                f"the prompt has {len(ids)} tokens and may be answered by {params.max_new_tokens}, together more than the "
                f"{limit} positions of {self.model}; lower the judge's max_shown_chars or max_tokens",
            )
        waiting = _Waiting(ids, params, seed, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.result

    async def _sample_queued(self, queue: asyncio.Queue[_Waiting]) -> None:
        """Take all that waits, sample the largest set of equal settings in a thread, and look again."""
        waiting: list[_Waiting] = []
        while True:
            if not waiting:
                waiting.append(await queue.get())
            while not queue.empty():
                waiting.append(queue.get_nowait())
            waiting = [w for w in waiting if not w.result.done()]  # without those whose request was cancelled
            if not waiting:
                continue
            kinds: dict[SamplingParams, list[_Waiting]] = {}
            for one in waiting:
                kinds.setdefault(one.params, []).append(one)
            params, batch = max(kinds.items(), key=lambda kind: len(kind[1]))
            waiting = [w for w in waiting if w.params != params]
            job = asyncio.ensure_future(asyncio.to_thread(self._generate, batch, params))
            try:
                made = await asyncio.shield(job)
            except asyncio.CancelledError:
                await asyncio.wait([job])  # a thread cannot be cancelled, and must not outlive the session
                raise
            except BaseException as error:  # a panic in a library must not leave its callers waiting for ever
                for one in batch:
                    if not one.result.done():
                        one.result.set_exception(error)
                continue
            for one, completion in zip(batch, made, strict=True):
                if not one.result.done():
                    one.result.set_result(completion)

    def _generate(self, batch: Sequence[_Waiting], params: SamplingParams) -> list[Completion]:
        made = dict(self.engine.sample([one.ids for one in batch], 1, params, [one.seed for one in batch]))
        return [made[i][0] for i in range(len(batch))]


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")
