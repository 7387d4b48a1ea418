"""A step that is parsed as far as is asked: most questions about a solution need few of its steps' statements."""

from __future__ import annotations

import re

from lit_tpgrpo.text.flattening import flatten
from lit_tpgrpo.text.reflections import Reading, read_plainly, read_reflection, reflecting

_WITHOUT_SKIPPED = str.maketrans(dict.fromkeys("(){}*$"))


class StepText:
    """The text of a step, flattened, and its reading once somebody asks for it.

    Args:
        text: the step as written.
    """

    __slots__ = ("_patterns", "_reading", "_squeezed", "flat", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.flat = flatten(text)
        self._patterns: list[re.Pattern[str]] | None = None
        self._reading: Reading | None = None
        self._squeezed: str | None = None

    def reflects(self) -> bool:
        """Return whether the step has a marker word, so that its stance is not NONE."""
        if self._patterns is None:
            self._patterns = reflecting(self.flat)
        return bool(self._patterns)

    def reading(self) -> Reading:
        """Return ``read_step(text)``."""
        if self._reading is None:
            reflects = self.reflects()
            self._reading = read_reflection(self.flat, self._patterns or ()) if reflects else read_plainly(self.flat)
        return self._reading

    def may_state(self, squeezed: str) -> bool:
        """Return whether the step may state an expression whose normal form becomes this by ``squeeze``."""
        if self._squeezed is None:
            self._squeezed = squeeze(self.flat)
        return squeezed in self._squeezed


def squeeze(text: str) -> str:
    """Leave out white space, brackets, ``*`` and ``$``.

    What an expression becomes by ``normalise`` and ``squeeze`` is part of any squeezed text that contains the expression. So a
    text whose squeezed form lacks it does not state it, which takes a fraction of the time of parsing the text.

    >>> squeeze("So (2) * 3 = 6.")
    'So23=6.'
    """
    return "".join(text.split()).translate(_WITHOUT_SKIPPED)
