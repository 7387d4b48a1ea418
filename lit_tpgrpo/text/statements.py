"""Collect the statements of a step in order while it is parsed; each may be withdrawn."""

from __future__ import annotations

from lit_tpgrpo.text.equations import Equation


class Statements:
    """Equations in the order in which they were stated; withdrawing one takes constant time."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], list[tuple[int, Equation]]] = {}
        self._stated = 0

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def state(self, equations: tuple[Equation, ...]) -> None:
        """Append equations."""
        for equation in equations:
            self._by_key.setdefault(equation.key, []).append((self._stated, equation))
            self._stated += 1

    def withdraw(self, equations: tuple[Equation, ...]) -> bool:
        """Remove all statements equal to one of the equations; return whether there were any."""
        removed = [self._by_key.pop(equation.key, None) for equation in equations]
        return any(removed)

    def in_order(self) -> tuple[Equation, ...]:
        """Return the statements that were not withdrawn, in order."""
        numbered = sorted((pair for same in self._by_key.values() for pair in same), key=lambda pair: pair[0])
        return tuple(equation for _, equation in numbered)
