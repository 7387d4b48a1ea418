"""Read from a step's words what it asserts, denies and confirms (paper, Stage I: the intrinsic signals).

Marker words ("wait", "hmm", "actually", "mistake") only *nominate* a step as a reflection: most marked paragraphs of
real chains correct nothing. A nominated step *corrects* if it says that a statement is wrong, answers its question with
no, or contrasts two values ("6, not 4"); it *confirms* if it says that the statement is right. A step that does neither
stays OPEN: only comparison with earlier steps shows whether it replaces an earlier value.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_tpgrpo.text import markers
from lit_tpgrpo.text.equations import Equation, extract_equations, find_expressions, is_number, normalise
from lit_tpgrpo.text.flattening import flatten
from lit_tpgrpo.text.markers import has_stem, lower, matches_before, supposes_before
from lit_tpgrpo.text.statements import Statements
from lit_tpgrpo.text.subjects import Subject, find_subject


class Stance(enum.Enum):
    """A step's attitude to earlier work: none, an open doubt, confirmation, correction."""

    NONE = "none"
    OPEN = "open"
    CONFIRMS = "confirms"
    CORRECTS = "corrects"


class Denial(enum.Enum):
    """How a correction refers to what it denies: by quoting it, by pointing back ("that is wrong"), or only by admitting
    a mistake ("I made a mistake")."""

    QUOTED = "quoted"
    POINTING = "pointing"
    ADMITTED = "admitted"


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of one step. Questions and suppositions assert nothing.

    Args:
        stance: the step's attitude to earlier work.
        asserted: equations that the step asserts and does not withdraw.
        renewed: those of them written after the first marker word and without "if" or "maybe".
        denied: equations that it calls wrong.
        denied_values: plain values that it calls wrong.
        denial: how it refers to what it denies; None if it denies nothing.
        withdrew: whether a denied equation was asserted in the step itself.
        flat: the step's text, flattened (``equations.flatten``).
        blamed: numbers of the steps in which it reports an error.
        number: number that the solver gave the step ("Step 4: ..."), if any.
    """

    stance: Stance
    asserted: tuple[Equation, ...] = ()
    renewed: tuple[Equation, ...] = ()
    denied: tuple[Equation, ...] = ()
    denied_values: tuple[str, ...] = ()
    denial: Denial | None = None
    withdrew: bool = False
    flat: str = ""
    blamed: tuple[int, ...] = ()
    number: int | None = None


_SENTENCE_END = re.compile(r"\s(?:(?<=[.?!]\s)\s*|(?<=\n)\n*)")
"""Blanks behind a full stop, or line breaks. It begins with a class so that ``re`` skips to the next blank."""
_REPLACES = re.compile(r"\bshould\b|\bactually\b")
_MAX_TOPIC = 8
"""Maximum number of equations, the last of a question, to which "no" or "that" refers; the limit keeps long texts linear."""


@dataclass(slots=True)
class _ReflectionParser:
    """Parser of a step, sentence by sentence; ``topic``: the equations to which a following "yes", "no" or "that" refers.

    ``nominating``: the patterns of marker words that the step can match.
    """

    nominating: Sequence[re.Pattern[str]]
    asserted: Statements = field(default_factory=Statements)
    renewed: Statements = field(default_factory=Statements)
    denied: list[Equation] = field(default_factory=list)
    denied_values: list[str] = field(default_factory=list)
    blamed: list[int] = field(default_factory=list)
    denial: Denial | None = None
    withdrew: bool = False
    confirmed: bool = False
    nominated: bool = False
    topic: tuple[Equation, ...] = ()
    asked: bool = False
    asked_if_wrong: bool = False
    asked_back: bool = False
    """The open question is about an earlier statement: it quotes one, or it points back ("is that right?")."""

    def read(self, sentence: str) -> None:
        """Parse the next sentence."""
        equations = _stated(sentence)
        small = lower(sentence)
        self.nominated = self.nominated or _nominates(sentence, self.nominating)
        if sentence.endswith("?"):
            return self._ask(sentence, equations)
        if not self.nominated:
            return self._assert(equations)
        if self.asked and (markers.YES if self.asked_if_wrong else markers.NO).match(sentence):
            self.asked = False
            if self.asked_back:
                self._deny(self.topic, Denial.POINTING)
            return self._assert(self._replacement(sentence, self._contrast(sentence, small, equations)))
        if has_stem(small, markers.BLAMES_STEP_STEMS):
            self._blame(sentence)
        wrong = self._says_wrong(sentence) if has_stem(small, markers.CALLS_WRONG_STEMS) else None
        subject = wrong and (Subject() if wrong["admission"] else find_subject(sentence, wrong, equations))
        if wrong and subject and not (self.asked and not self.asked_back and subject == Subject()):
            return self._call_wrong(sentence, small, wrong, subject, equations)
        kept = self._replacement(sentence, self._contrast(sentence, small, equations))
        self._assert(kept, considered=bool(kept) and _is_hedged(sentence, small))
        right = (has_stem(small, markers.CALLS_RIGHT_STEMS) and markers.CALLS_RIGHT.search(sentence)) or (
            has_stem(small, markers.NOT_WRONG_STEMS) and markers.NOT_WRONG.search(sentence)
        )
        if right or (self.asked and markers.NO.match(sentence)):
            self._confirm()
        return None

    def _ask(self, sentence: str, equations: tuple[Equation, ...]) -> None:
        """Parse a question; a later "no" denies what it quotes only in "is 8 * 2 = 4 right?", not in "could x = 3?"."""
        judges = markers.JUDGES.search(sentence) is not None
        quoted = tuple(e for e in equations if judges or is_number(e.lhs))
        points = judges and not equations and markers.POINTS_BACK.search(sentence) is not None
        self.asked, self.asked_back = True, bool(quoted or points)
        self.topic = quoted[-_MAX_TOPIC:] or (self.topic if points else ())
        self.asked_if_wrong = markers.CALLS_WRONG.search(sentence) is not None

    def _says_wrong(self, sentence: str) -> re.Match[str] | None:
        """Return the sentence's verdict that something is wrong; "A is wrong" has precedence over "I made a mistake"."""
        verdicts = [
            v
            for v in markers.CALLS_WRONG.finditer(sentence)
            if not (v["admission"] and markers.OF_THE_PROBLEM.match(sentence, v.end()))
        ]
        wrong = next((v for v in verdicts if v["predicate"]), verdicts[0] if verdicts else None)
        if wrong is None or markers.NOT_WRONG.search(sentence) or markers.HEDGES.search(sentence, 0, wrong.end()):
            return None
        return wrong

    def _blame(self, sentence: str) -> None:
        """Parse blame of a numbered step: "we made an error in step 4"."""
        blame = markers.BLAMES_STEP.search(sentence)
        doubts = (markers.NOT_WRONG, markers.HEDGES, markers.GUESSES)
        if blame and not any(doubt.search(sentence, 0, blame.end()) for doubt in doubts):
            self.blamed.append(int(blame[blame.lastgroup or 0][:9]))
            self.denial = self.denial or Denial.ADMITTED

    def _call_wrong(
        self, sentence: str, small: str, wrong: re.Match[str], subject: Subject, equations: tuple[Equation, ...]
    ) -> None:
        """Parse a sentence that calls something wrong.

        "A = b is wrong, because A = c" denies the subject of the verdict and asserts the other equations.
        "I made a mistake in A = b" denies the object of the admission.
        """
        self.asked = False
        denied = subject.equations
        first = denied[0].start if denied else wrong.start()  # the denied equations are the last before the verdict
        before = tuple(e for e in equations if e.end <= wrong.start() and e.start < first)
        after = tuple(e for e in equations if e.end > wrong.start())
        if wrong["admission"]:
            # "I wrote A = b instead of A = c" rejects the first equation, not the second, so it is ignored.
            after = tuple(e for e in after if not matches_before(markers.REJECTS, sentence, e.start))
            after = after or tuple(e for e in extract_equations(sentence) if e.start > wrong.end())
            gap = markers.ADMITTED_OBJECT.match(sentence, wrong.end())
            if after and gap and gap.end() == after[0].start:
                denied, after = after[:1], after[1:]
        else:
            after = self._contrast(sentence, small, after)
        self._assert(before)
        if denied:
            self._deny(denied, Denial.QUOTED)
        elif subject.value is not None:
            self.denied_values.append(subject.value)
            self.denial = Denial.QUOTED
        elif not self.denied_values or self.denial is not Denial.QUOTED:
            past = re.search(r"\b(?:was|were)\b", wrong[0]) is not None
            # "Let me recompute: … So that was wrong" refers to earlier work, not to the new result.
            about = () if wrong["admission"] or before or (past and self.renewed) else self.topic
            self._deny(about, Denial.ADMITTED if wrong["admission"] else Denial.POINTING)
        self._assert(self._replacement(sentence[wrong.end() :], after))

    def _replacement(self, sentence: str, equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
        """Return the equation given by a replacement: "it should be 6" after "8 * 2 = 4 is wrong" asserts 8 * 2 = 6.

        If there is none, return ``equations`` unchanged.
        """
        phrase = None if equations or not self.denied else markers.REPLACES.search(sentence)
        value = next(find_expressions(sentence, phrase.end()), None) if phrase else None
        if phrase is None or value is None or value.start() != phrase.end():
            return equations
        return (Equation(self.denied[-1].lhs, normalise(value[0])),)

    def _contrast(self, sentence: str, small: str, equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
        """Deny what is rejected by contrast ("A = c, not b", "A = c instead of A = b"); return the other equations.

        A sentence with a hedge ("maybe", "if") rejects nothing. ``small``: the sentence in lower case.
        """
        if not has_stem(small, markers.REJECTS_STEMS) or _is_hedged(sentence, small):
            return equations
        rejected = [matches_before(markers.REJECTS, sentence, e.start) for e in equations]
        kept = [e for e, reject in zip(equations, rejected, strict=True) if not reject]
        denied = [e for e, reject in zip(equations, rejected, strict=True) if reject]
        starts, kept_ends = [e.start for e in equations], [e.end for e in kept]
        replaces = _REPLACES.search(sentence) is not None
        for value in find_expressions(sentence):
            if not any(c.isdigit() for c in value[0]):
                continue  # "x is not a root" rejects no value: a value contains a digit
            within = bisect_right(starts, value.start()) - 1
            if within >= 0 and value.start() < equations[within].end:
                continue
            if not matches_before(markers.REJECTS, sentence, value.start()):
                continue
            before = bisect_right(kept_ends, value.start()) - 1
            if before >= 0:
                denied.append(Equation(kept[before].lhs, normalise(value[0])))
            elif replaces and sentence[max(0, value.start() - 8) : value.start()].rstrip().endswith("not"):
                self.denied_values.append(normalise(value[0]))
                self.denial = Denial.QUOTED
        if denied:
            self._deny(tuple(denied), Denial.QUOTED)
        return tuple(kept)

    def _assert(self, equations: tuple[Equation, ...], considered: bool = False) -> None:
        self.asserted.state(equations)
        if self.nominated and not considered:
            self.renewed.state(equations)
        self.topic = equations[-1:] or self.topic

    def _deny(self, equations: tuple[Equation, ...], denial: Denial) -> None:
        self.denied += equations
        self.denial = Denial.QUOTED if equations or self.denial is Denial.QUOTED else denial
        self.withdrew = self.asserted.withdraw(equations) or self.withdrew
        self.renewed.withdraw(equations)

    def _confirm(self) -> None:
        """Parse a confirmation: "yes, that is right" cancels a doubt that quotes nothing, and answers an open question."""
        self.confirmed = True
        if self.denial is not Denial.QUOTED and not self.blamed:
            self.denial = None
        if self.asked and not self.denied:
            self.asserted.state(self.topic)
            self.renewed.state(self.topic)
        self.asked = False


def _stated(sentence: str) -> tuple[Equation, ...]:
    """Return the equations of a sentence that it does not only suppose."""
    equations = extract_equations(sentence)
    return tuple([e for e in equations if not supposes_before(sentence, e.start)]) if equations else equations


def _is_hedged(sentence: str, small: str) -> bool:
    return has_stem(small, markers.HEDGES_STEMS) and markers.HEDGES.search(sentence) is not None


def read_step(text: str) -> Reading:
    """Parse the text of one step. Takes time linear in its length, apart from sorting its equations."""
    flat = flatten(text)
    patterns = reflecting(flat)
    return read_reflection(flat, patterns) if patterns else read_plainly(flat)


def reflecting(flat: str) -> list[re.Pattern[str]]:
    """Return the patterns of marker words that the flattened step can match, none if no sentence of it matches one."""
    patterns = markers.nominating(lower(flat))
    return (
        patterns if patterns and any(_nominates(part.strip(), patterns) for part in _SENTENCE_END.split(flat)) else []
    )


def read_plainly(flat: str) -> Reading:
    """Parse a flattened step without a marker word: it states the equations of its sentences, except of questions."""
    asserted: list[Equation] = []
    if "=" in flat or "≡" in flat:
        for part in _SENTENCE_END.split(flat):
            if ("=" in part or "≡" in part) and not (sentence := part.strip()).endswith("?"):
                asserted += _stated(sentence)
    return Reading(Stance.NONE, tuple(asserted), flat=flat, number=_step_number(flat))


def read_reflection(flat: str, patterns: Sequence[re.Pattern[str]]) -> Reading:
    """Parse a flattened step with a marker word; ``patterns``: what ``reflecting`` gives for it."""
    parser = _ReflectionParser(patterns)
    for sentence in _SENTENCE_END.split(flat):
        if sentence.strip():
            parser.read(sentence.strip())
    stance = Stance.CORRECTS if parser.denial else Stance.CONFIRMS if parser.confirmed else Stance.OPEN
    return Reading(
        stance,
        parser.asserted.in_order(),
        parser.renewed.in_order(),
        tuple(parser.denied),
        tuple(parser.denied_values),
        parser.denial,
        parser.withdrew,
        flat,
        tuple(parser.blamed),
        _step_number(flat),
    )


def _nominates(sentence: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    for pattern in patterns:  # noqa: SIM110 - ``any`` takes three times as long
        if pattern.search(sentence):
            return True
    return False


def _step_number(flat: str) -> int | None:
    number = markers.STEP_NUMBER.match(flat) if flat[:1] in "sSſ" or not flat[:1].isalnum() else None
    return int(number[1]) if number and len(number[1]) < 10 else None
