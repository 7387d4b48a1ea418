"""What a step asserts, denies and confirms, read from its words (paper, Stage I: the intrinsic signals).

Marker words ("wait", "hmm", "actually", "mistake") only *nominate* a step as a reflection: most marked paragraphs of
real chains correct nothing. A nominated step *corrects* where it says that a statement is wrong, answers its own
question with no, or sets one value against another ("6, not 4"); it *confirms* where it says that the statement is
right. A step that is neither stays OPEN: whether it replaces an earlier value shows only next to the earlier steps.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right
from dataclasses import dataclass, field

from lit_tpgrpo.text import markers
from lit_tpgrpo.text.equations import EXPRESSION, Equation, extract_equations, flatten, normalise
from lit_tpgrpo.text.markers import stands_before


class Stance(enum.Enum):
    """What a step does about earlier work: nothing, opens a doubt, confirms it, corrects it."""

    NONE = "none"
    OPEN = "open"
    CONFIRMS = "confirms"
    CORRECTS = "corrects"


class Denial(enum.Enum):
    """What a correction without a quotation is about: "that is wrong" points back, "I made a mistake" only admits."""

    QUOTED = "quoted"
    POINTING = "pointing"
    ADMITTED = "admitted"


@dataclass(frozen=True, slots=True)
class Reading:
    """One step, read. Questions and suppositions assert nothing.

    ``asserted`` are the equations the step stands for at its end, ``renewed`` those among them that were written after
    the first marker word and without "if" or "maybe", ``denied`` the equations and ``denied_values`` the bare values
    it calls wrong; ``withdrew``: one of the denied was asserted in the step itself.
    """

    stance: Stance
    asserted: tuple[Equation, ...] = ()
    renewed: tuple[Equation, ...] = ()
    denied: tuple[Equation, ...] = ()
    denied_values: tuple[str, ...] = ()
    denial: Denial | None = None
    withdrew: bool = False
    flat: str = ""


_SENTENCE_END = re.compile(r"(?<=[.?!])\s+|\n+")
_REPLACES = re.compile(r"\bshould\b|\bactually\b")
_MAX_TOPIC = 8
"""A "no" or "that" is about so many equations at most, the last of its question. It keeps long texts linear."""


class _Statements:
    """Equations in the order in which they were stated. Withdrawing one does not look at the others."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], list[tuple[int, Equation]]] = {}
        self._stated = 0

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def state(self, equations: tuple[Equation, ...]) -> None:
        for equation in equations:
            self._by_key.setdefault(equation.key, []).append((self._stated, equation))
            self._stated += 1

    def withdraw(self, equations: tuple[Equation, ...]) -> bool:
        """Take out all that equal one of these; whether there were any."""
        found = [self._by_key.pop(equation.key, None) for equation in equations]
        return any(found)

    def in_order(self) -> tuple[Equation, ...]:
        placed = sorted((p for same in self._by_key.values() for p in same), key=lambda p: p[0])
        return tuple(equation for _, equation in placed)


@dataclass(slots=True)
class _Reader:
    """Reads a step sentence by sentence; ``topic`` is what a following "yes", "no" or "that" is about."""

    asserted: _Statements = field(default_factory=_Statements)
    renewed: _Statements = field(default_factory=_Statements)
    denied: list[Equation] = field(default_factory=list)
    denied_values: list[str] = field(default_factory=list)
    denial: Denial | None = None
    withdrew: bool = False
    confirmed: bool = False
    nominated: bool = False
    topic: tuple[Equation, ...] = ()
    asked: bool = False
    asked_if_wrong: bool = False

    def read(self, sentence: str) -> None:
        equations = tuple(
            e for e in extract_equations(sentence) if not stands_before(markers.SUPPOSES, sentence, e.start)
        )
        self.nominated = self.nominated or markers.NOMINATES.search(sentence) is not None
        wrong = self._says_wrong(sentence)
        if not self.nominated:
            self._assert(equations)
        elif sentence.endswith("?"):
            self.asked, self.topic = True, equations[-_MAX_TOPIC:] or self.topic
            self.asked_if_wrong = markers.CALLS_WRONG.search(sentence) is not None
        elif wrong is not None:
            self._call_wrong(sentence, wrong, equations)
        elif self.asked and (markers.YES if self.asked_if_wrong else markers.NO).match(sentence):
            self.asked = False
            self._deny(self.topic, Denial.POINTING)
            self._assert(self._replacement(sentence, self._contrast(sentence, equations)))
        else:
            kept = self._replacement(sentence, self._contrast(sentence, equations))
            self._assert(kept, considered=markers.HEDGES.search(sentence) is not None)
            right = markers.CALLS_RIGHT.search(sentence) or markers.NOT_WRONG.search(sentence)
            if right or (self.asked and markers.NO.match(sentence)):
                self._confirm()

    def _says_wrong(self, sentence: str) -> re.Match[str] | None:
        """The verdict of the sentence; "A is wrong" says more than the "I made a mistake" in front of it."""
        verdicts = list(markers.CALLS_WRONG.finditer(sentence))
        wrong = next((v for v in verdicts if v["predicate"]), verdicts[0] if verdicts else None)
        if wrong is None or markers.NOT_WRONG.search(sentence) or markers.HEDGES.search(sentence, 0, wrong.end()):
            return None
        return wrong

    def _call_wrong(self, sentence: str, wrong: re.Match[str], equations: tuple[Equation, ...]) -> None:
        """ "A = b is wrong, because A = c": what stands before the verdict is denied, what follows is asserted.

        "I made a mistake in A = b": the object of the admission is denied.
        """
        before = tuple(e for e in equations if e.end <= wrong.start())
        after = self._contrast(sentence, tuple(e for e in equations if e.end > wrong.start()))
        if wrong["admission"] and not before:
            after = after or tuple(e for e in extract_equations(sentence) if e.start > wrong.end())
            gap = markers.ADMITTED_OBJECT.match(sentence, wrong.end())
            if after and gap and gap.end() == after[0].start:
                before, after = after[:1], after[1:]
        values = list(EXPRESSION.finditer(sentence, 0, wrong.start()))
        if before:
            self._deny(before, Denial.QUOTED)
        elif not wrong["admission"] and values and not sentence[values[-1].end() : wrong.start()].strip(" ,'\"."):
            self.denied_values.append(normalise(values[-1][0]))
            self.denial = Denial.QUOTED
        elif not self.denied_values or self.denial is not Denial.QUOTED:
            past = re.search(r"\b(?:was|were)\b", wrong[0]) is not None
            pointing = not wrong["admission"] and markers.POINTS_BACK.search(sentence, 0, wrong.end()) is not None
            # "Let me recompute: … So that was wrong" is about earlier work, not about the new result.
            about = () if past and self.renewed else self.topic
            self._deny(about if pointing else (), Denial.POINTING if pointing else Denial.ADMITTED)
        self._assert(self._replacement(sentence[wrong.end() :], after))

    def _replacement(self, sentence: str, equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
        """ "It should be 6" after "8 * 2 = 4 is wrong" asserts 8 * 2 = 6."""
        found = None if equations or not self.denied else markers.PUTS_INSTEAD.search(sentence)
        value = EXPRESSION.match(sentence, found.end()) if found else None
        return (Equation(self.denied[-1].lhs, normalise(value[0])),) if value else equations

    def _contrast(self, sentence: str, equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
        """Take out what is set aside: "A = c, not b", "c instead of b", "A = c instead of A = b"."""
        aside = [stands_before(markers.SETS_ASIDE, sentence, e.start) for e in equations]
        kept = [e for e, out in zip(equations, aside, strict=True) if not out]
        denied = [e for e, out in zip(equations, aside, strict=True) if out]
        starts, kept_ends = [e.start for e in equations], [e.end for e in kept]
        replaces = _REPLACES.search(sentence) is not None
        for value in EXPRESSION.finditer(sentence):
            if not any(c.isdigit() for c in value[0]):
                continue  # "x is not a root" sets nothing aside: only what holds a number is taken for a value
            within = bisect_right(starts, value.start()) - 1
            if within >= 0 and value.start() < equations[within].end:
                continue
            if not stands_before(markers.SETS_ASIDE, sentence, value.start()):
                continue
            before = bisect_right(kept_ends, value.start()) - 1
            if before >= 0:
                denied.append(Equation(kept[before].lhs, normalise(value[0])))
            elif replaces:
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
        """ "Yes, that is right" after a doubt takes the doubt back; after a replacement it is about that."""
        self.confirmed = True
        if self.denial is not Denial.QUOTED and not self.renewed:
            self.denial = None
        if self.asked and not self.denied:
            self.asserted.state(self.topic)
            self.renewed.state(self.topic)
        self.asked = False


def read_step(text: str) -> Reading:
    """Read one step. The time is linear in its length, but for sorting its equations."""
    flat = flatten(text)
    reader = _Reader()
    for sentence in _SENTENCE_END.split(flat):
        if sentence.strip():
            reader.read(sentence.strip())
    if not reader.nominated:
        stance = Stance.NONE
    elif reader.denial is not None:
        stance = Stance.CORRECTS
    else:
        stance = Stance.CONFIRMS if reader.confirmed else Stance.OPEN
    return Reading(
        stance,
        reader.asserted.in_order(),
        reader.renewed.in_order(),
        tuple(reader.denied),
        tuple(reader.denied_values),
        reader.denial,
        reader.withdrew,
        flat,
    )
