import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.records import Step
from lit_tpgrpo.text.steps import segment_steps

PIECES = st.lists(
    st.sampled_from(
        [
            "a",
            "Wait.",
            "so:",
            "so,",
            " ",
            "\n",
            "\n\n",
            "\r\n\r\n",
            "$$x$$",
            "\\[",
            "\\]",
            "```",
            "<think>",
            "</think>",
            "…",
        ]
    ),
    max_size=30,
).map("".join)


def by_character(text):
    """Segment as if every character were a token, with EOS after them."""
    return segment_steps(text, [*range(len(text)), len(text)], len(text) + 1)


def texts(text):
    return [text[s.start : s.end] for s in by_character(text)]


@settings(deadline=None)
@given(text=PIECES | st.text(), data=st.data())
def test_steps_tile_the_text_and_cover_the_tokens(text, data):
    starts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    starts = [0, *starts]
    steps = segment_steps(text, starts, len(starts))
    assert "".join(text[s.start : s.end] for s in steps) == text
    assert [t for s in steps for t in range(s.token_start, s.token_end)] == list(range(len(starts)))
    assert all(s.token_start < s.token_end or s.is_answer for s in steps)
    assert [s.is_answer for s in steps] == [False] * (len(steps) - 1) + ["</think>" in text]


def test_paragraphs_are_steps_and_the_answer_block_is_the_last():
    text = "First, 3 + 5 = 8.\n\nNext, 8 * 2 = 6.\n</think>\n\nSo 3 + 5 = 8.\n\nThe answer is \\boxed{6}."
    assert texts(text) == [
        "First, 3 + 5 = 8.\n\n",
        "Next, 8 * 2 = 6.\n",
        "</think>\n\nSo 3 + 5 = 8.\n\nThe answer is \\boxed{6}.",
    ]
    assert [s.is_answer for s in by_character(text)] == [False, False, True]


def test_a_truncated_completion_has_no_answer_step():
    assert [s.is_answer for s in by_character("one\n\ntw")] == [False, False]


def test_a_display_joins_the_paragraph_before_it():
    text = "The area is\n\n$$\\pi r^2$$\n\n\\[ = 4\\pi \\].\n\nThen we go on."
    assert texts(text) == ["The area is\n\n$$\\pi r^2$$\n\n\\[ = 4\\pi \\].\n\n", "Then we go on."]


def test_a_display_with_words_stands_alone():
    assert texts("one\n\nhence $$x$$\n\n$$y$$ follows") == ["one\n\n", "hence $$x$$\n\n", "$$y$$ follows"]


def test_a_colon_takes_the_next_paragraph():
    assert texts("We list:\n\n- a\n\n- b\n\nDone") == ["We list:\n\n- a\n\n", "- b\n\n", "Done"]


@pytest.mark.parametrize("mark", [",", ":", "\uff0c", "\uff1a"])
def test_a_paragraph_that_ends_within_its_sentence_takes_the_next(mark):
    assert texts(f"First.\n\nSince q is 42{mark} \n\nthe height is 6.\n\nNow.\n</think>\n\n5") == [
        "First.\n\n",
        f"Since q is 42{mark} \n\nthe height is 6.\n\n",
        "Now.\n",
        "</think>\n\n5",
    ]
    assert texts(f"Thus{mark}\n</think>\n\n5") == [f"Thus{mark}\n", "</think>\n\n5"]


def test_a_bare_interjection_joins_what_it_is_about():
    assert texts("one\n\nHmm.\n\nWait, no.\n\nIt is 5.\n\nWait for it.\n\nEnd") == [
        "one\n\n",
        "Hmm.\n\nWait, no.\n\nIt is 5.\n\n",
        "Wait for it.\n\n",
        "End",
    ]


def test_the_opening_tag_is_no_step_of_its_own():
    assert texts("<think>\n\nOkay, I start.\n\nNext.") == ["<think>\n\nOkay, I start.\n\n", "Next."]
    assert texts("<think>\nOkay, I start.") == ["<think>\nOkay, I start."]


@pytest.mark.parametrize("text", ["</think>", "</think>\n\nanswer", "<think>\n\n</think>\n\nanswer", "\n</think>"])
def test_no_think_steps_leave_the_answer_alone(text):
    assert by_character(text) == (Step(0, len(text), 0, len(text) + 1, True),)


@pytest.mark.parametrize("text", ["", "\n\n", "<think>\n", "a"])
def test_there_is_always_a_step(text):
    assert by_character(text) == (Step(0, len(text), 0, len(text) + 1, False),)


def test_a_straddling_token_belongs_to_the_earlier_step():
    # Tokens "one", ".\n\nT" and "wo", EOS: the second holds the first character of the second step but starts before.
    assert segment_steps("one.\n\nTwo", [0, 3, 7, 9], 4) == (Step(0, 6, 0, 2), Step(6, 9, 2, 4))


def test_a_think_step_without_a_token_of_its_own_joins_the_one_before():
    # One token ".\n\nb\n\n" swallows the paragraph "b".
    text = "a.\n\nb\n\nc"
    assert segment_steps(text, [0, 1, 7], 3) == (Step(0, 7, 0, 2), Step(7, 8, 2, 3))


def test_an_answer_without_a_token_of_its_own_stays():
    assert segment_steps("a.</think>", [0, 1], 2) == (Step(0, 2, 0, 2), Step(2, 10, 2, 2, True))


def test_every_token_has_to_have_a_start():
    with pytest.raises(ValueError, match="each of the 3 tokens, got 2"):
        segment_steps("ab", [0, 1], 3)
