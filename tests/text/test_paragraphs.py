import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.text.paragraphs import MAX_BLOCK_CHARS, block_spans, paragraph_spans

# Everything that the splitter looks at, in any order.
PIECES = st.lists(
    st.sampled_from(
        [
            "a",
            "b c",
            " ",
            "\n",
            "\n\n",
            "\r\n",
            "\t",
            "$$",
            "\\[",
            "\\]",
            "\\\\[2pt]",
            "```",
            "$",
            "<think>",
            "</think>",
        ]
    ),
    max_size=30,
).map("".join)


def parts(text, end=None):
    return [text[a:b] for a, b in paragraph_spans(text, end)]


@settings(deadline=None)
@given(text=PIECES | st.text())
def test_paragraphs_tile_the_text(text):
    assert "".join(parts(text)) == text
    assert all(parts(text))


@settings(deadline=None)
@given(text=PIECES, end=st.integers(0, 40))
def test_paragraphs_tile_the_text_up_to_an_end(text, end):
    end = min(end, len(text))
    assert "".join(parts(text, end)) == text[:end]


def test_blank_lines_belong_to_the_paragraph_before_them():
    assert parts("one\n\ntwo\nlines\n \t\n\n  three\n") == ["one\n\n", "two\nlines\n \t\n\n", "  three\n"]


def test_leading_and_trailing_blank_lines_make_no_paragraph():
    assert parts("\n\n \n\none\n\n\n") == ["\n\n \n\none\n\n\n"]
    assert parts("\n\n") == ["\n\n"]
    assert parts("") == []


def test_crlf_is_one_line_break():
    assert parts("one\r\ntwo\r\n\r\nthree") == ["one\r\ntwo\r\n\r\n", "three"]


@pytest.mark.parametrize("block", ["$$\nx\n\n= 2\n$$", "\\[\nx\n\n= 2\n\\]", "```python\nx = 2\n\nprint(x)\n```"])
def test_displays_and_code_are_not_split(block):
    assert parts(f"so\n\n{block}\n\nthen") == ["so\n\n", f"{block}\n\n", "then"]


def test_a_mark_without_partner_is_plain_text():
    assert parts("it costs $$5\n\nand \\[ more\n\nend") == ["it costs $$5\n\n", "and \\[ more\n\n", "end"]


def test_a_mark_whose_partner_is_far_away_is_plain_text():
    near, far = "x" * (MAX_BLOCK_CHARS - 6), "x" * (MAX_BLOCK_CHARS - 5)
    assert len(parts(f"$${near}\n\n$$")) == 1
    assert len(parts(f"$${far}\n\n$$")) == 2


def test_a_latex_line_break_with_an_option_opens_no_display():
    assert block_spans("a \\\\[2pt] b \\] c") == []
    assert block_spans("\\[ a \\\\[2pt] b \\]") == [(0, 17)]


def test_blocks_do_not_nest():
    text = "```\n$$\n```\n\n$$x$$"
    assert [text[a:b] for a, b in block_spans(text)] == ["```\n$$\n```", "$$x$$"]
