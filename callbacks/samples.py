"""SolutionSamples: what the policy wrote and what it was paid, in TensorBoard; histograms of advantages and lengths."""

from __future__ import annotations

import html

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, Round
from lit_tpgrpo.redaction import redacted
from lit_tpgrpo.rollout.hooks import RoundCallback
from lit_tpgrpo.rollout.summary import advantages_and_lengths

# U+2400 and the following are pictures of the control characters, which have no look of their own.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


@checked_arguments()
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
        text = "\n<hr>\n".join(solution_table(s, self._prompt(made, s), self.max_chars) for s in shown)
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
    """Write one solution as HTML: what was asked and decided, then a table with a row for each thought.

    TensorBoard reads Markdown, in which ``1*9=9 … 1*9=0`` is half in italics. It leaves HTML elements as they are, as long
    as no line inside begins with text of the model.
    """
    judged = solution.judged
    decided = (
        f"{judged.outcome.value}, answer {visible(judged.answer or 'none')}, "
        f"outcome advantage {_signed(solution.outcome_advantage)}"
    )
    note = f", judge: {visible(judged.verdict.note)}" if judged.verdict.note else ""
    rows = []
    for number, (thought, reward) in enumerate(zip(solution.thoughts, solution.process_rewards, strict=True), 1):
        steps = judged.verdict.steps[thought.first_step : thought.end_step]
        text = judged.solution.text[steps[0].start : steps[-1].end].strip(" \n")
        tokens = thought.token_end - thought.token_start
        advantage = float(solution.advantages[thought.token_start]) if tokens > 0 else 0.0
        cells = (number, thought.label.value, _signed(reward), _signed(advantage), tokens)
        rows.append(_row("td", *cells, visible(_middle_cut(text, max_chars))))
    head = _row("th", "thought", "label", "process reward", "advantage", "tokens", "text")
    body = "\n".join(rows)
    return (
        f"<p><strong>{visible(prompt)}</strong></p>\n<p>{decided}{note}</p>\n"
        f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def visible(text: str) -> str:
    """Escape a text for HTML so that a browser shows what it says, line breaks included.

    Half a surrogate pair, which no file holds, becomes its escape (``\\udc80``); a control character its picture (``␀``).
    Keys of endpoints are left out.
    """
    text = redacted(text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.encode("utf-8", "backslashreplace").decode()
    return html.escape(text.translate(_CONTROL_PICTURES)).replace("\n", "<br>")


def _row(tag: str, *cells: object) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _signed(value: float) -> str:
    """With its sign and three decimals; what rounds to nothing is ``+0.000``, never ``-0.000``."""
    return f"{value:+z.3f}"


def _middle_cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} […] {text[-limit // 2 :]}"
