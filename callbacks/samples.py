"""SolutionSamples: solutions with their labels and rewards, and histograms of advantages and lengths, in the loggers."""

from __future__ import annotations

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.loggers import RoundPage, show_page
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.hooks import RoundCallback
from lit_tpgrpo.rollout.summary import advantages_and_lengths


@checked_arguments()
class SolutionSamples(RoundCallback):
    """Write tables of solutions with their thoughts, labels and rewards, and two histograms, to the loggers that show them.

    TensorBoard (TEXT and HISTOGRAMS), W&B (``wandb.Table``), MLflow (the table ``solutions.json``; no histograms) and trackio
    (``trackio.Table``). Other loggers get nothing; ``lit_tpgrpo.loggers.show_page.register`` adds one. Solutions with the most
    thoughts come first: they show the judge's work best.

    Args:
        solutions: tables per round.
        every_n_rounds: write every n-th round; 1 writes all.
        max_chars: longer thought texts are shortened in the middle.
    """

    def __init__(self, solutions: int = 4, every_n_rounds: int = 1, max_chars: int = 400) -> None:
        if min(solutions, every_n_rounds, max_chars) < 1:
            raise ConfigError(
                "solutions, every_n_rounds and max_chars must be at least 1, got "
                f"{solutions}, {every_n_rounds} and {max_chars}"
            )
        self.solutions = solutions
        self.every_n_rounds = every_n_rounds
        self.max_chars = max_chars

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        if round_.index % self.every_n_rounds or not trainer.is_global_zero:
            return
        prompts = {group.problem.uid: group.problem.prompt for group in round_.groups}
        shown = sorted(round_.credited, key=lambda s: -len(s.thoughts))[: self.solutions]
        advantages, lengths = advantages_and_lengths(round_)
        page = RoundPage(
            trainer.global_step,
            round_.index,
            [(prompts[s.judged.solution.problem_uid], s) for s in shown],
            {"credit/advantages": advantages, "rollout/lengths": lengths},
            self.max_chars,
        )
        for logger in trainer.loggers:
            show_page(logger, page)
