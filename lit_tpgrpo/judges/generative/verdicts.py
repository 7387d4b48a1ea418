"""Verdict schemas: one pydantic model per kind of question, and the parser that turns a reply into one.

Every verdict repeats the ``id`` of its question, so that the reply to another request, or verdict-like text that the
judge copied from a solution, is not mistaken for the answer. Steps are identified by the number of their first paragraph.
A reply without a valid verdict raises ``VerdictError``, and nothing else.

The docstrings of the models are part of the JSON schema that is sent to the LLM: changing one changes the requests.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_ITEMS = 400
"""Longest list in a verdict: an endless list ends here and not at the token limit, in the middle of a number."""
MAX_REPLY_CHARS = 200_000
_THINK_END = "</think>"
_MENTIONS, _BRACES = 20, 8
"""How many mentions of the id are tried for a verdict, and how many braces before each."""
_FENCE = "```"

Number = Annotated[int, Field(ge=0, le=1_000_000)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class VerdictError(ValueError):
    """A reply contains no valid verdict; the message says why."""


class VerdictModel(BaseModel):
    """Base of all verdicts: nothing is coerced, nothing may be added."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(pattern="^[0-9a-f]{4}$")]


class SegmentationVerdict(VerdictModel):
    """Steps as ``[first paragraph, last paragraph]``, in order."""

    steps: Annotated[list[Interval], Field(min_length=1, max_length=MAX_ITEMS)]


class ReflectionsVerdict(VerdictModel):
    """The steps in which the solver turns on its own work."""

    reflections: Annotated[list[Number], Field(max_length=MAX_ITEMS)]


class ReflectionSource(BaseModel):
    """The intervals of earlier paragraphs that a reflection shows to be wrong; none if it corrects nothing."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    reflection: Number
    intervals: Annotated[list[Interval], Field(max_length=MAX_ITEMS)]


class SourcesVerdict(VerdictModel):
    """One entry for each reflection that was asked about."""

    sources: Annotated[list[ReflectionSource], Field(max_length=MAX_ITEMS)]


class StepJudgement(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    step: Number
    wrong: bool


class JudgementsVerdict(VerdictModel):
    """One entry for each step that was asked about."""

    judgements: Annotated[list[StepJudgement], Field(max_length=MAX_ITEMS)]


class MatchingVerdict(VerdictModel):
    """The steps that the answer adopts."""

    matched: Annotated[list[Number], Field(max_length=MAX_ITEMS)]


class StepVerdict(VerdictModel):
    """A single step: wrong or not."""

    wrong: bool


V = TypeVar("V", bound=VerdictModel)


@cache
def schema_of(form: type[VerdictModel]) -> dict[str, Any]:
    """Return the JSON schema of a verdict, cached: pydantic rebuilds it at each call, longer than the rest of a query."""
    return form.model_json_schema()


def read_verdict(text: str, model: type[V], request_id: str) -> V:
    """Parse the verdict in a reply: all of the text, in a code fence or not, or else the one JSON object with this id.

    Thinking that the engine did not separate is removed, up to the last ``</think>``.

    Raises:
        VerdictError: there is no verdict of this type with this id, or several that differ.
    """
    if len(text) > MAX_REPLY_CHARS:
        raise VerdictError(f"a reply of {len(text)} characters, over {MAX_REPLY_CHARS}")
    text = text.rpartition(_THINK_END)[2]
    whole = _unfenced(text.strip())
    try:
        return _checked(whole, model, request_id)
    except VerdictError as error:
        verdicts = {v.model_dump_json(): v for v in _embedded(whole, model, request_id)}
        if len(verdicts) > 1:
            raise VerdictError(f"{len(verdicts)} different verdicts in one reply") from error
        if not verdicts:
            raise
        return next(iter(verdicts.values()))


def _unfenced(text: str) -> str:
    """Return the content of a text that is one code fence (with or without ``json``); any other text unchanged."""
    opening, _, rest = text.partition("\n")
    content, line_break, closing = rest.rpartition("\n")
    marked = opening.startswith(_FENCE) and opening[len(_FENCE) :].rstrip().lower() in ("", "json")
    return content.strip() if marked and line_break and closing.strip() == _FENCE else text


def _checked(text: str, model: type[V], request_id: str) -> V:
    try:
        verdict = model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        location = ".".join(map(str, first["loc"])) or "reply"
        raise VerdictError(f"{location}: {first['msg']}") from None
    if verdict.id != request_id:
        raise VerdictError(f"answers request {verdict.id}, not {request_id}")
    return verdict


def _embedded(text: str, model: type[V], request_id: str) -> list[V]:
    """Return the verdicts with the right id inside prose: JSON objects that begin shortly before a mention of the id.

    The work is bounded for any text: a reply with thousands of nested braces costs no more than a plain one.
    """
    verdicts: list[V] = []
    decoder = json.JSONDecoder()
    end = 0
    for mention in list(re.finditer(f'"{request_id}"', text))[:_MENTIONS]:
        at = mention.start()
        for _ in range(_BRACES):
            at = text.rfind("{", end, at)
            if at < 0:
                break
            try:
                _, stop = decoder.raw_decode(text, at)
                verdicts.append(_checked(text[at:stop], model, request_id))
            except (ValueError, RecursionError):  # VerdictError is a ValueError
                continue
            end = stop
            break
    return verdicts
