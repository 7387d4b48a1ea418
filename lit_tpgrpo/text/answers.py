r"""Where the final answer stands in a solution, and the bare gold in each data set's own notation.

Extraction is strict, because a policy learns whatever it lets through: the answer is looked for after the last
``</think>`` only (one that nothing follows closes nothing and is passed over), the box that opens last decides, and a box
that never closes is no answer. What counts as a box, and when several boxes are one answer, says
``lit_tpgrpo.text.boxes``.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.boxes import boxed_answer, without_edges

THINK_END = "</think>"

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"(?P<head>[+-]?\$?[0-9]{1,3})(?P<groups>(?:,[0-9]{3})+)(?P<tail>\.[0-9]+)?")
_GSM8K_LINE = re.compile(r"^A:(.*)$", re.MULTILINE)
_GSM8K_HASH = re.compile(r"^####(.*)$", re.MULTILINE)
_ANSWER_LINE = re.compile(r"^[*# \t]{0,8}(?:final )?answer[* \t]{0,8}[:：](.*)$", re.MULTILINE | re.IGNORECASE)
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")


class AnswerForm(enum.Enum):
    """How a text gives its answer. The same forms serve for solutions and for golds."""

    BOX = "box"
    """In its last box, or its last boxes: a completion, or a whole gold solution such as MATH's."""
    GSM8K_LINE = "gsm8k_line"
    """On a line ``A: n``, as GSM8K's example model solutions do."""
    GSM8K_HASH = "gsm8k_hash"
    """On a line ``#### n``, as GSM8K's gold solutions do."""
    ANSWER_LINE = "answer_line"
    """On a line ``Answer: ...``, as DAPO's and simple-evals' prompts ask for."""
    PLAIN = "plain"
    """The text is the answer. As a gold it may also be a worked solution that marks its answer with ``####`` or a box."""


def answer_start(text: str) -> int | None:
    """Where the answer block begins: at the last ``</think>`` that anything follows, the tag included; None where the think
    block was never closed.

    Judge and verifier have to mean the same block. Chat templates often put ``<think>`` into the prompt, so nothing is asked
    of the opening tag.

    >>> answer_start("<think>2+2</think> It is 4.")
    10
    """
    start = text.rfind(THINK_END, 0, _answer_end(text))
    return start if start >= 0 else None


def answer_block(text: str) -> str | None:
    """What follows the tag at ``answer_start``, without white space and further closing tags at its end; None where there is
    none."""
    start = answer_start(text)
    return None if start is None else text[start + len(THINK_END) : _answer_end(text)]


def _answer_end(text: str) -> int:
    """Where the answer block ends: before white space and closing tags at the end, of which an earlier tag is not one."""
    end = _without_space(text, len(text))
    while text.endswith(THINK_END, 0, end) and text.rfind(THINK_END, 0, end - len(THINK_END)) >= 0:
        end = _without_space(text, end - len(THINK_END))
    return end


def _without_space(text: str, end: int) -> int:
    """Where ``text[:end]`` ends without the white space at its end."""
    while end and text[end - 1].isspace():
        end -= 1
    return end


def extract_answer(text: str, form: AnswerForm = AnswerForm.BOX, *, thinks: bool = True) -> str | None:
    r"""The answer of a solution as it is written there, stripped of outer white space; None where it gives none.

    Say ``thinks=False`` for texts without a think block (gold solutions, models that do not reason); otherwise a text
    that never closes its think block has no answer.

    >>> extract_answer(r"<think>2+2</think> It is $\boxed{4}$.")
    '4'
    >>> extract_answer(r"<think>2+2 is $\boxed{4}$.") is None
    True
    """
    block = answer_block(text) if thinks else text
    return None if block is None else _EXTRACTORS[form](block)


def extract_boxed(text: str, *, thinks: bool = True) -> str | None:
    """The content of the last box or boxes after the think block (anywhere with ``thinks=False``), see the module."""
    return extract_answer(text, AnswerForm.BOX, thinks=thinks)


def normalise_gold(form: AnswerForm, raw: object) -> str:
    """The bare gold answer of a data set's field, never empty.

    Numbers are accepted as data sets store them (27.0 for 27, 1e-7 for 0.0000001), and a list as several answers to one
    question (OlympiadBench). One pair of dollars around the whole is dropped. A worked solution in a field that was said
    to hold bare answers gives the answer that it marks (``#### 5``, ``\\boxed{5}``): no bare answer contains either. An
    unusable field raises InputError.

    >>> normalise_gold(AnswerForm.PLAIN, 27.0), normalise_gold(AnswerForm.GSM8K_HASH, "It makes\\n#### 1,450")
    ('27', '1450')
    """
    if isinstance(raw, list | tuple) and raw:
        return ", ".join(normalise_gold(form, item) for item in raw)
    if isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw):
        return str(int(raw)) if raw == int(raw) else format(Decimal(repr(raw)), "f")
    if not isinstance(raw, str):
        raise InputError(
            f"expected a gold answer as text, a finite number or a list of them, got {raw!r}; "
            "check the field map of the source or drop the row"
        )
    if form is AnswerForm.PLAIN:
        form = _marked_form(raw)
    gold = extract_answer(raw, form, thinks=False)
    if not gold:
        raise InputError(
            f"expected a gold answer in the form {form.value!r}, found none in {raw[-200:]!r}; "
            f"choose another answer form ({', '.join(f.value for f in AnswerForm)}) or drop the row"
        )
    inner = gold[1:-1].strip()
    return inner if gold[0] == gold[-1] == "$" and inner and "$" not in inner else gold


def balanced(text: str) -> bool:
    """Whether every brace closes: text that can stand inside ``{}`` without changing where that group ends.

    >>> balanced("{a}{b}"), balanced("a}{b")
    (True, False)
    """
    depth = 0
    for token in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth < 0:
            return False
    return depth == 0 and (len(text) - len(text.rstrip("\\"))) % 2 == 0


def _marked_form(gold: str) -> AnswerForm:
    """How a text that should be a bare answer gives it."""
    if _GSM8K_HASH.search(gold):
        return AnswerForm.GSM8K_HASH
    return AnswerForm.BOX if _BOX_COMMAND.search(gold) else AnswerForm.PLAIN


def _last_line(pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    def extract(text: str) -> str | None:
        lines = pattern.findall(text)
        return _without_thousands_commas(lines[-1].strip()) if lines else None

    return extract


def _answer_line(text: str) -> str | None:
    lines = _ANSWER_LINE.findall(text)
    answer = lines[-1].strip().strip("*").strip() if lines else None
    if answer is None:
        return None
    boxed = boxed_answer(answer) if _BOX_COMMAND.search(answer) else None
    return answer if boxed is None else boxed


def _without_thousands_commas(text: str) -> str:
    """GSM8K's commas always separate thousands: 1,450,000 is one number."""
    number = _THOUSANDS.fullmatch(text)
    return number["head"] + number["groups"].replace(",", "") + (number["tail"] or "") if number else text


_EXTRACTORS: Mapping[AnswerForm, Callable[[str], str | None]] = {
    AnswerForm.BOX: boxed_answer,
    AnswerForm.GSM8K_LINE: _last_line(_GSM8K_LINE),
    AnswerForm.GSM8K_HASH: _last_line(_GSM8K_HASH),
    AnswerForm.ANSWER_LINE: _answer_line,
    AnswerForm.PLAIN: without_edges,
}
