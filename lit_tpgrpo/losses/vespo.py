"""VESPO: a smooth weight of the whole solution's importance ratio in place of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.surrogates import MAX_LOG_RATIO, gamma_log_weight, weighted_score
from lit_tpgrpo.losses.base import LossInputs, TokenLoss
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_positive

MIN_LOG_WEIGHT = math.log(1e-8)


@checked_arguments()
@dataclass(frozen=True)
class VESPO(PolicyLoss):
    """Weigh each token by a gamma-shaped function of its solution's importance ratio, whose peak is at or below 1.

        w_i = prod_t kappa_t c_t                        (log kappa_t in [-20, 20], log c_t and log w_i in [log 1e-8, 20])
        phi_t = exp(lam_t) * w_i^k_t * exp(-lam_t * w_i),   (k, lam) by the sign of A_t; phi = 1 at w_i = 1
        objective_t = sg(phi_t) * A_t * log pi(y_t)

    Source: VESPO (arXiv 2602.10693), token mean; TRL 1.16's ``vespo`` (k and lam 2 and 3 for an advantage of 0 or more, 3 and 2
    below). There one advantage belongs to a solution. With token advantages *each token's own sign* chooses (k, lam): phi
    decides how far an off-policy token is pushed up or down, which is what its own advantage says. With one advantage
    per solution this is the paper's.

    Importance weights c_t (``data.correction``) are factors of w_i and nothing besides, so use those of tokens, or
    ``sequence_*``: the product of a geometric mean over all tokens is the product of their ratios. ``product_*`` would enter
    once a token and is refused at the start (``check_correction``). A masked token (c_t = 0) makes w_i 1e-8, phi about 0.

    Args:
        k_positive: exponent for advantages of 0 or more.
        lam_positive: rate for advantages of 0 or more.
        k_negative: exponent for negative advantages.
        lam_negative: rate for negative advantages.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a value is out of range.
    """

    k_positive: float = 2.0
    lam_positive: float = 3.0
    k_negative: float = 3.0
    lam_negative: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(**{n: getattr(self, n) for n in ("k_positive", "lam_positive", "k_negative", "lam_negative")})

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        phi = self._weight(inputs)
        return PolicyTerm(weighted_score(inputs.logprobs, phi, inputs.advantages), {"soft_weight": phi})

    @torch.no_grad()
    def _weight(self, inputs: LossInputs) -> Tensor:
        log_ratio = (inputs.logprobs - inputs.old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        log_correction = inputs.importance_weights.log().clamp(MIN_LOG_WEIGHT, MAX_LOG_RATIO)
        log_w = inputs.sequence_sum(log_ratio + log_correction).clamp(MIN_LOG_WEIGHT, MAX_LOG_RATIO)
        pushes_up = inputs.advantages >= 0
        k = torch.full_like(log_w, self.k_negative).masked_fill(pushes_up, self.k_positive)
        lam = torch.full_like(log_w, self.lam_negative).masked_fill(pushes_up, self.lam_positive)
        return gamma_log_weight(log_w, k, lam).exp()


def check_correction(loss: object, correction: object) -> None:
    """Refuse a correction whose weights ``VESPO``, or one that another loss wraps as ``loss``, would multiply once a token.

    Args:
        loss: of the module.
        correction: the data module's with its ``method``, or None.

    Raises:
        ConfigError: it is one of ``product_*``.
    """
    while not isinstance(loss, VESPO) and isinstance(loss, TokenLoss):
        loss = getattr(loss, "loss", None)
    method = getattr(correction, "method", None)
    if isinstance(loss, VESPO) and isinstance(method, str) and method.startswith("product_"):
        raise ConfigError(
            f"VESPO multiplies the correction weights over a solution's tokens, and data.correction.method {method} gives each "
            f"token the product already: use a token_* method, or {method.replace('product', 'sequence')}, the geometric mean"
        )
