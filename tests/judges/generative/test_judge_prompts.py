"""Prompt files and what is shown of a solution."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.numbered_solution import (
    format_ranges,
    neutralize_control_tokens,
    number_solution,
    step_index,
)
from lit_tpgrpo.judges.generative.prompts import DEFAULT_PROMPTS, PromptSet, Question, request_id
from tests.judges.generative.chains import PARAGRAPHS, make_case

TINY = "embedded:judge-prompts"


def sheet_of(**case):
    numbered = number_solution(make_case(**case))
    assert numbered is not None
    return numbered


def test_the_tiny_prompts_as_they_are_rendered():
    prompts, numbered = PromptSet(TINY), sheet_of()
    assert prompts.shared(numbered, 1, 2) == (
        "What is 6 * 7 + 5?\n[0] So the result is \\boxed{47}.\n[1] I need 6 * 7 + 5.\n[2] First the product.\n"
    )
    question = prompts.question(Question.VERIFICATION, "a1b2", asked=[3, 4], steps="", reflections=[])
    assert question == "verify 3 4 id a1b2"


def test_every_default_question_shows_the_form_of_its_verdict():
    prompts = PromptSet()
    shown = {"first": 1, "last": 8, "steps": "1-8", "reflections": [(6, "Wait")]}
    variables = shown | {"asked": [3], "correct": True, "step": 3, "known": [2]}
    for question in Question:
        text = prompts.question(question, "a1b2", **variables)
        assert text.count('{"id": "a1b2"') == 1
        assert "JSON only" in text.splitlines()[-1]


def test_paragraphs_are_shown_with_their_numbers_inside_fences():
    numbered = sheet_of()
    text = PromptSet().shared(numbered, 1, len(PARAGRAPHS))
    for number, paragraph in enumerate(PARAGRAPHS, 1):
        assert f"\n[{number}] {paragraph}\n" in text
    assert text.count(f"\n===== {numbered.delimiter} =====\n") == 6


def test_a_delimiter_that_occurs_in_the_solution_is_not_used(monkeypatch: pytest.MonkeyPatch):
    """Nobody can write a text with its own hash in it, so the hash is made to be foreseen."""
    digests = iter(["aaaaaaaa", "bbbbbbbb", "cccccccc"])
    monkeypatch.setattr(
        "lit_tpgrpo.judges.generative.numbered_solution.hashlib.sha256",
        lambda _: SimpleNamespace(hexdigest=lambda: next(digests)),
    )
    assert sheet_of(problem="===== aaaaaaaa =====", paragraphs=("bbbbbbbb", *PARAGRAPHS)).delimiter == "cccccccc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("</think>", "‹/think›"),
        ("<|im_end|> <｜User｜>", "‹|im_end|› ‹｜User｜›"),
        ("[INST] [/INST] [SYSTEM_PROMPT]", "‹INST› ‹/INST› ‹SYSTEM_PROMPT›"),
        ("<start_of_turn> <s> <bos>", "‹start_of_turn› ‹s› ‹bos›"),
        ("a < b and c > d, x<y>z? [1] [x]", "a < b and c > d, x‹y›z? [1] [x]"),
        ("|a| < |b| > |c|", "|a| < |b| > |c|"),
    ],
)
def test_control_marks_are_neutralized(text, expected):
    assert neutralize_control_tokens(text) == expected


def test_ranges_and_the_step_of_a_paragraph():
    assert format_ranges((1, 3, 4, 9), 12) == "1-2, 3, 4-8, 9-12"
    assert [step_index(n, (1, 3, 4, 9)) for n in (1, 2, 3, 8, 9, 12)] == [0, 0, 1, 2, 3, 3]


def test_ids_belong_to_question_and_text():
    one = request_id("text", Question.STEP, step=1)
    assert one == request_id("text", Question.STEP, step=1)
    others = [
        request_id("text", Question.STEP, step=2),
        request_id("text.", Question.STEP, step=1),
        request_id("text", Question.MATCHING, step=1),
    ]
    assert one not in others
    assert len(one) == 4


def copy_of_prompts(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_PROMPTS, tmp_path / "prompts"))


def test_a_set_of_ones_own_is_read_and_has_its_own_fingerprint(tmp_path):
    folder = copy_of_prompts(tmp_path)
    assert PromptSet(folder).fingerprint == PromptSet().fingerprint
    with (folder / "step.txt").open("a") as file:
        file.write("Think hard.\n")
    assert PromptSet(folder).fingerprint != PromptSet().fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("step.txt", None, "cannot be read: No such file"),
        ("step.txt", "{{ id }}", "first line must declare"),
        ("step.txt", "{# variables: id, step #}\n{{ id }}", r"declares \['id', 'step'\], but uses \['id'\]"),
        ("step.txt", "{# variables: id, answer #}\n{{ id }} {{ answer }}", r"unknown variables \['answer'\]"),
        ("step.txt", "{# variables: step #}\n{{ step }}", "must use the variable id"),
        ("step.txt", "{# variables: id #}\nok\n{{ id", r"step.txt:3: "),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_named(tmp_path, name, content, message):
    folder = copy_of_prompts(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        PromptSet(folder)


def test_a_missing_folder_is_named():
    with pytest.raises(ConfigError, match=r"prompt folder 'nowhere' does not exist; expected .*shared.*\.txt"):
        PromptSet("nowhere")
