"""Registry of all readers of untrusted text: a policy's completions, a judge's replies, data sets, configs.

The tests of linear time (``tests/linear``) and the fuzz test use this registry. A reader takes one text, builds its input from
it (two texts, a solution, a row), and may refuse it with the errors that its caller handles.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_tpgrpo import yaml_files
from lit_tpgrpo.chat import openai_wire
from lit_tpgrpo.chat.base import ChatError
from lit_tpgrpo.chat.openai_endpoint import Endpoint
from lit_tpgrpo.datamodules.arithmetic import measure, truth
from lit_tpgrpo.datamodules.arithmetic.problems import Task, make_problems
from lit_tpgrpo.datamodules.sources import decontaminate, formats, rows
from lit_tpgrpo.datamodules.sources.base import RowFormat
from lit_tpgrpo.datamodules.sources.files import FileProblems
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges import adoption, audit_sets
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.generative import numbered_solution, prompt_window, verdicts
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.metrics import scores
from lit_tpgrpo.records import Outcome, Problem, Solution, StopReason
from lit_tpgrpo.text import (
    answers,
    boxes,
    characters,
    equations,
    flattening,
    notation,
    numerals,
    paragraphs,
    reflections,
    step_text,
    steps,
)
from lit_tpgrpo.text.answers import AnswerForm
from lit_tpgrpo.text.formats import Harmony, PlainChain, ThinkTags
from lit_tpgrpo.verify import atoms, choice_text, compare, mutations, sides, structure, units
from lit_tpgrpo.verify.code import blocks
from lit_tpgrpo.verify.code import verifier as code_verifier
from lit_tpgrpo.verify.match import Match

PROMPTS = PromptSet()
SEVERAL_TAGS = ThinkTags("<a>", "</think>", ("</a>", "<think>"), "<", ">")
(PROBLEM,) = make_problems("2", 1, 0, "train")
TASK = Task.from_prompt(PROBLEM.prompt)
ENDPOINT = Endpoint("http://127.0.0.1/v1", "judge", "KEY", True)


PIECES = (
    "\n", " ", "\t", "\r\n", "1", "a", "A", "1+", "1 ", "1,", "1.", "1/", "= ", "=1", "x=", "(x=", "-", "'", ".", ",", "|", "?",
    "\\", "\\ ", "\\\\", "\\$", "$", "$$", "{", "}", "{}", "(", "((a)", "[", "[]", "^2", "^{", "_a", "_{", "**", "#### ",
    r"\boxed{", r"\boxed{1}", r"\boxed{1},", r"\boxed{1}=", r"\boxed 1,", r"\boxed\frac{", r"\frac{1}", r"\sqrt[", r"\quad",
    r"\text{a}", r"\begin{array}", "</think>", "<think>", "<|a", "[asy]", "```json\n", "```\n", '{"id":"abcd"', '"abcd"',
    "A:\n", "Answer:\n", "√2", "√(", "²", "é", "\u0301\u0327", "a\n\n", "1+1=2.\n\n", "Wait, 1+1=3 is wrong. ", "so ",
    "is 5 ", "not 1 ",
    "that is wrong, ", "error ", "Step 1: ", "step 1 ", "choice_", "a, ", "\u3000", "&", "- - ", "* ", "0", "<a>", "∞",
)  # fmt: skip
"""Hand-picked pieces of text: blanks, digits, signs, brackets, TeX, tags, marker words."""


@dataclass(frozen=True)
class TextReader:
    """A reader and the errors that its callers handle."""

    read: Callable[[str], Any]
    refusals: tuple[type[Exception], ...] = ()

    def __call__(self, text: str) -> Any:
        try:
            return self.read(text)
        except self.refusals:
            return None


def halves(text: str) -> tuple[str, str]:
    """Split a text into two halves."""
    return text[: len(text) // 2], text[len(text) // 2 :]


def undecided(gold: str, answer: str) -> Match:
    """Replace math-verify, which runs in a separate process with a time limit."""
    return Match.UNREADABLE


def make_case(text: str, outcome: Outcome = Outcome.CORRECT, prompt: str = "What is $1+1$?") -> JudgeCase:
    """Build a judge's case from a text, with one token per character."""
    starts = tuple(range(len(text)))
    solution = Solution("p", 0, (1,), starts, (0.0,) * len(starts), StopReason.EOS, 0, text, starts)
    return JudgeCase(
        Problem("p", prompt, "2", "arithmetic"), solution, outcome, steps.segment_steps(text, starts, len(starts))
    )


def judged(text: str, outcome: Outcome) -> object:
    """Return the rule judge's verdict."""
    solution = text if "</think>" in text else f"{text}</think>\n\n\\boxed{{2}}"
    return list(RuleJudge(max_work=100_000).judge([make_case(solution, outcome)]))


def adopted(text: str) -> object:
    """Return the steps that an answer adopts, with parts of the text as steps, answer and problem."""
    think, rest = halves(text)
    answer, prompt = halves(rest)
    return adoption.adopted_steps([step_text.StepText(think)], answer, prompt)


def windows_of(text: str) -> object:
    """Build a judge's prompt windows of a long solution."""
    case = make_case(f"{text}\n</think>\n\n{text}")
    numbered = numbered_solution.number_solution(case, max_chars=1000)
    if numbered is None:
        return None
    view = prompt_window.PromptWindow(numbered, PROMPTS, 500)
    windows, starts = view.windows(60, 6), numbered.step_starts(case.steps)
    indices = list(range(len(starts)))[:200]
    shared = [PROMPTS.shared(numbered, *window) for window in windows[:2]]
    return shared, view.chunks(starts, indices, 8), view.parts(starts), [view.quoted(starts, i) for i in indices[:3]]


def verdict(text: str) -> object:
    """Parse a reply as each type of verdict."""
    parsed = []
    for verdict_type in verdicts.VerdictModel.__subclasses__():
        try:
            parsed.append(verdicts.read_verdict(text, verdict_type, "abcd"))
        except verdicts.VerdictError:
            continue
    return parsed


def copies(text: str) -> object:
    """Run the decontamination by statement and by n-grams."""
    training, evaluation = (Problem(f"p{i}", part, "1", "s") for i, part in enumerate(halves(text)))
    return list(decontaminate.find_copies([training], [evaluation], ngram=3))


def row(text: str) -> object:
    """Convert a row of a data set to a problem."""
    return rows.to_problem({"prompt": text or "?", "answer": text or "?", "level": text}, RowFormat(), "source", {})


def mrben(text: str) -> object:
    """Read a solution of MR-Ben with the lines of the text."""
    return audit_sets._mrben_record(
        {
            "Model_Solution_Steps": text.splitlines() or [text],
            "Model_Solution_Correctness": "incorrect",
            "Ground_Truth_Answer": "A",
            "Model_Solution_First_Error_Step": "1",
            **dict.fromkeys(("Question_UUID", "Sampled_Model", "Question", "Options"), "?"),
        }
    )


def prmbench(text: str) -> object:
    """Read a solution of PRMBench with the halves of the text as answer and last step."""
    gold, step = halves(text)
    return audit_sets._prmbench_record(
        {"modified_process": [step], "ground_truth": gold, "error_steps": [1], "question": "?", "idx": "0"}
    )


def reply(text: str) -> object:
    """Read an endpoint's response body: the text itself, and a completion that contains it."""
    body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 10**400}}
    for data in (text.encode(errors="replace"), json.dumps(body).encode()):
        for thinks in (False, True):
            try:
                openai_wire.read_reply(data, ENDPOINT, thinks=thinks, constrained=True)
            except ChatError:
                continue
    return None


def file_of(suffix: str) -> Callable[[str], object]:
    """Return a reader of problem files with the text as content."""

    def read(text: str) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"problems{suffix}")
            path.write_bytes(text.encode(errors="surrogatepass"))
            return FileProblems(path, on_malformed="skip").load()

    return read


def config(text: str) -> object:
    """Read a YAML file of settings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_bytes(text.encode(errors="replace"))
        return yaml_files.read_yaml(path)


def changed(text: str) -> object:
    """Derive wrong answers from a gold."""
    return [change(text, random.Random(0)) for change in mutations.MUTATIONS.values() if text]


UNREADABLE = (notation.Unreadable,)
TEXT: Mapping[str, TextReader] = {
    **{f"answer, {form.value}": TextReader(lambda t, f=form: answers.extract_answer(t, f)) for form in AnswerForm},
    **{
        f"gold, {form.value}": TextReader(lambda t, f=form: answers.normalise_gold(f, t), (InputError,))
        for form in AnswerForm
    },
    "division, think tags": TextReader(ThinkTags().divide),
    "division, several tags": TextReader(SEVERAL_TAGS.divide),
    "division, plain chain": TextReader(PlainChain().divide),
    "division, code": TextReader(PlainChain(("code", "stated", "last")).divide),
    "division, harmony": TextReader(Harmony().divide),
    "boxed answer": TextReader(answers.extract_boxed),
    "balanced": TextReader(answers.balanced),
    "boxes": TextReader(lambda t: [box.content for box in boxes.find_boxes(t)[-3:]]),
    "edges": TextReader(boxes.strip_outer_space),
    "characters": TextReader(characters.plain_characters),
    "notation": TextReader(notation.canonical, UNREADABLE),
    "layout": TextReader(notation.layout_key),
    "numeral": TextReader(lambda t: (numerals.read_numeral(t), numerals.read_based(t))),
    "paragraphs": TextReader(paragraphs.paragraph_spans),
    "steps": TextReader(lambda t: steps.segment_steps(t, tuple(range(len(t))), len(t))),
    "flattened": TextReader(flattening.flatten),
    "normalised": TextReader(equations.normalise),
    "squeezed": TextReader(step_text.squeeze),
    "equations": TextReader(lambda t: equations.extract_equations(flattening.flatten(t))),
    "atoms": TextReader(lambda t: (equations.atoms(t), equations.is_number(t), equations.literal_value(t))),
    "step": TextReader(reflections.read_step),
    "vote": TextReader(scores.vote_key),
}
VERIFY: Mapping[str, TextReader] = {
    "unit": TextReader(units.split_unit),
    "shape": TextReader(lambda t: structure.read_shape.__wrapped__(structure.without_introduction(t)), UNREADABLE),
    "choice": TextReader(
        lambda t: (atoms.read_choice(t), atoms.read_letters(t), atoms.read_words(t), atoms.read_set_name(t))
    ),
    "clock": TextReader(lambda t: (atoms.read_clock(t), atoms.read_ratio(t))),
    "choice of an answer": TextReader(lambda t: choice_text.read_answer(t, {"A": halves(t)[0], "B": halves(t)[1]})),
    "choice of a gold": TextReader(choice_text.read_gold.__wrapped__, (InputError,)),
    "program": TextReader(blocks.last_program),
    "output of a program": TextReader(lambda t: code_verifier.same_output(*halves(t))),
    "name": TextReader(lambda t: (sides.is_name(t), sides.is_constant(t), sides.is_negated(t), sides.is_unsolved(t))),
    "comparison": TextReader(lambda t: compare.compare(*halves(t[: 2 * 1000]), undecided)),
    "comparison with itself": TextReader(lambda t: compare.compare(t[:1000], f"{t[:999]} ", undecided)),
    "mutations": TextReader(lambda t: changed(t[:200])),
}
JUDGES: Mapping[str, TextReader] = {
    "rule judge, right answer": TextReader(lambda t: judged(t, Outcome.CORRECT)),
    "rule judge, wrong answer": TextReader(lambda t: judged(t, Outcome.INCORRECT)),
    "adoption": TextReader(adopted),
    "neutralize_control_tokens": TextReader(numbered_solution.neutralize_control_tokens),
    "numbered solution": TextReader(windows_of),
    "verdict": TextReader(verdict),
    "reply": TextReader(reply),
    "MR-Ben": TextReader(mrben, (InputError,)),
    "PRMBench": TextReader(prmbench, (InputError,)),
}
DATA: Mapping[str, TextReader] = {
    "statement": TextReader(decontaminate.statement_key),
    "copies": TextReader(copies),
    "row": TextReader(row, (rows.RowFault,)),
    "line": TextReader(lambda t: formats._decoded(t.encode(errors="surrogatepass"))),
    "truth": TextReader(lambda t: truth.solution_truth(PROBLEM, t)),
    "states right": TextReader(lambda t: truth.states_right(TASK, t.splitlines(keepends=True))),
    "box of the domain": TextReader(lambda t: measure.is_correct(PROBLEM, t)),
}
FILES: Mapping[str, TextReader] = {
    **{suffix: TextReader(file_of(suffix), (InputError,)) for suffix in (".jsonl", ".json", ".csv", ".tsv")},
    ".yaml": TextReader(config, (yaml.YAMLError, UnicodeDecodeError)),
}
READERS: Mapping[str, TextReader] = {**TEXT, **VERIFY, **JUDGES, **DATA, **FILES}
