"""ImplicitRewards: token rewards of a language model that learns the outcomes of each round (PRIME)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.distributed import rank
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.evidence import Evidence, TokenRewards
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools, OutcomeExample
from lit_tpgrpo.judges.evidence.implicit_model import ImplicitLearning, ImplicitRewardModel
from lit_tpgrpo.judges.evidence.token_scoring import TokenScoring, device_of, refuse_other_tokenizer
from lit_tpgrpo.pretrained import load_causal_lm, refuse_rescaled_logits

log = logging.getLogger(__name__)
COUNTERS = ("implicit_loss", "implicit_updates", "scored_solutions", "scored_solutions_reused", "scored_tokens")


@checked_arguments()
class ImplicitRewards(EvidenceProvider):
    """Score each token by q_t = log pi_phi(y_t) - log pi_ref(y_t), and train pi_phi on the outcomes of each round before.

    Source: PRIME (arXiv 2502.01456; code PRIME-RL/PRIME@18ad596f, and its recipe in verl). pi_phi learns by cross-entropy of
    sigma(beta sum_t q_t) with the outcome, one pass over the round's decided solutions, then scores them (the recipe's
    ``update: before``); pi_ref stays as it is. The recipe's rewards are beta q_t without the last token's: the factor is a
    weight of ``PRIMECredit``. Here no prompt is dropped by its accuracy (``data.dynamic_sampling`` does that), and the model
    computes in float32.

    Weights and optimizer state are in the run's checkpoints, with the last round that was learnt. A run that is resumed or was
    killed learns a round again only from the state before it, and from the same solutions in the same order: it has the
    uninterrupted run's weights. A round that was learnt and then lost, its files deleted or its settings changed, is sampled
    again and not learnt again: the model has learnt the solutions that were lost. Every rank holds the model and learns from
    the solutions of all ranks. ``predict`` does not learn.

    Args:
        model: Hugging Face folder or hub name, or an embedded model, with the policy's tokenizer: pi_phi before training.
        reference: pi_ref; None is ``model`` as it is.
        beta: 0.05 in the source.
        lr: of AdamW, 1e-6 in the source (7B); 0 keeps pi_phi as it is, and needs a ``reference``.
        solutions_per_step: of one optimizer step; a round may take several.
        max_grad_norm: 10 in the first code, 1 in the recipe's configuration.
        attention: attention implementation of transformers.
        device: ``auto`` is this process's GPU if it has one.
        tokens_per_batch: padded tokens of one forward pass.

    Raises:
        ConfigError: a number is out of its range, or lr is 0 without a reference.
    """

    uses_engine: ClassVar = False

    def __init__(
        self,
        model: str,
        reference: str | None = None,
        beta: float = 0.05,
        lr: float = 1e-6,
        solutions_per_step: int = 256,
        max_grad_norm: float = 10.0,
        attention: str = "sdpa",
        device: str = "auto",
        tokens_per_batch: int = 8192,
    ) -> None:
        check_positive(tokens_per_batch=tokens_per_batch, solutions_per_step=solutions_per_step)
        for name, value in (("beta", beta), ("max_grad_norm", max_grad_norm)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive and finite, got {value}")
        if not 0 <= lr < math.inf:
            raise ConfigError(f"lr must be finite and not be negative, got {lr}")
        if lr == 0 and reference is None:
            raise ConfigError(
                "lr is 0, and without a reference all implicit rewards would be 0: set a positive lr, or name the reference of "
                "a model that is trained already"
            )
        self.model, self.reference, self.beta, self.lr = model, reference, beta, lr
        self.solutions_per_step, self.max_grad_norm = solutions_per_step, max_grad_norm
        self.attention, self.device, self.tokens_per_batch = attention, device, tokens_per_batch
        self._loaded: ImplicitRewardModel | None = None
        self._saved: dict[str, Any] | None = None  # of a checkpoint or a closed model, until it is needed
        self._learned = -1  # the last round that was learnt
        self._counts: Counter[str] = Counter()

    @property
    def gives(self) -> type[Evidence]:
        return TokenRewards

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the models' tokens are the policy's.

        Raises:
            ConfigError: they are not, or there is no such tokenizer.
        """
        for name in {self.model, self.reference or self.model}:
            refuse_other_tokenizer("ImplicitRewards", name, tokenizer)

    def metrics(self) -> dict[str, float]:
        """Return and reset the cost, and what the model learnt: ``implicit_loss``, the round's mean cross-entropy before it."""
        counts = {name: float(self._counts[name]) for name in COUNTERS}
        self._counts.clear()
        return counts

    def learn(self, round_index: int, examples: Sequence[OutcomeExample]) -> None:
        """Learn the outcomes of a round, those of all ranks, unless it was learnt before.

        Raises:
            NonFiniteLossError: a loss or gradient is NaN or infinite; checked before each step.
        """
        if round_index <= self._learned or self.lr == 0:
            return
        try:
            loss, steps = self._ready().learn(examples)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"ImplicitRewards: {error} in learning round {round_index}; the model is as it was before the round, which is "
                "stored. Lower its lr (data.evidence), or look at its model and reference, then resume with --ckpt_path"
            ) from error
        self._learned = round_index
        if rank() == 0:  # all ranks do the same, and counters are added up
            self._counts["implicit_updates"] += steps
            self._counts["implicit_loss"] += loss  # pyright: ignore[reportArgumentType]

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        if not cases:
            return []
        model = self._ready()
        solutions = [case.judged.solution for case in cases]
        keys = [tools.key("implicit rewards", model.weights, s.prompt_ids, s.completion_ids) for s in solutions]
        scoring = TokenScoring(
            lambda batch: model.rewards([(s.prompt_ids, s.completion_ids) for s in batch]),
            self.tokens_per_batch,
            f"ImplicitRewards: log-probs of {self.model!r}",
            self._counts,
            "Look at its model and reference, or lower its lr and resume with --ckpt_path from a checkpoint before the round",
        )
        return [TokenRewards(tuple(values)) for values in scoring(keys, solutions, tools)]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer state and the last round learnt; the last alone while nothing was."""
        if self._learned < 0:
            return {"learned": self._learned}
        state = self._saved if self._loaded is None else self._loaded.state_dict()
        return {"learned": self._learned, "model": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned, when the model is next used."""
        self._learned, self._saved, self._loaded = int(state["learned"]), state.get("model"), None

    def close(self) -> None:
        """Free the model; what it learnt is kept in host memory."""
        if self._loaded is not None:
            self._saved = self._loaded.state_dict() if self._learned >= 0 else None
            self._loaded = None

    def _ready(self) -> ImplicitRewardModel:
        if self._loaded is None:
            settings = ImplicitLearning(
                self.beta, self.lr, self.solutions_per_step, self.max_grad_norm, self.tokens_per_batch
            )
            reference = None if self.reference is None else self._load(self.reference)
            loaded = ImplicitRewardModel(self._load(self.model), reference, settings)
            if self._saved is not None:
                try:
                    loaded.load_state_dict(self._saved)
                except ValueError as error:
                    raise ConfigError(
                        f"ImplicitRewards: {error}, and data.evidence.model is {self.model!r}; name the model of the run that "
                        "is resumed"
                    ) from error
            self._loaded, self._saved = loaded, None
        return self._loaded

    def _load(self, name: str) -> Any:
        model = load_causal_lm(name, False, torch.float32, self.attention)
        refuse_rescaled_logits(model, name)
        return model.to(device_of(self.device))  # pyright: ignore[reportArgumentType]
