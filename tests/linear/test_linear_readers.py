"""Every reader of foreign text does work in proportion to the text: four times the text, at most five times the work.

Work is counted, not timed (see ``work``): it is the same on every machine.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random

import pytest

import lit_tpgrpo
from benchmarks import readers
from benchmarks.readers import FILES, READERS, TextReader
from tests.linear.adversarial import UNITS
from tests.linear.work import TooMuchWork, counted_patterns, measured

SHORT, LONG = 600, 2400
SLACK = 2000
"""Windows of a fixed size are not yet full in the short text."""
UNITS_A_READER = 14
BOUNDED = {
    "numeral": "texts of more than 800 characters are none",
    "comparison": "golds and answers of at most 1,000 characters, in bounded time; a worker does what is longer",
    "comparison with itself": "the same",
    "mutations": "golds of a command of ours",
    "numbered solution": "asks the prompts' engine; that what fits is found in linear time is in test_hostile_text",
}
"""Readers of texts of bounded length: why they need not be linear."""
BY_HAND: dict[str, list[str | tuple[str, str]]] = {
    "box": ["\\boxed{", "\\boxed{1}=", "\\boxed{1},"],
    "statement": ["[asy]", " ", "\u0301\u0327", "{", "{}", "^{", "\\sqrt", "\\frac{1}", "\\sqrt[", "1 ", "1    "],
    "copies": ["[asy]", " "],
    "verdict": [("```json", "\n"), '{"id":"abcd"', '"abcd"', "```json\n"],
    "answer": ["\\ ", "\\boxed{1},"],
    "gold": ["\\ "],
    "boxes": ["\\boxed{"],
    "division": [
        *(
            "</think>",
            " </think>",
            "</think></a>",
            "<think>",
            "<",
            "\\boxed{",
            "\\boxed{1},",
            "the answer ",
            "answer is ",
            "Answer:\n",
        ),
        *(
            "#### ",
            "\n",
            " \n",
            "```",
            "\n```",
            "<|channel|>final",
            "<|start|>a",
            "<|end|>",
            "<|end|> ",
            "<|channel|> final x",
        ),
        *("<|end|><|start|>a<|channel|>final<|message|>", "final<|constrain|>", ("<|channel|>final", "<|constrain|>")),
    ],
    "MR-Ben": [" ", "Step 1: x\n", "b\n"],
    "equations": [
        *("1+", "(", "1=1 ", "(1", "1", "x2", "\\frac{", "((1)", "{", "ab", " ", "= ", "1!", "1^2", "'", "- "),
        *("\\sqrt{1}", "a = ", "\\\\[", "1abc ", "**a ", "1 * "),
    ],
    "step": [
        *(
            "wait, ",
            "8 * 2 = 4, not 4 ",
            "is wrong ",
            "no ",
            "if x = 3 ",
            "?",
            "mistake ",
            "not ",
            "a = ",
            "Wait, 3 not 4, ",
        ),
        *("Wait, a{i} = 1, not 2. ", "= 1 is wrong ", "error in step 3 of ", "I thought ", "which "),
    ],
    "rule judge": ["1+1=2.\n\nWait, 1+1=2 is wrong.\n\n", "so ", "= 5 "],
    "adoption": ["so ", "thus ", "is 5 "],
    "truth": ["7+1=2\n\n", "1"],
}
"""What once hung a reader, or was meant to; ``{i}`` is another number each time."""
ENDING = "~"


def chosen(name: str) -> list[tuple[str, str]]:
    """Beginnings and the texts that follow them again and again: those once dangerous to this kind, and a sample of all."""
    draw = random.Random(name)
    by_hand = [unit for kind, units in BY_HAND.items() if name.startswith(kind) for unit in units]
    units = dict.fromkeys([*by_hand, *draw.sample(UNITS, UNITS_A_READER)])
    return [unit if isinstance(unit, tuple) else ("", unit) for unit in units]


def repeated(unit: str, times: int) -> str:
    return "".join(unit.replace("{i}", f"_{i}") for i in range(times)) if "{i}" in unit else unit * times


def superlinear(read: TextReader, units: list[tuple[str, str]], ending: str = ENDING) -> list[tuple[str, str]]:
    found = []
    with counted_patterns():
        for beginning, unit in units:
            short = measured(read, f"{beginning}{repeated(unit, SHORT // len(unit) + 1)}{ending}")
            try:
                long = f"{beginning}{repeated(unit, LONG // len(unit) + 4)}{ending}"
                measured(read, long, limit=5 * short + SLACK)
            except TooMuchWork:
                found.append((beginning, unit))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in READERS if name not in BOUNDED and name not in FILES])
def test_four_times_the_text_takes_at_most_five_times_the_work(name: str):
    assert superlinear(READERS[name], chosen(name)) == []


def test_a_word_at_the_end_of_a_long_expression_costs_no_more():
    assert superlinear(READERS["equations"], [("", "1+")], "1abc") == []


def slices(text: str) -> int:
    return sum(len(text[place:]) > 0 for place in range(len(text)))


def finds(text: str) -> int:
    return sum(text.find("#", place) < 0 for place in range(len(text)))


def grows(text: str) -> str:
    whole = text[:0]
    for letter in text:
        whole = whole + text[:1] + letter
    return whole


@pytest.mark.parametrize("careless", [slices, finds, grows])
def test_careless_readers_would_be_caught(careless):
    for unit in ("a", "a{i} "):
        assert superlinear(TextReader(careless), [("", unit)], "1abc") == [("", unit)]


READING = (
    "lit_tpgrpo.text", "lit_tpgrpo.verify", "lit_tpgrpo.judges.adoption", "lit_tpgrpo.judges.audit_sets",
    "lit_tpgrpo.judges.generative.numbered_solution", "lit_tpgrpo.judges.generative.verdicts", "lit_tpgrpo.metrics.scores",
    "lit_tpgrpo.datamodules.sources.decontaminate", "lit_tpgrpo.datamodules.arithmetic.truth", "lit_tpgrpo.yaml_files",
)  # fmt: skip
NO_READERS = {
    "text.braces.without_needless_braces": "called by statement_key",
    "text.spans.decode_with_offsets": "of token ids, as many as were sampled",
    "text.markers.matches_before": "at most 40 characters",
    "text.markers.supposes_before": "at most 40 characters, as matches_before",
    "text.markers.lower": "called by read_step",
    "text.markers.has_stem": "called by read_step",
    "text.markers.nominating": "called by read_step",
    "text.reflections.reflecting": "called by read_step",
    "text.reflections.read_plainly": "called by read_step",
    "text.reflections.read_reflection": "called by read_step",
    "text.subjects.find_subject": "called by read_step",
    "text.equations.find_expressions": "called by extract_equations",
    "text.equations.begins_whole": "called by extract_equations, for 24 characters",
    "text.equations.ends_whole": "called by extract_equations",
    "text.contexts": "called by extract_equations",
    "text.steps.steps_from_starts": "called by segment_steps",
    "text.formats.prefill": "of the end of a prompt",
    "verify.algebra.equal": "in a worker whose time and memory are limited",
    "verify.worker.serve": "the worker itself",
    "verify.worker.run_worker": "the worker itself",
    "verify.match.every": "of verdicts",
    "verify.checks": "a command over files of ours",
    "verify.mutations": "a command over files of ours",
    "verify.structure.same_layout": "layout_key of two texts",
    "verify.relations": "of shapes of bounded length",
    "verify.code.seccomp.filter_program": "of a machine's name",
    "verify.compare": "of texts of bounded length",
    "judges.audit_sets.read_mrben": "its rows are read by mrben_record",
    "judges.audit_sets.read_prmbench": "its rows are read by prmbench_record",
    "judges.audit_sets.read_labelled": "it looks for nothing in its texts; make_record is part of prmbench_record",
    "judges.generative.numbered_solution.prompt_text": "called by number_solution",
    "judges.generative.numbered_solution.number_solution": "numbered solution",
    "judges.generative.verdicts.schema_of": "of forms of ours",
    "datamodules.sources.decontaminate.words": "called by find_copies",
    "datamodules.arithmetic.truth_chat.grade": "a share of what solution_truth gives",
    "judges.adoption.given_pairs": "called by adopted_steps",
    "judges.adoption.final_value": "called by adopted_steps",
    "metrics.scores.majority": "counts what vote_key gives",
    "text.boxes.boxed_answer": "called by extract_boxed",
    "text.boxes.boxed_answer_start": "called by PlainChain.divide",
    "text.paragraphs.block_spans": "called by paragraph_spans",
    "verify.function.as_verifier": "of a function's name",
    "verify.worker.environment": "of our own environment",
    "yaml_files.bound_parsers": "installs check_yaml",
    "yaml_files.yaml_fault": "of a message",
    "yaml_files.check_yaml": "called by read_yaml",
}
"""Public functions of those modules that take text and are in no entry of ``READERS``, with the reason."""


def test_every_public_function_that_reads_text_is_registered():
    used = inspect.getsource(readers)
    missing = []
    for found in pkgutil.walk_packages(lit_tpgrpo.__path__, "lit_tpgrpo."):
        if not found.name.startswith(READING) or found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        short = found.name.removeprefix("lit_tpgrpo.")
        for name, function in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(function) or function.__module__ != found.name:
                continue
            annotations = [str(parameter.annotation) for parameter in inspect.signature(function).parameters.values()]
            takes_text = any("str" in annotation or "Path" in annotation for annotation in annotations)
            if takes_text and f".{name}" not in used and not {short, f"{short}.{name}"} & NO_READERS.keys():
                missing.append(f"{short}.{name}")
    assert not missing, "add these to benchmarks/readers.py, or to NO_READERS with the reason"
