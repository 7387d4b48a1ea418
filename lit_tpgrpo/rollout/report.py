"""Report a finished round: loggers, callback metrics, one printed line, and warnings of what its figures show."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.mismatch import warn_of_mismatch
from lit_tpgrpo.rollout.summary import round_line
from lit_tpgrpo.rollout.trainer_state import log_to_all
from lit_tpgrpo.text.formats.base import SolutionFormat


def report_round(trainer: L.Trainer, round_: Round, format: SolutionFormat) -> None:
    """Log the metrics of a round on all ranks, print its line and warn on rank 0."""
    metrics = round_.metrics
    begins = round_.policy_version if round_.trained_from is None else round_.trained_from
    log_to_all(trainer, dict(metrics) | {"round": round_.index, "round_step": begins})
    if trainer.is_global_zero:
        tqdm.write(round_line(round_.index, round_.policy_version, metrics))
    if metrics["rollout/undecided_share"] > 0:
        rank_zero_warn(
            f"{metrics['rollout/undecided_share']:.1%} of the solutions of round {round_.index} are undecided and left "
            "out: verifier workers were killed or did not get to run. Free memory, or lower verifier.workers"
        )
    # Otherwise the distance includes what top_p or top_k cut off, or what the policy has learned meanwhile.
    if "mismatch/kept_mass" not in metrics and not metrics.get("ahead/staleness"):
        warn_of_mismatch(metrics.get("mismatch/kl", 0.0), round_.index)
    if (
        metrics["credit/kept_solutions"]
        and metrics["credit/advantage_mean"] == metrics["credit/advantage_variance"] == 0
    ):
        rank_zero_warn(
            f"all advantages of round {round_.index} are 0, so its steps train on nothing but a KL term: in each group all "
            "solutions have the same reward. Look at reward/*, or rollout/accuracy, then change data.rewards or the "
            "problems' difficulty"
        )
    if metrics["rollout/no_answer_block_share"] == 1.0:
        rank_zero_warn(f"no solution of round {round_.index} {format.missing()}")
