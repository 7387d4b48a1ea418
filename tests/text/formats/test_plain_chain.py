"""Division of texts without tags: which paragraph states the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.text.answers import extract_boxed
from lit_tpgrpo.text.formats import PlainChain
from lit_tpgrpo.text.steps import segment_steps

PLAIN = PlainChain()
CODE = PlainChain(("code",))
LENIENT = PlainChain(("box", "stated", "last"))


@pytest.mark.parametrize(
    ("format", "text", "thinking", "answer"),
    [
        (PLAIN, "2+2 is 4.\n\nSo \\boxed{4}.\n", "2+2 is 4.\n\n", "So \\boxed{4}."),
        (PLAIN, "So \\boxed{4}.", "", "So \\boxed{4}."),
        (PLAIN, "A \\boxed{3}\n\nB \\boxed{4}\n\nBye.", "A \\boxed{3}\n\n", "B \\boxed{4}\n\nBye."),
        # A box counts before words, wherever it is.
        (PLAIN, "a\n\n\\boxed{4}\n\nThe answer is 5.", "a\n\n", "\\boxed{4}\n\nThe answer is 5."),
        # Boxes that are one answer stay together; a sentence between them makes them two.
        (PLAIN, "a\n\n$x=\\boxed{2}$\n\nor\n\n$x=\\boxed{3}$", "a\n\n", "$x=\\boxed{2}$\n\nor\n\n$x=\\boxed{3}$"),
        (PLAIN, "\\boxed{2} is wrong.\n\n\\boxed{3}", "\\boxed{2} is wrong.\n\n", "\\boxed{3}"),
        (PLAIN, "a\n\n\\boxed{4\n\nno end", "a\n\n", "\\boxed{4\n\nno end"),
        (PLAIN, "a\n\nb\n#### 4", "a\n\n", "b\n#### 4"),
        (PLAIN, "a\n\n**Final Answer:** 4\n\nBye.", "a\n\n", "**Final Answer:** 4\n\nBye."),
        (PLAIN, "a\n\nAnswer: 4", "a\n\n", "Answer: 4"),
        (PLAIN, "a\n\nSo the answer is 4.", "a\n\n", "So the answer is 4."),
        (PLAIN, "a\n\nThe final answer to the problem is 4.", "a\n\n", "The final answer to the problem is 4."),
        (PLAIN, "a\n\nTherefore, the correct answer would be 4", "a\n\n", "Therefore, the correct answer would be 4"),
        (PLAIN, "The answer is 3.\n\nNo, the answer is 4.", "The answer is 3.\n\n", "No, the answer is 4."),
        (PLAIN, "To find the answer, we add: 4 is it.", "To find the answer, we add: 4 is it.", None),
        (PLAIN, "He has 4 apples.", "He has 4 apples.", None),
        (PLAIN, "", "", None),
        (LENIENT, "a\n\nHe has 4 apples.\n\n", "a\n\n", "He has 4 apples."),
        (LENIENT, "a\n\nAnswer: 4\n\nBye.", "a\n\n", "Answer: 4\n\nBye."),
        (LENIENT, " \n", " \n", None),
        (CODE, "a\n\n```python\nx\n\ny\n```\n\nBye.", "a\n\n", "```python\nx\n\ny\n```\n\nBye."),
        (CODE, "```\nx\n```\n\nb\n\n```\ny\n", "```\nx\n```\n\nb\n\n", "```\ny"),
        (CODE, "no code, \\boxed{4}", "no code, \\boxed{4}", None),
    ],
)
def test_parts(format: PlainChain, text: str, thinking: str, answer: str | None):
    division = format.divide(text)
    assert (division.thinking_text(text), division.answer_text(text)) == (thinking, answer)


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "a",
                " ",
                "\n",
                "\n\n",
                "\\",
                "{",
                "}",
                "\\boxed",
                "\\boxed{",
                "\\boxed{2}",
                "=",
                "or",
                ",",
                "$$",
                "```",
                "\r\n\r\n",
            ),
            *("The answer is ", "answer", "####", "\\fbox{3}", "\\[", "\\]"),
        ]
    ),
    max_size=20,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(text=PIECES)
def test_cutting_changes_no_boxed_answer(text: str):
    block = PLAIN.divide(text).answer_text(text)
    whole = extract_boxed(text)
    assert whole == (None if block is None else extract_boxed(block))


@settings(deadline=None)
@given(text=PIECES, format=st.sampled_from([PLAIN, CODE, LENIENT]))
def test_the_parts_tile_the_text(text: str, format: PlainChain):
    division = format.divide(text)
    thinking, answer = division.thinking_text(text), division.answer_text(text)
    assert division.thinking[0] == 0
    if answer is None:
        assert thinking == text
    else:
        rest = text[len(thinking) :]
        assert rest.startswith(answer)
        assert rest[len(answer) :].strip() == ""
    steps = segment_steps(text, range(len(text)), len(text), division)
    assert "".join(text[s.start : s.end] for s in steps) == text
    assert steps[-1].is_answer == (answer is not None)


def test_settings_and_refusals():
    assert PLAIN.settings != LENIENT.settings
    assert "states an answer by box or stated, so none can score" in PLAIN.missing()
    assert PLAIN.tags() == ()
    with pytest.raises(ConfigError, match="answer must name one of box, stated, code, last or several"):
        PlainChain(())
    with pytest.raises(ConfigError, match="PlainChain: answer"):
        PlainChain(("boxes",))  # pyright: ignore[reportArgumentType]
