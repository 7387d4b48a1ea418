"""The model of PRIME's implicit rewards: a language model that learns outcomes, beside its frozen reference."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_tpgrpo.engines.forced_scores import Row, completion_states
from lit_tpgrpo.errors import NonFiniteLossError
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.functional.implicit_rewards import implicit_reward_loss
from lit_tpgrpo.functional.logprobs import selected_logprobs
from lit_tpgrpo.functional.token_budget import token_budget_slices
from lit_tpgrpo.judges.evidence.base import OutcomeExample
from lit_tpgrpo.pretrained import head_of


@dataclass(frozen=True)
class ImplicitLearning:
    """How the model learns from the outcomes of a round; see ``ImplicitRewards``."""

    beta: float
    lr: float
    solutions_per_step: int
    max_grad_norm: float
    tokens_per_batch: int


class ImplicitRewardModel:
    """pi_phi and pi_ref: token rewards log pi_phi - log pi_ref, and one pass of cross-entropy over the outcomes of a round.

    All is in float32 and without dropout: with the same state and the same examples it learns the same, bit for bit.

    Args:
        model: pi_phi; trained in place.
        reference: pi_ref; None is a copy of the model as it is now.
        learning: how it learns.
    """

    def __init__(self, model: PreTrainedModel, reference: PreTrainedModel | None, learning: ImplicitLearning) -> None:
        self._reference = copy.deepcopy(model) if reference is None else reference
        self._reference.eval().requires_grad_(False)
        self._model, self._learning = model.eval(), learning
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning.lr, weight_decay=0.0)
        self.weights = self._fingerprint()

    @torch.no_grad()
    def rewards(self, rows: Sequence[Row]) -> list[Tensor]:
        """Compute q_t = log pi_phi(y_t) - log pi_ref(y_t) of each completion, (L,) float32 on the CPU each, in one batch."""
        both = zip(_logprobs(self._model, rows), _logprobs(self._reference, rows), strict=True)
        return [(own - reference).cpu() for own, reference in both]

    def learn(self, examples: Sequence[OutcomeExample]) -> tuple[float, int]:
        """Take one optimizer step for each ``solutions_per_step`` examples, in their order.

        On an exception weights and optimizer are what they were before.

        Returns:
            Mean cross-entropy of the examples, each before its own step, and the number of steps.

        Raises:
            NonFiniteLossError: the loss or the gradient of a step is NaN or infinite, or rewards after the last step are.
        """
        before = self.state_dict()
        losses: list[float] = []
        size = self._learning.solutions_per_step
        try:
            for at in range(0, len(examples), size):
                part = examples[at : at + size]
                losses.append(self._step(part) * len(part))
            self._check_last_step(examples)
        except BaseException:
            self.load_state_dict(before)
            raise
        self.weights = self._fingerprint()
        return sum(losses) / max(len(examples), 1), len(losses)

    def _step(self, examples: Sequence[OutcomeExample]) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        lengths = [len(e.prompt_ids) + len(e.completion_ids) for e in examples]
        total = 0.0
        for chosen in token_budget_slices(lengths, self._learning.tokens_per_batch):
            rows = [(examples[i].prompt_ids, examples[i].completion_ids) for i in chosen]
            with torch.no_grad():
                reference = torch.stack([row.sum() for row in _logprobs(self._reference, rows)])
            sums = torch.stack([row.sum() for row in _logprobs(self._model, rows)]) - reference
            correct = sums.new_tensor([float(examples[i].correct) for i in chosen])
            loss = implicit_reward_loss(sums, correct, self._learning.beta).sum() / len(examples)
            _check_finite(loss, "loss")
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._learning.max_grad_norm)
        _check_finite(norm, "gradient norm")
        self._optimizer.step()
        return total

    def _check_last_step(self, examples: Sequence[OutcomeExample]) -> None:
        """Check the rewards of the longest solution: no loss follows the last step, which may have led the weights astray."""
        longest = max(examples, key=lambda e: len(e.completion_ids), default=None)
        if longest is not None:
            (values,) = self.rewards([(longest.prompt_ids, longest.completion_ids)])
            _check_finite(values.sum(), "reward of a solution after the last step")

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights and optimizer state on the CPU: tensors and plain values."""
        weights = {name: p.detach().to("cpu", copy=True) for name, p in self._model.named_parameters()}
        moments = {
            index: {name: v.detach().to("cpu", copy=True) for name, v in state.items()}
            for index, state in self._optimizer.state_dict()["state"].items()
        }
        return {"weights": weights, "moments": moments}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: it is of another model.
        """
        own = dict(self._model.named_parameters())
        if own.keys() != state["weights"].keys() or any(p.shape != state["weights"][n].shape for n, p in own.items()):
            raise ValueError("the saved weights of the implicit reward model are those of another model")
        for name, parameter in own.items():
            parameter.copy_(state["weights"][name])
        groups = self._optimizer.state_dict()["param_groups"]
        moments = copy.deepcopy(state["moments"])  # the optimizer would go on in the tensors it is given
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.weights = self._fingerprint()

    def _fingerprint(self) -> str:
        return fingerprint(itertools.chain(self._model.named_parameters(), self._reference.named_parameters()))


def _check_finite(value: Tensor, name: str) -> None:
    if not torch.isfinite(value):
        raise NonFiniteLossError(f"the {name} is {value.item()}")


def _logprobs(model: PreTrainedModel, rows: Sequence[Row]) -> list[Tensor]:
    """Compute the log-probs of each completion, (L,) float32, at temperature 1, in one padded batch."""
    with torch.autocast(model.device.type, enabled=False):
        states, targets = zip(*completion_states(model, rows), strict=True)
        weight, bias = head_of(model)
        logprobs, _ = selected_logprobs(torch.cat(states), weight, torch.cat(targets), bias=bias)
    return list(logprobs.split([len(completion) for _, completion in rows]))
