"""Presets of common mathematics data sets: their Hub ids and row formats.

The columns cover the Hub's version and common copies as files: rllm's MATH (problem, answer), QwQ's AIME (prompt with an
instruction, integer answers), simpleRL's AMC and OlympiadBench.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from lit_tpgrpo.datamodules.sources.base import FieldMap, RowFormat
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.text.answers import AnswerForm

BOXED_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


@dataclass(frozen=True, slots=True)
class DatasetPreset:
    """Hub id, subset, default split and row format of one data set; ``notes`` is advice for users."""

    hub_id: str
    subset: str | None
    split: str
    format: RowFormat
    notes: str = ""


_STATEMENT = ("problem", "question", "prompt")
_SHORT_ANSWERS = RowFormat(FieldMap(prompt=_STATEMENT), AnswerForm.PLAIN, (BOXED_INSTRUCTION,))

PRESETS: MappingProxyType[str, DatasetPreset] = MappingProxyType(
    {
        "math": DatasetPreset(
            "DigitalLearningGmbH/MATH-lighteval",
            "default",
            "train",
            RowFormat(
                FieldMap(prompt=_STATEMENT, answer=("answer", "solution"), subject=("subject", "type")),
                {"answer": AnswerForm.PLAIN, "solution": AnswerForm.BOX},
            ),
            "The Hub's copy has worked solutions only (the gold is their last box, or their last boxes where these are "
            "one answer); rllm's copy has short answers, 4 of its 7,474 rows without one.",
        ),
        "math500": DatasetPreset(
            "HuggingFaceH4/MATH-500", None, "test", RowFormat(FieldMap(prompt=_STATEMENT, uid=("unique_id", "id")))
        ),
        "aime24": DatasetPreset("HuggingFaceH4/aime_2024", None, "train", _SHORT_ANSWERS),
        "aime25": DatasetPreset("math-ai/aime25", None, "test", _SHORT_ANSWERS),
        "amc23": DatasetPreset("math-ai/amc23", None, "test", _SHORT_ANSWERS),
        "olympiadbench": DatasetPreset(
            "Hothan/OlympiadBench",
            "OE_TO_maths_en_COMP",
            "train",
            # The Hub's `difficulty` is "Competition" in all rows, which is not a level.
            RowFormat(
                FieldMap(
                    prompt=_STATEMENT,
                    answer=("final_answer", "answer"),
                    level="level",
                    subject="subfield",
                    context="context",
                )
            ),
            "The unit (8 of 675 problems have one) stays out of the gold: the question asks for the number in it.",
        ),
        "gsm8k": DatasetPreset(
            "openai/gsm8k",
            "main",
            "train",
            RowFormat(FieldMap(prompt=_STATEMENT), AnswerForm.GSM8K_HASH),
            "split: test has 1,319.",
        ),
        "deepscaler": DatasetPreset(
            "agentica-org/DeepScaleR-Preview-Dataset",
            None,
            "train",
            RowFormat(FieldMap(prompt=_STATEMENT)),
            "Some rows have no answer: on_malformed: skip. It holds problems of MATH-500 and OlympiadBench: wrap it in "
            "Decontaminated.",
        ),
    }
)


def find_preset(name: str) -> DatasetPreset:
    """Return the preset of this name.

    Raises:
        ConfigError: there is none; the message lists the known names.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"preset: expected one of {', '.join(sorted(PRESETS))}, got {name!r}. For other data leave preset out and "
            f"give columns and answer_form."
        )
    return PRESETS[name]
