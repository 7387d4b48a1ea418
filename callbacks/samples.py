"""SolutionSamples: solutions with their labels and rewards in TensorBoard, and histograms of advantages and lengths."""

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

# U+2400 and the following are the visible symbols of the control characters.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


@checked_arguments()
class SolutionSamples(RoundCallback):
    """Write tables of solutions with their thoughts, labels and rewards, and two histograms, to TensorBoard.

    Solutions with the most thoughts come first: they show the judge's work best. Other loggers get nothing.

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
        shown = sorted(round_.credited, key=lambda s: -len(s.thoughts))[: self.solutions]
        text = "\n<hr>\n".join(solution_table(s, self._prompt(round_, s), self.max_chars) for s in shown)
        advantages, lengths = advantages_and_lengths(round_)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer, step = logger.experiment, trainer.global_step
                writer.add_text("rollout/solutions", text, step)
                writer.add_histogram("credit/advantages", advantages, step)
                writer.add_histogram("rollout/lengths", lengths, step)

    @staticmethod
    def _prompt(round_: Round, solution: CreditedSolution) -> str:
        uid = solution.judged.solution.problem_uid
        return next(g.problem.prompt for g in round_.groups if g.problem.uid == uid)


def solution_table(solution: CreditedSolution, prompt: str, max_chars: int) -> str:
    """Render one solution as HTML: prompt, outcome and answer, then a table with a row for each thought.

    TensorBoard renders Markdown, where ``1*9=9 … 1*9=0`` would be partly in italics. It leaves HTML elements unchanged if
    no line inside them begins with text of the model.
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
    """Escape a text for HTML so that a browser shows every character, line breaks included.

    A lone surrogate, which cannot be encoded, becomes its escape (``\\udc80``); a control character its symbol (``␀``).
    API keys are redacted.
    """
    text = redacted(text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.encode("utf-8", "backslashreplace").decode()
    return html.escape(text.translate(_CONTROL_PICTURES)).replace("\n", "<br>")


def _row(tag: str, *cells: object) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _signed(value: float) -> str:
    """Format with sign and three decimals; a value that rounds to zero is ``+0.000``, never ``-0.000``."""
    return f"{value:+z.3f}"


def _middle_cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} […] {text[-limit // 2 :]}"
