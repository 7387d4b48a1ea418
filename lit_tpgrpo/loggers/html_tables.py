"""Solutions as HTML tables, for TensorBoard's TEXT page."""

from __future__ import annotations

import html

from lit_tpgrpo.loggers.thoughts import thought_cells, writable
from lit_tpgrpo.records import CreditedSolution

# U+2400 and the following are the visible symbols of the control characters.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


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
    for cells in thought_cells(solution, max_chars):
        rewards = (_signed(cells.process_reward), _signed(cells.advantage))
        rows.append(_row("td", cells.thought, cells.label, *rewards, cells.tokens, visible(cells.text)))
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
    text = writable(text).replace("\r\n", "\n").replace("\r", "\n")
    return html.escape(text.translate(_CONTROL_PICTURES)).replace("\n", "<br>")


def _row(tag: str, *cells: object) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _signed(value: float) -> str:
    """Format with sign and three decimals; a value that rounds to zero is ``+0.000``, never ``-0.000``."""
    return f"{value:+z.3f}"
