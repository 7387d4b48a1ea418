"""Division by think tags: hand-worked texts, the rule as it was before formats, and tags of several model families."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Step
from lit_tpgrpo.text.formats import Division, SolutionFormat, ThinkTags
from lit_tpgrpo.text.steps import segment_steps, steps_from_starts

R1 = ThinkTags()
MAGISTRAL = ThinkTags("[THINK]", "[/THINK]")
REASONING = ThinkTags("<reasoning>", "</reasoning>", (), "<answer>", "</answer>")
THOUGHT = ThinkTags("<|begin_of_thought|>", "<|end_of_thought|>", (), "<|begin_of_solution|>", "<|end_of_solution|>")
SEVERAL = ThinkTags(other_closing=("</thinking>", "</thought>"))


def parts(format: SolutionFormat, text: str) -> tuple[str, str | None]:
    division = format.divide(text)
    return division.thinking_text(text), division.answer_text(text)


@pytest.mark.parametrize(
    ("format", "text", "thinking", "answer"),
    [
        (R1, "think", "think", None),
        (R1, "", "", None),
        (R1, "</think>", "", ""),
        (R1, "<think>a</think>b", "a", "b"),
        (R1, "\n <think>\na\n</think>\n\nb\n", "\na\n", "\n\nb"),
        (R1, "a</think>b", "a", "b"),
        (R1, "a</think>b</think>c", "a</think>b", "c"),
        (R1, "a</think>b</think>\n", "a", "b"),
        (R1, "a</think>b\n</think> </think>\n", "a", "b"),
        (R1, "<think>a</thin", "a</thin", None),
        (R1, "<think><think>a</think>b", "<think>a", "b"),
        (R1, "a [/THINK] b", "a [/THINK] b", None),
        (MAGISTRAL, "[THINK]a\n[/THINK]b", "a\n", "b"),
        (MAGISTRAL, "a</think>b", "a</think>b", None),
        (REASONING, "<reasoning>\na\n</reasoning>\n<answer>\n4\n</answer>\n", "\na\n", "\n4\n"),
        (REASONING, "<reasoning>a</reasoning>4", "a", "4"),
        (REASONING, "a</reasoning><answer>3</answer> no, <answer>4</answer> yes", "a", "4"),
        (REASONING, "a</reasoning>say <answer>4", "a", "4"),
        (REASONING, "<answer>4</answer>", "<answer>4</answer>", None),
        (
            THOUGHT,
            "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nb\n\n<|end_of_solution|>",
            "\n\na\n\n",
            "\n\nb\n\n",
        ),
        (SEVERAL, "<think>a</thinking>b", "a", "b"),
        (SEVERAL, "a</think>b</thought>c", "a</think>b", "c"),
        (SEVERAL, "a</think>b</thought>\n</thinking>", "a", "b"),
        (ThinkTags("", "---"), "a---b", "a", "b"),
    ],
)
def test_parts(format: ThinkTags, text: str, thinking: str, answer: str | None):
    assert parts(format, text) == (thinking, answer)


def earlier_start(text: str) -> int | None:
    """The rule as it was written before formats, for ``</think>`` alone."""
    start = text.rfind("</think>", 0, earlier_end(text))
    return start if start >= 0 else None


def earlier_end(text: str) -> int:
    end = len(text.rstrip())
    while text.endswith("</think>", 0, end) and text.rfind("</think>", 0, end - 8) >= 0:
        end = len(text[: end - 8].rstrip())
    return end


PIECES = st.lists(
    st.sampled_from(
        [
            *("a", " ", "\n", "\n\n", "Hmm.", ":", "$$", "<think>", "</think>", "</thinking>", "</think"),
            "<answer>",
            "</answer>",
        ]
    ),
    max_size=14,
).map("".join)


@settings(deadline=None)
@given(text=PIECES)
def test_the_default_is_the_rule_of_before(text: str):
    division = R1.divide(text)
    assert division.boundary == earlier_start(text)
    block = None if division.boundary is None else text[division.boundary + 8 : earlier_end(text)]
    assert division.answer_text(text) == block
    before = text[: division.thinking[1]]
    assert (division.thinking_text(text).strip() == "") == (before.replace("<think>", "", 1).strip() == "")


@settings(deadline=None)
@given(text=PIECES, format=st.sampled_from([R1, SEVERAL, REASONING, ThinkTags("a", "a", (" ",), "<", ">")]))
def test_the_parts_tile_the_text(text: str, format: ThinkTags):
    division = format.divide(text)
    ends = [0, *division.thinking, *(division.answer or ()), len(text)]
    assert ends == sorted(ends)
    if division.answer is None:
        assert division.thinking[1] == len(text)
    steps = segment_steps(text, range(len(text)), len(text), division)
    assert [s.end for s in steps[:-1]] == [s.start for s in steps[1:]]
    assert (steps[0].start, steps[-1].end) == (0, len(text))
    assert steps[-1].is_answer == (division.answer is not None)
    assert steps_from_starts(text, [s.start for s in steps if not s.is_answer] or [0], range(len(text)), division)


def test_steps_of_another_format():
    text = "[THINK]\n\nOne.\n\nHmm.\n\nTwo.[/THINK]2"
    division = MAGISTRAL.divide(text)
    steps = segment_steps(text, range(len(text)), len(text), division)
    assert [text[s.start : s.end] for s in steps] == ["[THINK]\n\nOne.\n\n", "Hmm.\n\nTwo.", "[/THINK]2"]
    assert [s.is_answer for s in steps] == [False, False, True]
    blank = "[THINK]\n[/THINK]2"
    assert segment_steps(blank, range(17), 17, MAGISTRAL.divide(blank)) == (Step(0, 17, 0, 17, True),)


def test_tags_and_settings():
    assert R1.tags() == ("<think>", "</think>")
    assert THOUGHT.tags()[-1] == "<|end_of_solution|>"
    assert isinstance(R1, SolutionFormat)
    assert R1.settings != SEVERAL.settings
    assert Division((0, 3), None).boundary is None
    assert "after </think> or </thinking> or </thought> only" in SEVERAL.missing()
    with pytest.raises(ConfigError, match="closing tags must be texts such as </think>, got an empty one"):
        ThinkTags(closing="")
