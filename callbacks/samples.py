"""SolutionSamples: what the policy wrote and what it was paid, in TensorBoard; histograms of advantages and lengths."""

from __future__ import annotations

import html

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, Round
from lit_tpgrpo.rollout.hooks import RoundCallback
from lit_tpgrpo.rollout.summary import advantages_and_lengths


class SolutionSamples(RoundCallback):
    """Writes a table of solutions with their thoughts, labels and rewards, and two histograms, each n rounds.

    Takes solutions with the most thoughts first: they show what the judge did. Other loggers than TensorBoard are left
    alone.

    Args:
        solutions: tables per round.
        every_n_rounds: 1 writes each round.
        max_chars: longer thought texts are cut in the middle.
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

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, made: Round) -> None:
        if made.index % self.every_n_rounds or not trainer.is_global_zero:
            return
        shown = sorted(made.credited, key=lambda s: -len(s.thoughts))[: self.solutions]
        text = "\n\n---\n\n".join(solution_table(s, self._prompt(made, s), self.max_chars) for s in shown)
        advantages, lengths = advantages_and_lengths(made)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer, step = logger.experiment, trainer.global_step
                writer.add_text("rollout/solutions", text, step)
                writer.add_histogram("credit/advantages", advantages, step)
                writer.add_histogram("rollout/lengths", lengths, step)

    @staticmethod
    def _prompt(made: Round, solution: CreditedSolution) -> str:
        uid = solution.judged.solution.problem_uid
        return next(g.problem.prompt for g in made.groups if g.problem.uid == uid)


def solution_table(solution: CreditedSolution, prompt: str, max_chars: int) -> str:
    """One solution as Markdown: a heading line and a row per thought, rewards and advantages with their signs."""
    judged = solution.judged
    head = (
        f"**{_escape(prompt)}**\n\n{judged.outcome.value}, answer {_escape(judged.answer or 'none')}, "
        f"outcome advantage {solution.outcome_advantage:+.3f}"
    )
    note = f", judge: {_escape(judged.verdict.note)}" if judged.verdict.note else ""
    rows = ["| thought | label | process reward | advantage | tokens | text |", "|---|---|---|---|---|---|"]
    for number, (thought, reward) in enumerate(zip(solution.thoughts, solution.process_rewards, strict=True), 1):
        steps = judged.verdict.steps[thought.first_step : thought.end_step]
        text = judged.solution.text[steps[0].start : steps[-1].end].strip()
        advantage = float(solution.advantages[thought.token_start]) if thought.token_end > thought.token_start else 0.0
        rows.append(
            f"| {number} | {thought.label.value} | {reward:+.3f} | {advantage:+.3f} "
            f"| {thought.token_end - thought.token_start} | {_escape(_middle_cut(text, max_chars))} |"
        )
    return head + note + "\n\n" + "\n".join(rows)


def _middle_cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} […] {text[-limit // 2 :]}"


def _escape(text: str) -> str:
    """Model text inside a Markdown table: no cell, tag or line of its own."""
    return html.escape(text).replace("|", "&#124;").replace("\n", " <br> ")
