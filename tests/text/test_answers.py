"""Answer extraction: literals for every form, and fuzz for what must hold of any text."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.answers import (
    AnswerForm,
    balanced,
    extract_answer,
    extract_boxed,
    normalise_gold,
)
from lit_tpgrpo.text.formats import ThinkTags
from tests.real_data import RealData


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"<think>hm</think>The answer is \boxed{5}.", "5"),
        (r"<think>\boxed{4}</think>So \boxed{5}", "5"),
        (r"\boxed{3}. Wait no, \boxed{4}</think>\boxed{3}. Wait no, \boxed{4}", "4"),
        (r"</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"</think>\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"</think>\boxed{\{1, 2}", r"\{1, 2"),
        (r"</think>\boxed{a \\}", r"a \\"),
        (r"</think>\boxed{\boxed{5}}", "5"),
        (r"</think>\boxed{1 + \boxed{5}}", "5"),
        (r"</think>\boxed {5}", "5"),
        (r"</think>\fbox{5}", "5"),
        (r"</think>$\boxed 5$", "5"),
        (r"</think>\boxed -2.5.", "-2.5"),
        (r"</think>\boxed{5}, and \boxed is how I marked it", "5"),
        (r"</think>\boxed{5} \boxedtext{6}", "5"),
        ("</think>\\boxed{\n5\n}", "5"),
        (r"</think>\boxed{5\ \ }", "5"),
        (r"</think>\boxed{}", ""),
        (r"</think>\boxed{4} or \boxed{", None),
        (r"</think>\boxed{5", None),
        (r"</think>\boxed{5\}", None),
        (r"</think>The answer is 5.", None),
        (r"<think>The answer is \boxed{5}", None),
        (r"\boxed{5}", None),
        (r"</think>\boxed{5}</think>", "5"),
        ("</think>\\boxed{5}\n</think>\n</think>\n", "5"),
        (r"<think>\boxed{5}</think>", None),
        (r"</think>\boxed{5}</think>So it is.", None),
        (r"</think>$x=\boxed{2}$ or $x=\boxed{3}$", "2, 3"),
        ("", None),
    ],
)
def test_boxed(text: str, expected: str | None):
    block = ThinkTags().divide(text).answer_text(text)
    assert (None if block is None else extract_boxed(block)) == expected


def test_extraction_knows_nothing_of_tags():
    assert extract_boxed(r"so \boxed{5}") == "5"
    assert extract_boxed(r"\boxed{4}</think>") == "4"


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (AnswerForm.GSM8K_LINE, "2 + 3 = 5\nA: 5", "5"),
        (AnswerForm.GSM8K_LINE, "A: 4\nno\nA: 1,450,000", "1450000"),
        (AnswerForm.GSM8K_LINE, "A: -28,800.50", "-28800.50"),
        (AnswerForm.GSM8K_LINE, "A: 1,2", "1,2"),
        (AnswerForm.GSM8K_LINE, "A: 10+John's age", "10+John's age"),
        (AnswerForm.GSM8K_LINE, "at Job A: 25400", None),
        (AnswerForm.GSM8K_HASH, "5 eggs\n#### 5", "5"),
        (AnswerForm.GSM8K_HASH, "A: 5", None),
        (AnswerForm.PLAIN, " x + 1 ", "x + 1"),
        (AnswerForm.ANSWER_LINE, "Answer: 4\nno\nAnswer: 5", "5"),
        (AnswerForm.ANSWER_LINE, "**Final Answer:** $x+1$", "$x+1$"),
        (AnswerForm.ANSWER_LINE, r"answer: \boxed{5}", "5"),
        (AnswerForm.ANSWER_LINE, "The answer: 5", None),
        (AnswerForm.BOX, r"so \boxed{5}", "5"),
    ],
)
def test_forms(form: AnswerForm, text: str, expected: str | None):
    assert extract_answer(text, form) == expected


@pytest.mark.parametrize(
    ("form", "raw", "expected"),
    [
        (AnswerForm.PLAIN, r" \frac{1}{2} ", r"\frac{1}{2}"),
        (AnswerForm.PLAIN, "$2n-2$", "2n-2"),
        (AnswerForm.PLAIN, "$69$,$84$", "$69$,$84$"),
        (AnswerForm.PLAIN, r"\$5", r"\$5"),
        (AnswerForm.PLAIN, "$", "$"),
        (AnswerForm.PLAIN, 204, "204"),
        (AnswerForm.PLAIN, 27.0, "27"),
        (AnswerForm.PLAIN, 0.5, "0.5"),
        (AnswerForm.PLAIN, 1e-7, "0.0000001"),
        (AnswerForm.PLAIN, 1.5e-9, "0.0000000015"),
        (AnswerForm.PLAIN, 1e22, "10000000000000000000000"),
        # a worked solution in a field that was said to hold bare answers
        (AnswerForm.PLAIN, "two and two\n#### 2,125", "2125"),
        (AnswerForm.PLAIN, r"We get $\boxed{\frac{1}{2}}.$", r"\frac{1}{2}"),
        (AnswerForm.BOX, r"The solutions are $\boxed{-1}$ and $\boxed{2}$.", "-1, 2"),
        (AnswerForm.PLAIN, ["$1$", "2"], "1, 2"),
        (AnswerForm.GSM8K_HASH, "two\n#### 2,125", "2125"),
        (AnswerForm.BOX, r"We get $\boxed{\frac{1}{2}}.$", r"\frac{1}{2}"),
    ],
)
def test_golds(form: AnswerForm, raw: object, expected: str):
    assert normalise_gold(form, raw) == expected


@pytest.mark.parametrize(
    ("form", "raw", "message"),
    [
        (AnswerForm.BOX, "no box", "form 'box'"),
        (AnswerForm.BOX, r"\boxed{}", "form 'box'"),
        (AnswerForm.GSM8K_HASH, r"\boxed{5}", "form 'gsm8k_hash'"),
        (AnswerForm.PLAIN, "  ", "form 'plain'"),
        (AnswerForm.PLAIN, None, "got None"),
        (AnswerForm.PLAIN, True, "got True"),
        (AnswerForm.PLAIN, float("nan"), "got nan"),
        (AnswerForm.PLAIN, [], r"got \[\]"),
    ],
)
def test_unusable_golds_are_named(form: AnswerForm, raw: object, message: str):
    with pytest.raises(InputError, match=message):
        normalise_gold(form, raw)


@pytest.mark.parametrize("frames", [0, 50_000])
@pytest.mark.parametrize(
    ("form", "expected"), [(AnswerForm.PLAIN, "1"), (AnswerForm.VERBATIM, "[" * 100 + "1" + "]" * 100)]
)
def test_nesting_is_limited_by_a_number_of_ours(form: AnswerForm, expected: str, frames: int):
    """torch's compiler raises Python's limit for the rest of the process: 500 lists became a gold of [], without a word."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + frames)
    try:
        assert normalise_gold(form, json.loads("[" * 100 + "1" + "]" * 100)) == expected
        for text in (
            "[" * 101 + "1" + "]" * 101,
            "[" * 101 + "]" * 101,
            "[" * 500 + "]" * 500,
            '{"a":' * 101 + "1" + "}" * 101,
        ):
            with pytest.raises(InputError, match="expected lists and objects of at most 100 levels"):
                normalise_gold(form, json.loads(text))
    finally:
        sys.setrecursionlimit(limit)


PIECES = st.sampled_from(
    [r"\boxed", r"\fbox", "{", "}", "\\", r"\{", r"\}", " ", "5", "-2.5", "x", "$", "\n", "</think>", r"\frac"]
)


@given(st.lists(PIECES, max_size=30).map("".join) | st.text())
def test_what_is_extracted_is_a_balanced_part_of_the_text(text: str):
    answer = extract_boxed(text)
    if answer is not None:
        assert all(part in text for part in answer.split(", "))
        assert balanced(answer)


@given(
    st.lists(PIECES, max_size=20).map("".join),
    st.text(alphabet="ab{}\\ 1", max_size=20).filter(lambda inside: balanced(inside) and balanced(inside.strip())),
)
def test_a_box_put_last_is_what_is_extracted(before: str, inside: str):
    assert extract_boxed(f"{before}\\boxed{{{inside}}}") == inside.strip()


@given(st.text(alphabet="a{}\\", max_size=12))
def test_balanced_text_closes_a_group_where_it_ends(text: str):
    """By TeX's own reading: copy the group token by token."""
    group, depth, position = f"{{{text}}}", 0, 0
    while position < len(group):
        if group[position] == "\\":
            position += 1
        elif group[position] == "{":
            depth += 1
        elif group[position] == "}":
            depth -= 1
            if depth == 0:
                break
        position += 1
    assert balanced(text) == (position == len(group) - 1)


def test_gsm8k_golds_are_the_same_in_both_notations(real_data: RealData):
    def rows(name):
        return [json.loads(line) for line in (real_data.folder / name).read_text(encoding="utf-8").splitlines()]

    hashes = [normalise_gold(AnswerForm.GSM8K_HASH, row["answer"]) for row in rows("gsm8k_test.jsonl")]
    lines = [
        normalise_gold(AnswerForm.GSM8K_LINE, row["ground_truth"])
        for row in rows("gsm8k_example_model_solutions.jsonl")
    ]
    assert hashes == lines
    assert len(hashes) == {"sample": 13, "whole": 1319}[real_data.kind]
    assert all(gold.lstrip("-").isdecimal() for gold in hashes)
