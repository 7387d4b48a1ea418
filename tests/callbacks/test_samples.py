"""What SolutionSamples and the prediction writer write is what a reader sees: rendered by TensorBoard's own function."""

from __future__ import annotations

import json
import re
import string
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.plugin_util import markdown_to_safe_html

from lit_tpgrpo.callbacks.predictions import JudgedSolutionWriter
from lit_tpgrpo.loggers.html_tables import solution_table
from lit_tpgrpo.records import (
    CreditedSolution,
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Problem,
    Round,
    Solution,
    Step,
    StepLabel,
    StopReason,
    Thought,
    Verdict,
)
from lit_tpgrpo.rollout.summary import round_line


def credited(text: str, answer: str | None = "8", note: str = "", advantage: float = 0.5) -> CreditedSolution:
    """One solution of one thought that is its whole text."""
    step, label = Step(0, len(text), 0, 1), StepLabel.INCORRECT
    solution = Solution("p", 0, (1,), (2,), (0.0,), StopReason.EOS, 0, text, (0,))
    judged = JudgedSolution(solution, Outcome.CORRECT, answer, Verdict((step,), (label,), note))
    return CreditedSolution(judged, 0.5, (Thought(0, 1, 0, 1, label),), (-0.0,), torch.tensor([advantage]))


class Visible(HTMLParser):
    """The texts of paragraphs and table cells as a browser shows them, and the elements that the page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.elements: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        if tag in ("p", "td", "th"):
            self.blocks.append("")
        elif tag == "br":
            self.blocks[-1] += "\n"

    def handle_data(self, data):
        if self.blocks and data.strip():
            self.blocks[-1] += data


def shown(table: str) -> Visible:
    return Visible(markdown_to_safe_html(table.encode()))


def collapsed(text: str) -> str:
    """A browser shows runs of spaces as one, and none at the ends of lines."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in lines).strip()


_TRICKY = st.sampled_from(
    ["**", "```", "~~~", "\n\n", "\r", "|", "<b>", "</td>", "&amp;", "&#42;", "$x_1$", "[a](b)", "# ", "\n- "]
)
_TEXTS = st.lists(st.one_of(_TRICKY, st.sampled_from(string.printable), st.characters()), max_size=20).map("".join)


@settings(max_examples=60)
@given(text=_TEXTS, prompt=_TEXTS, answer=_TEXTS)
@example(text="1*9=9, 2*9=8, 1*9=0", prompt="a*b*c", answer="_1_")
@example(text=string.punctuation, prompt=string.punctuation, answer=string.punctuation)
@example(text="`a` | \\boxed{\\frac{1}{2}} $x_1$ ~~~\n```\n    1. x\n\n# y\n[a]: b", prompt="x", answer="y")
@example(text="<script>a</script><!-- b --> <br> &lt; &#42; <?x ?> <![CDATA[x]]>", prompt="</p>", answer="<p>")
def test_tensorboard_shows_what_was_written(text, prompt, answer):
    page = shown(solution_table(credited(text, answer), prompt, max_chars=10_000))
    assert page.elements <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "br"}

    def seen(source: str) -> str:
        pictures = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\t\n\r" else c for c in source)
        return pictures.replace("\x7f", "\u2421").encode("utf-8", "backslashreplace").decode()

    heading, decided, *cells = page.blocks
    assert collapsed(heading) == collapsed(seen(prompt))
    assert collapsed(decided) == collapsed(f"correct, answer {seen(answer or 'none')}, outcome advantage +0.500")
    assert cells[:6] == ["thought", "label", "process reward", "advantage", "tokens", "text"]
    assert cells[6:11] == ["1", "incorrect", "+0.000", "+0.500", "1"]
    assert collapsed(cells[11]) == collapsed(seen(text))
    assert len(cells) == 12


def test_nothing_is_shown_as_minus_zero():
    cells = shown(solution_table(credited("x", advantage=-0.0004), "q", 10)).blocks[8:]
    assert cells == ["1", "incorrect", "+0.000", "+0.000", "1", "x"]
    metrics = dict.fromkeys(
        ["rollout/accuracy", "judge/wrong_thought_share", "credit/kept_solutions", "rollout/solutions",
         "rollout/length_mean", "rollout/tokens_per_s"], 0.0
    )  # fmt: skip
    assert "| reward +0.000 |" in round_line(0, 0, metrics | {"rollout/reward": -0.0})


@pytest.mark.parametrize("note", ["endpoint said \udc80", "\ud83d"])
def test_half_a_surrogate_pair_in_a_note_is_written_and_shown(note, tmp_path):
    solution = credited("1+1=2", note=note)
    escaped = note.encode("utf-8", "backslashreplace").decode()
    assert shown(solution_table(solution, "q", 10)).blocks[1].endswith(f"judge: {escaped}")

    group = JudgedGroup(Problem("p", "q ü", "8"), (solution.judged,), 1.0)
    round_ = Round(0, 0, 1.0, (group,), (solution,), (solution,))
    writer = JudgedSolutionWriter(str(tmp_path / "out.jsonl"))
    writer._file = tmp_path / "out.jsonl"
    writer.on_predict_batch_end(None, None, None, round_, 0)  # pyright: ignore
    (row,) = [json.loads(line) for line in writer._file.read_text("utf-8").splitlines()]
    assert row["judge_note"] == note
    assert row["prompt"] == "q ü"
