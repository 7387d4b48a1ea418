"""Multiple-choice answers: which letters and options are read, what golds may be, and that hedging never helps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo import FieldMap, MemoryProblems
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import AnswerForm
from lit_tpgrpo.verify.choice import MultipleChoiceVerifier
from lit_tpgrpo.verify.choice_text import LETTERS, read_answer, read_gold

C, I, U = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE  # noqa: E741

ONE_LETTER = (
    "B", "b", "(B)", "(b)", "[B]", "B.", "B)", "B:", "B) text", "B: text", "B. text", "(B) text", r"\text{(B)}", r"\text{B}",
    r"\mathrm{B}", r"\textbf{(B)}\ 42", r"\mathbf{(B)}~7", "$B$", r"\boxed{B}", "**B**", "Ｂ", "（Ｂ）", "𝐁", "Option B",
    "The answer is B", "answer: (b)", r"\text{B) }\frac{1}{2}", "B.\ntext",
)  # fmt: skip
NONE_OR_SEVERAL = (
    "A or B", "B or A", "A, B", "ABCD", "A B C D", "ABCDEFGHIJ", "(A)(B)", "B) or c", "B / C", "B (C)", "B, (c)", "B) C) D)",
    r"B\text{ or C}", r"B \text{ (not C)}", "B and C", "K", "", "  ", "b e", "Bat", "B=2", "B_1", "2", "i.e. B", "B; d",
    "[A,B]", r"\{A, B\}", "B and option c", "Α", "В", "B) A force",
)  # fmt: skip
OPTIONS = ["I only", "A force of 5 N", "A and B", r"$\frac{v}{2}$", "V", "v"]


def gold(answer: str | int = "B", options: object = OPTIONS) -> str:
    return json.dumps({"answer": answer, "options": options})


@pytest.mark.parametrize("answer", ONE_LETTER)
def test_one_letter_in_any_dress_is_that_choice(answer: str):
    assert MultipleChoiceVerifier().verify_all([("B", answer), ("C", answer)]) == [C, I]


@pytest.mark.parametrize("answer", NONE_OR_SEVERAL)
def test_none_or_several_letters_are_wrong_whatever_the_gold(answer: str):
    assert MultipleChoiceVerifier().verify_all([(letter, answer) for letter in LETTERS]) == [I] * len(LETTERS)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A force of 5 N", "B"),
        (r"\text{a force of 5 N}", "B"),
        ("B) A force of 5 N", "B"),
        ("B) some force", "B"),
        ("A and B", "C"),
        ("C) A and B", "C"),
        (r"\dfrac{v}{2}", "D"),
        ("V", "E"),  # as written, before upper and lower case are the same
        ("v", "F"),
        ("I only.", "A"),
        ("B) A and B", None),  # the letter of one option, the text of another
        ("A force of 5 N or A and B", None),
        ("A force of 5 N, I only", None),
        ("force", None),
        ("G", "G"),  # no option, so no gold's
    ],
)
def test_options_are_named_by_their_text(answer: str, letter: str | None):
    assert read_answer(answer, read_gold(gold()).options) == letter
    outcomes = MultipleChoiceVerifier().verify_all([(gold(right), answer) for right in "ABCDEF"])
    assert outcomes == [C if right == letter else I for right in "ABCDEF"]


def test_a_text_that_two_options_share_names_neither():
    assert read_answer("7 m", read_gold(gold("A", ["7 m", "7 m", "8 m"])).options) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("(c)", "C"),
        ("C) A or B, in this order", "C"),  # golds are trusted: the option may speak of others
        ("2", "C"),
        (gold("C"), "C"),
        (gold(2), "C"),
        (gold("a force of 5 N"), "B"),
        (gold("(C) A and B"), "C"),
        (gold("1", ["3", "2", "1"]), "C"),  # text: an option's; a number is an index
        (gold(1, ["3", "2", "1"]), "B"),
        (gold("2", {"text": ["x", "y"], "label": ["1", "2"]}), "B"),  # ARC
        (gold("B", {"A": "x", "B": "y"}), "B"),
    ],
)
def test_golds_are_letters_indices_or_texts(text: str, letter: str):
    assert read_gold(text).letter == letter


def test_indices_count_from_where_they_are_said_to():
    assert MultipleChoiceVerifier(first_index=1).verify_all([("1", "A"), ("1", "B")]) == [C, I]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("42 m", r"expected the gold of .* to be a letter from A to J, .* got '42 m'; use MathVerifier"),
        ("A, C", "got 'A, C'"),
        ("12", "expected the index of one of 10 choices, 0 for A, got 12"),
        (gold(6), "expected the index of one of 6 choices, 0 for A, got 6"),
        (gold("9 N"), "expected the answer to be one of the 6 options or its letter, got '9 N'"),
        (gold("G"), "one of the 6 options"),
        (gold("A", ["x"]), "expected 2 to 10 options as a list of texts"),
        (gold("A", "ABCD"), "expected 2 to 10 options"),
        ('{"answer": "A"}', "expected a gold such as"),
        ("{", "expected a gold such as"),
        (gold(True), "expected the answer as a letter"),  # pyright: ignore
    ],
)
def test_a_gold_that_names_no_choice_is_refused(text: str, message: str):
    with pytest.raises(InputError, match=message):
        read_gold(text)
    with pytest.raises(InputError, match=message):
        MultipleChoiceVerifier().verify_all([(text, "A")])


def test_one_bad_gold_among_good_ones_does_not_end_the_run(caplog: pytest.LogCaptureFixture):
    verifier = MultipleChoiceVerifier(max_answer_chars=20)
    pairs = [("A", "A"), ("42 m", "42 m"), ("A", "B"), ("A", None), ("A", "A" + " " * 20)]
    assert verifier.verify_all(pairs) == [C, U, I, I, U]
    assert "1 golds name no choice" in caplog.text
    counts = {"pairs": 5, "correct": 1, "incorrect": 2, "unverifiable": 2, "undecided": 0}
    assert verifier.metrics() == counts | {"too_long": 1, "unreadable_gold": 1}
    assert verifier.metrics()["pairs"] == 0


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (r"So it is $\boxed{\text{(B)}}$.", C),
        (r"\boxed{A} is wrong, since ... so \boxed{B}", C),
        (r"\boxed{B} or \boxed{C}", I),
        (r"\boxed{A}, \boxed{B}, \boxed{C}, \boxed{D}", I),
        (r"\boxed{A or B}", I),
        (r"\boxed{B", I),
        ("It is B.", I),
    ],
)
def test_the_last_box_is_the_answer(block: str, expected: Outcome):
    verifier = MultipleChoiceVerifier()
    assert verifier.verify_all([("B", verifier.extract(block))]) == [expected]


def test_the_answer_may_be_on_a_line():
    verifier = MultipleChoiceVerifier(answer_form=AnswerForm.ANSWER_LINE)
    assert verifier.verify_all([("B", verifier.extract("Reasons.\n**Answer: (B)**"))]) == [C]
    assert verifier.verify_all([("B", verifier.extract(r"\boxed{B}"))]) == [I]
    with pytest.raises(ConfigError, match="max_answer_chars must be positive"):
        MultipleChoiceVerifier(max_answer_chars=0)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ABCabc()[].,:;/ \\{}$or and\n") | st.characters(), max_size=30))
def test_no_answer_is_right_for_two_golds(answer: str):
    outcomes = MultipleChoiceVerifier().verify_all([(letter, answer) for letter in LETTERS])
    assert outcomes.count(C) <= 1
    listed = MultipleChoiceVerifier().verify_all([(gold(letter), answer) for letter in "ABCDEF"])
    assert listed.count(C) <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(LETTERS), min_size=2, max_size=4, unique=True),
    st.sampled_from([" or ", ", ", "/", " ", ""]),
)
def test_more_than_one_letter_is_never_right(letters: list[str], joined: str):
    for dress in ("{}", "({})", r"\text{{{}}}"):
        answer = joined.join(dress.format(letter) for letter in letters)
        assert MultipleChoiceVerifier().verify_all([(letter, answer) for letter in LETTERS]) == [I] * 10


MMLU = {"question": "How far?", "choices": ["40 m", "41 m", "42 m", "43 m"], "answer": 2}
GPQA = {"question": "How far?", "options": ["40 m", "41 m", "42 m", "43 m"], "answer": "42 m"}
ARC = {
    "question": "How far?",
    "choices": {"text": ["40 m", "41 m", "42 m", "43 m"], "label": list("1234")},
    "answerKey": "3",
}


@pytest.mark.parametrize("row", [MMLU, GPQA, ARC])
def test_options_reach_prompt_and_gold_from_any_data_set(row: dict):
    fields = FieldMap(answer=("answer", "answerKey"), options=("choices", "options"))
    (problem,) = MemoryProblems([row], columns=fields).load()
    assert problem.prompt == "How far?\n\nA) 40 m\nB) 41 m\nC) 42 m\nD) 43 m"
    assert json.loads(problem.answer) == {"answer": "C", "options": ["40 m", "41 m", "42 m", "43 m"]}
    outcomes = MultipleChoiceVerifier().verify_all([(problem.answer, a) for a in ("C", "42 m", "B", "41 m")])
    assert outcomes == [C, C, I, I]


def test_a_row_whose_answer_is_no_option_is_named():
    with pytest.raises(
        InputError, match=r"item 1: 'answer' and 'choices': expected the index of one of 4 choices.*got 4"
    ):
        MemoryProblems([MMLU | {"answer": 4}], columns=FieldMap(options="choices")).load()
