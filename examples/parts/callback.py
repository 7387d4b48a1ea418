"""A callback: ``--trainer.callbacks+ examples.parts.callback.LongestSolution``."""

import lightning as L

from lit_tpgrpo import Round, RoundCallback


class LongestSolution(RoundCallback):
    """Callback that logs the length in tokens of this rank's longest solution of each round as ``samples/longest``."""

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        """Log after each round; see RoundCallback for the other hooks, and Lightning's hooks work too."""
        longest = max((len(c.judged.solution.completion_ids) for c in round_.credited), default=0)
        for logger in trainer.loggers:
            logger.log_metrics({"samples/longest": float(longest)}, step=trainer.global_step)
