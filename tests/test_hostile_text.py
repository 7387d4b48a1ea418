"""Single texts that hung, broke or fooled a reader. That all readers are linear in whatever they get is in ``tests/linear``."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

import pytest

from lit_tpgrpo.chat.openai_endpoint import Endpoint
from lit_tpgrpo.chat.openai_wire import read_reply
from lit_tpgrpo.datamodules.arithmetic.problems import make_problems
from lit_tpgrpo.datamodules.arithmetic.truth import Unparsable, solution_truth
from lit_tpgrpo.datamodules.sources.base import RowFormat
from lit_tpgrpo.datamodules.sources.decontaminate import statement_key
from lit_tpgrpo.datamodules.sources.rows import to_problem
from lit_tpgrpo.judges.audit_sets import _grouped
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.generative.numbered_solution import neutralize_control_tokens, number_solution, prompt_text
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.generative.verdicts import SegmentationVerdict, StepVerdict, VerdictError, read_verdict
from lit_tpgrpo.records import Outcome, Problem, Solution, StopReason
from lit_tpgrpo.text.boxes import boxed_answer, find_boxes
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.verify.units import Quantity, split_unit
from lit_tpgrpo.verify.verifier import MathVerifier


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"id": "abcd", "wrong": true}\n```',
        ' \n```JSON  \r\n\n{"id": "abcd", "wrong": true}\n\n  ``` \n',
        '```\n{"id": "abcd", "wrong": true}\n```',
        '<think>x</think>```json\n{"id": "abcd",\n "wrong": true}\n```',
    ],
)
def test_fences_of_a_verdict(text: str):
    assert read_verdict(text, StepVerdict, "abcd").wrong is True


def test_a_fence_that_never_closes_is_refused():
    for text in ("```json" + "\n" * 190_000, "```json\n" + "\n```" * 40_000 + "x", "`" * 200_000):
        with pytest.raises(VerdictError):
            read_verdict(text, SegmentationVerdict, "abcd")


@pytest.mark.parametrize(
    "mark",
    [
        "</think>", "<s>", "<<SYS>>", "<|im_end|>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "[INST]",
        "[/INST]", "[SYSTEM_PROMPT]", "[|endofturn|]", "[|assistant|]", "[THINK]", "[/THINK]", "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]", "[ARGS]", "[MODEL_SETTINGS]", "[UNUSED_TOKEN_145]", "[gMASK]", "[SEP]",
        "[unused12]", "[e~[", "]~!b[", "]~b]", "]!p~[", "]<]image[>[", "<|turn>", "<turn|>", "<start_of_turn>",
        "<seed:think>", "<minimax:tool_call>", "<extra_id_0>", "<reserved_106>", "<unused99>", ">>QUESTION<<",
        "<|START_OF_TURN_TOKEN|>", "<|reserved_special_token_0|>",
        "[EOT]", "[PAD]", "[start_header_id]", "[end_header_id]", "[control_8]",
    ],
)  # fmt: skip
def test_control_marks_of_all_families_are_neutralized(mark: str):
    """Of Llama, Qwen, DeepSeek, Mistral, EXAONE, InternLM, GLM, MiniMax, Gemma, Seed, T5, Baichuan, Falcon, Cohere, Kimi."""
    assert mark not in neutralize_control_tokens(f"a {mark} b")


@pytest.mark.parametrize(
    "text", ["[ABC] = 3[PQR]", "[0, 1]", "x < y and y > z", "a<3|b|", "|x|<|y|", "[x] + [y]~z", "M[1][2]", "f: A -> B"]
)
def test_formulas_are_shown_as_they_are(text: str):
    assert neutralize_control_tokens(text) == text


def one_letter_paragraphs(count: int) -> JudgeCase:
    text = "\n\n".join(["a"] * count) + "\n</think>\n\n\\boxed{1}"
    starts = tuple(range(len(text)))
    solution = Solution("p", 0, (1,), starts, (0.0,) * len(starts), StopReason.EOS, 0, text, starts)
    return JudgeCase(Problem("p", "?", "1"), solution, Outcome.CORRECT, segment_steps(text, starts, len(starts)))


def test_a_prompt_of_one_letter_paragraphs_stays_within_its_limit():
    """16,000 of them took 251,115 characters where 100,000 were allowed: their numbers were not counted."""
    case, prompts = one_letter_paragraphs(16_000), PromptSet()
    numbered = number_solution(case)
    assert numbered is not None
    reader = PromptWindow(numbered, prompts, numbered.max_chars)
    names = numbered.step_starts(case.steps)
    parts = reader.parts(names)
    assert [i for i, _ in parts] == [0, *(j for _, j in parts[:-1])]
    assert parts[-1][1] == len(names) == 16_000
    for i, j in (parts[0], parts[-1]):
        assert len(reader.shared(names[i], reader.end(names, j - 1))) < 1.2 * numbered.max_chars + 2000


@pytest.mark.parametrize(
    ("sizes", "limit"), [((3, 5, 4, 9, 2, 2), 10), ((1,) * 40, 100), ((30,), 10), ((5, 60, 5), 70)]
)
def test_what_fits_is_what_a_loop_finds(sizes: Sequence[int], limit: int):
    text = "\n\n".join("a" * size for size in sizes) + "\n</think>\n\n\\boxed{1}"
    starts = tuple(range(len(text)))
    solution = Solution("p", 0, (1,), starts, (0.0,) * len(starts), StopReason.EOS, 0, text, starts)
    numbered = number_solution(
        JudgeCase(Problem("p", "?", "1"), solution, Outcome.CORRECT, segment_steps(text, starts, len(starts)))
    )
    assert numbered is not None
    assert [len(t) for t in numbered.texts] == list(sizes)

    def fits(first: int, last: int) -> bool:
        shown_numbers = sum(len(f"[{n}] \n") for n in range(first, last + 1))
        return sum(sizes[first - 1 : last]) <= limit and shown_numbers <= limit // 5

    for place in range(1, len(sizes) + 1):
        assert numbered.last_fitting(place, limit) == max(
            n for n in range(place, len(sizes) + 1) if n == place or fits(place, n)
        )
        assert numbered.first_fitting(place, limit) == min(
            n for n in range(1, place + 1) if n == place or fits(n, place)
        )


def test_indentation_counts_in_what_is_shown():
    assert len(prompt_text("a\n" * 5000, 1000)) < 1100


def test_nested_boxes_are_not_copied_one_into_another():
    """Their contents together would be 1.3 GB."""
    text = "\\boxed{" * 20_000 + "1" + "}" * 20_000
    boxes = find_boxes(text)
    assert (len(boxes), boxes[-1].content, boxes[-2].content) == (20_000, "1", "\\boxed{1}")
    assert boxed_answer(text) == "1"


@pytest.mark.parametrize("link", ["", ", ", " = "])
def test_long_rows_of_boxes(link: str):
    answer = boxed_answer(link.join(f"\\boxed{{{n}}}" for n in range(1, 20_001)))
    assert answer == ("20000" if not link else link.join(map(str, range(1, 20_001))))


def test_units_in_front_of_units_end():
    assert split_unit(r"\$" * 5000 + "5").unit == {"dollar"}
    assert split_unit(r"\$5") == Quantity("5", frozenset({"dollar"}))
    assert split_unit(r"5\text{ cm}\text{ m}") == Quantity("5", frozenset({"cm", "m"}))


@pytest.mark.parametrize("answer", [r"\$" * 999 + "5", "(" * 900 + "5" + ")" * 900, "(x=" * 300 + "5" + ")" * 300])
def test_an_answer_nested_without_end_is_no_error_of_the_verifier(answer: str):
    verifier = MathVerifier(workers=1, max_answer_chars=4000)
    try:
        (outcome,) = verifier.verify_all([("5", answer)])
    finally:
        verifier.close()
    assert outcome in (Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE)


def test_statements_with_marks_without_end():
    """Sorting n combining marks takes n² steps; those beyond 30 on one letter are left out."""
    marks = "\u0301\u0327" * 100_000
    assert statement_key(f"Find a{marks}.") == statement_key("Find a" + "\u0301\u0327" * 15 + ".")
    assert statement_key("Cafe\u0301?") == unicodedata.normalize("NFKC", "café")


def test_repeated_rows_are_numbered_in_a_row():
    taken: dict[str, Problem] = {}
    for _ in range(3000):
        problem = to_problem({"prompt": "1 + 1 = ?", "answer": "2", "id": "a"}, RowFormat(), "s", taken)
        taken[problem.uid] = problem
    assert list(taken) == ["s/a", *(f"s/a-{n}" for n in range(2, 3001))]


@pytest.mark.parametrize("tokens", [10**400, -1, True, 1.5, "7", None, 2**31])
def test_token_counts_that_cannot_be_are_none(tokens: object):
    body = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": tokens, "completion_tokens": 7}}
    endpoint = Endpoint("http://127.0.0.1", "m", "KEY", True)
    reply = read_reply(json.dumps(body).encode(), endpoint, thinks=False, constrained=False)
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 7)


def test_numbers_of_any_length_in_solutions():
    """Python refuses to read 5,000 digits with a ValueError."""
    (problem,) = make_problems("2", 1, 0, "train")
    for text in (f"{'1' * 5000}+1=2</think>\n\nSo {'1' * 5000}", f"Step\n\n{'9' * 5000}</think>{'9' * 5000}"):
        assert isinstance(solution_truth(problem, text), Unparsable)
    assert _grouped([f"Step {'1' * 5000}: x", "Step 2: y"]) == ([f"Step {'1' * 5000}: x", "Step 2: y"], [None, 2])


def test_lines_of_one_step_are_joined_once():
    steps, labels = _grouped(["Step 1: a", *["b"] * 50_000])
    assert (len(steps), len(steps[0]), labels) == (1, 9 + 2 * 50_000, [1])
