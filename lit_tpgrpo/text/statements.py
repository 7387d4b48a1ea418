"""What a step asserts, while it is read: statements in order, each of which may be taken back."""

from __future__ import annotations

from lit_tpgrpo.text.equations import Equation


class Statements:
    """Equations in the order in which they were stated. Withdrawing one does not look at the others."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], list[tuple[int, Equation]]] = {}
        self._stated = 0

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def state(self, equations: tuple[Equation, ...]) -> None:
        """Add equations after all others."""
        for equation in equations:
            self._by_key.setdefault(equation.key, []).append((self._stated, equation))
            self._stated += 1

    def withdraw(self, equations: tuple[Equation, ...]) -> bool:
        """Take out all that equal one of these; whether there were any."""
        found = [self._by_key.pop(equation.key, None) for equation in equations]
        return any(found)

    def in_order(self) -> tuple[Equation, ...]:
        """All that were stated and not withdrawn."""
        placed = sorted((p for same in self._by_key.values() for p in same), key=lambda p: p[0])
        return tuple(equation for _, equation in placed)
