r"""Extract final answers from answer blocks, and golds from the notations of data sets.

Extraction is strict, because a policy learns to exploit any leniency. The box that opens last decides, and a box that never
closes is not an answer. ``lit_tpgrpo.text.boxes`` defines what counts as a box, and when several boxes are one answer;
``lit_tpgrpo.text.formats`` which part of a solution is its answer block.
"""

from __future__ import annotations

import enum
import json
import math
import numbers
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.boxes import boxed_answer, strip_outer_space

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"(?P<head>[+-]?\$?[0-9]{1,3})(?P<groups>(?:,[0-9]{3})+)(?P<tail>\.[0-9]+)?")
_GSM8K_LINE = re.compile(r"^A:(.*)$", re.MULTILINE)
_GSM8K_HASH = re.compile(r"^####(.*)$", re.MULTILINE)
_ANSWER_LINE = re.compile(r"^[*# \t]{0,8}(?:final )?answer[* \t]{0,8}[:：](.*)$", re.MULTILINE | re.IGNORECASE)
MAX_NESTING = 100
"""Lists and objects inside one another in a gold's field. Python's own limit depends on the caller and on other libraries."""
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")


class AnswerForm(enum.Enum):
    """Notation by which a text gives its answer, for solutions and for golds."""

    BOX = "box"
    """In its last box or boxes: a completion, or a whole gold solution such as MATH's."""
    GSM8K_LINE = "gsm8k_line"
    """On a line ``A: n``, as GSM8K's example model solutions do."""
    GSM8K_HASH = "gsm8k_hash"
    """On a line ``#### n``, as GSM8K's gold solutions do."""
    ANSWER_LINE = "answer_line"
    """On a line ``Answer: ...``, as DAPO's and simple-evals' prompts ask for."""
    PLAIN = "plain"
    """The whole text is the answer. A gold may also be a worked solution that marks its answer with ``####`` or a box."""
    VERBATIM = "verbatim"
    """The whole field, whatever is in it; a list or an object becomes JSON. For unit tests, which ``CodeVerifier`` reads."""


def extract_answer(text: str, form: AnswerForm = AnswerForm.BOX) -> str | None:
    r"""Extract the answer as written, without outer white space; None if the text gives none.

    Args:
        text: the answer block of a solution, or a gold solution.
        form: notation of the answer.

    >>> extract_answer(r"It is $\boxed{4}$.")
    '4'
    """
    return _EXTRACTORS[form](text)


def extract_boxed(text: str) -> str | None:
    """Extract the content of the last box or boxes of an answer block or a gold solution; see the module."""
    return extract_answer(text, AnswerForm.BOX)


def normalise_gold(form: AnswerForm, raw: object) -> str:
    """Extract the gold answer, never empty, from a data set's field.

    Numbers are accepted as data sets and NumPy store them (27.0 for 27, 1e-7 for 0.0000001, a float32 0.1 for 0.1), and a
    list or array as one answer that has several parts (OlympiadBench's roots of an equation): a solution must give all of
    them. A pair of dollar signs around the whole answer is dropped. In the form PLAIN, a worked solution
    gives the answer that it marks (``#### 5``, ``\\boxed{5}``), since no plain answer contains such a mark.

    Args:
        form: notation of the answer in the field.
        raw: the field's value.

    Raises:
        InputError: the field gives no answer.

    >>> normalise_gold(AnswerForm.PLAIN, 27.0), normalise_gold(AnswerForm.GSM8K_HASH, "It makes\\n#### 1,450")
    ('27', '1450')
    """
    _check_nesting(raw)
    return _as_json(raw) if form is AnswerForm.VERBATIM and not isinstance(raw, str) else _gold(form, raw)


def _check_nesting(raw: object) -> None:
    level: list[Any] = [raw]
    for _ in range(MAX_NESTING + 1):
        nested = [value for value in level if isinstance(value, list | tuple | Mapping)]
        if not nested:
            return
        level = [item for value in nested for item in (value.values() if isinstance(value, Mapping) else value)]
    raise InputError(
        f"expected lists and objects of at most {MAX_NESTING} levels, got some that are nested too deeply; drop the row"
    )


def _gold(form: AnswerForm, raw: object) -> str:
    parts = _parts(raw)
    if parts:
        return ", ".join(_gold(form, part) for part in parts)
    number = _number_text(raw)
    if number is not None:
        return number
    if not isinstance(raw, str):
        raise InputError(
            f"expected a gold answer as text, a finite number or a list of them, got {raw!r}; "
            "check the columns of the source or drop the row"
        )
    if form is AnswerForm.PLAIN:
        form = _marked_form(raw)
    gold = extract_answer(raw, form)
    if not gold:
        raise InputError(
            f"expected a gold answer in the form {form.value!r}, got none in {raw[-200:]!r}; "
            f"choose another answer form ({', '.join(f.value for f in AnswerForm)}) or drop the row"
        )
    inner = gold[1:-1].strip()
    return inner if gold[0] == gold[-1] == "$" and inner and "$" not in inner else gold


def _parts(raw: object) -> list[object]:
    """Return the items of a list or of a NumPy array; none for anything else.

    Raises:
        InputError: an item is a list of several itself. Joined, its items would be parts of the outer list.
    """
    if isinstance(raw, list | tuple):
        parts = list(raw)
    elif isinstance(raw, str | bytes | numbers.Number) or not hasattr(raw, "__array__"):
        return []
    else:
        array: Any = raw
        parts = list(array) if array.ndim else [array[()]]  # the latter of a scalar is itself
        if parts and type(parts[0]) is type(raw) and not array.ndim:
            return []
    for part in parts:
        if len(parts) > 1 and len(_parts(part)) > 1:
            raise InputError(
                f"expected a gold answer as text, a finite number or a list of them, got the list {part!r} in a list; write "
                "it as text, such as (1, 2)"
            )
    return parts


def _number_text(raw: object) -> str | None:
    """Return a finite number in decimal notation, a fraction as numerator/denominator; None for anything else."""
    if isinstance(raw, bool) or not isinstance(raw, numbers.Real | Decimal):
        return None
    number: Any = raw
    if not math.isfinite(number):
        return None
    if number == int(number):
        return str(int(number))
    # The shortest text that reads as the same number in its own precision, without an exponent.
    return str(number) if isinstance(raw, numbers.Rational) else format(Decimal(str(number)).normalize(), "f")


def _as_json(raw: object) -> str:
    """Return a field that holds a list or an object as JSON.

    Raises:
        InputError: it holds something else, or nothing.
    """
    raw = raw.tolist() if hasattr(raw, "tolist") else raw  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if not isinstance(raw, list | tuple | Mapping) or not raw:
            raise TypeError
        return json.dumps(raw, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected a text, a list or an object, got {raw!r}; check the columns of the source"
        ) from error


def balanced(text: str) -> bool:
    """Return whether all braces match, so that the text can be put inside ``{}`` without changing where that group ends.

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
    """Return the form of a gold that should be a plain answer but may be a worked solution."""
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
    """Remove thousands separators from a number; GSM8K's commas are always that: 1,450,000 is one number."""
    number = _THOUSANDS.fullmatch(text)
    return number["head"] + number["groups"].replace(",", "") + (number["tail"] or "") if number else text


_EXTRACTORS: Mapping[AnswerForm, Callable[[str], str | None]] = {
    AnswerForm.BOX: boxed_answer,
    AnswerForm.GSM8K_LINE: _last_line(_GSM8K_LINE),
    AnswerForm.GSM8K_HASH: _last_line(_GSM8K_HASH),
    AnswerForm.ANSWER_LINE: _answer_line,
    AnswerForm.PLAIN: strip_outer_space,
    AnswerForm.VERBATIM: strip_outer_space,
}
