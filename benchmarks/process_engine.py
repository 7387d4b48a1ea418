"""An engine in a process of its own, as a server is, for benchmarks of what overlaps with training: HFEngine in a child.

Like a server it takes prompts in their order; HFEngine by itself begins with the longest.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer

_TICK_S = 0.1


class ProcessEngine:
    """Engine whose weights are those of the last ``load_weights``, in a child process with one thread.

    Args:
        model: folder, hub or embedded name of the policy.
        batch_size: of the ``HFEngine`` in the child.
        device: of the child's copy of the weights.
    """

    concurrent = True  # see ``Engine`` in lit_tpgrpo.engines.base

    def __init__(self, model: str, batch_size: int = 32, device: str = "cpu") -> None:
        self.batch_size = batch_size
        self.while_waiting: Callable[[], None] = lambda: None
        self._calls = 0
        context = multiprocessing.get_context("spawn")
        self._child, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end, model, batch_size, device), daemon=True)
        self._process.start()
        end.close()  # so that the pipe ends with the child

    def load_weights(self, policy: Policy) -> None:
        self._child.send([(name, t.detach().float().cpu().numpy().copy()) for name, t in policy.named_tensors()])

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield groups as the child sends them; those of an earlier call that was given up are skipped."""
        self._calls += 1
        call = self._calls
        self._child.send((call, [list(p) for p in prompts], n, params, list(seeds)))
        while True:
            while not self._child.poll(_TICK_S):
                self.while_waiting()
            of, item = self._child.recv()
            if of == call:
                if item is None:
                    return
                yield item

    def prompts_at_once(self, n: int) -> int:
        """Return the number of prompts per batch, see ``Batching``."""
        return max(1, self.batch_size // n)

    def sleep(self) -> None:
        """Do nothing: the child's memory is its own."""

    def wake(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: several runs use the child, which ends with ``terminate`` or with this process."""

    def terminate(self) -> None:
        """End the child."""
        self._process.terminate()


def _serve(parent: Connection, model: str, batch_size: int, device: str) -> None:
    torch.set_num_threads(1)
    copy = load_causal_lm(model, False, torch.float32, "sdpa").eval().to(device)  # pyright: ignore[reportArgumentType]
    policy = LoadedModel(copy, load_tokenizer(model))
    parameters = dict(policy.policy_model.named_parameters())
    engine = HFEngine(batch_size)
    engine.load_weights(policy)
    while True:
        request: Any = parent.recv()
        if isinstance(request, list):
            with torch.no_grad():
                for name, array in request:
                    if name in parameters:  # a tied head is there once
                        parameters[name].copy_(torch.from_numpy(array))
            continue
        call, prompts, n, params, seeds = request
        size = engine.prompts_at_once(n)
        for start in range(0, len(prompts), size):
            batch = slice(start, start + size)
            for index, completions in engine.sample(prompts[batch], n, params, seeds[batch]):
                parent.send((call, (start + index, completions)))
        parent.send((call, None))
