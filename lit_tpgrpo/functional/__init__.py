"""Pure functions of tensors, without any other import of this package: the formulas of the paper and of its relatives.

``advantages`` has the token advantages of TP-GRPO, ``kl`` estimators of the KL term, ``aggregation`` weights that average over
an optimizer step, ``corrections`` importance weights between engine and trainer, ``logprobs`` the log-probs of chosen tokens
without the logits of all, ``preferences`` advantages from comparisons of pairs, ``pair_losses`` the losses of reward models on
pairs, ``implicit_rewards`` PRIME's token rewards and the loss of their model, ``bisection`` the search for a first wrong step.
"""

from lit_tpgrpo.functional.advantages import (
    closed_form_advantages,
    merge_runs,
    process_rewards,
    standardise_group,
    standardise_part,
    suffix_sum_advantages,
)
from lit_tpgrpo.functional.aggregation import NORMALISATIONS, BatchCounts, sequence_weights, token_weights
from lit_tpgrpo.functional.corrections import CORRECTIONS, importance_weights
from lit_tpgrpo.functional.implicit_rewards import implicit_reward_loss, leave_one_out_by_means
from lit_tpgrpo.functional.kl import KL_ESTIMATORS, kl_k1, kl_k2, kl_k2_unbiased, kl_k3, kl_k3_unbiased, kl_penalty
from lit_tpgrpo.functional.logprobs import selected_logprobs
from lit_tpgrpo.functional.pair_losses import (
    bradley_terry_loss,
    cosine_similarity,
    length_similarity,
    margin_limit,
    pcrm_pair_loss,
    q_rm_pair_loss,
    rebel_loss,
)
from lit_tpgrpo.functional.preferences import preference_advantages

__all__ = [
    "CORRECTIONS",
    "KL_ESTIMATORS",
    "NORMALISATIONS",
    "BatchCounts",
    "bradley_terry_loss",
    "closed_form_advantages",
    "cosine_similarity",
    "implicit_reward_loss",
    "importance_weights",
    "kl_k1",
    "kl_k2",
    "kl_k2_unbiased",
    "kl_k3",
    "kl_k3_unbiased",
    "kl_penalty",
    "leave_one_out_by_means",
    "length_similarity",
    "margin_limit",
    "merge_runs",
    "pcrm_pair_loss",
    "preference_advantages",
    "process_rewards",
    "q_rm_pair_loss",
    "rebel_loss",
    "selected_logprobs",
    "sequence_weights",
    "standardise_group",
    "standardise_part",
    "suffix_sum_advantages",
    "token_weights",
]
