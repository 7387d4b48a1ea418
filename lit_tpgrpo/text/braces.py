r"""Remove the braces of TeX that change nothing: ``{a}+{b}``, ``x^{2}``, ``\frac{1}{2}``.

As TeX reads it, the argument of a command or script is one token or one group: ``\frac{1}{23}`` and ``\frac1{23}`` are the
same, ``\frac{12}{3}`` is not. So an argument needs braces exactly if it is not one token, or one command with its arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_ROOT = r"\sqrt"
_ARGUMENTS = dict.fromkeys((r"\frac", r"\binom", r"\overset", r"\underset", r"\stackrel"), 2) | dict.fromkeys((
    "^", "_", _ROOT, r"\pmod", r"\mathbb", r"\mathcal", r"\mathfrak", r"\mathscr", r"\begin", r"\end", r"\overline",
    r"\underline", r"\bar", r"\vec", r"\hat", r"\widehat", r"\tilde", r"\widetilde", r"\dot", r"\ddot", r"\overrightarrow",
    r"\overleftarrow", r"\overbrace", r"\underbrace", r"\boxed", r"\cancel", r"\not",
), 1)  # fmt: skip


@dataclass
class _Group:
    """A group that has begun: where its brace is in the output, and whether it is an argument."""

    brace: int
    is_argument: bool
    units: int = 0  # tokens, a command or script counted once with its arguments
    awaited: list[int] = field(default_factory=list)  # arguments that commands still lack, the innermost command last
    in_option: bool = False

    def take_argument(self) -> bool:
        """Return whether a token or group is an argument; it is one less that is awaited."""
        if not self.awaited or self.in_option:
            return False
        self.awaited[-1] -= 1
        while self.awaited and not self.awaited[-1]:
            self.awaited.pop()
        return True


def without_needless_braces(text: str) -> str:
    r"""Return the text without the braces that change nothing, and without those that do not match.

    Nor has it spaces after an argument, where TeX sees its end without them: ``x^2 3`` is ``x^{2}3``. Commands that are not
    known take no argument. Takes time linear in the text.

    >>> print(without_needless_braces(r"{a}^{2}+\frac{1}{23}+\sqrt[3]{\frac12}"))
    a^2+\frac1{23}+\sqrt[3]\frac12
    """
    output: list[str] = []
    groups = [_Group(0, False)]
    last, after_argument = "", False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.isspace():
            if not after_argument:
                output.append(token)
            continue
        if token == "{":
            groups.append(_Group(len(output), groups[-1].take_argument()))
            output.append("")
            after_argument = False
        elif token == "}":
            after_argument = _close(groups, output)
        else:
            output.append(token)
            after_argument = _read(token, last, groups[-1])
        last = token
    while len(groups) > 1:
        _close(groups, output)
    return "".join(output)


def _read(token: str, last: str, group: _Group) -> bool:
    """Take a token for what it is in its group: in an option of a root, an argument, or a unit; return whether an argument."""
    if token == "[" and last == _ROOT:
        group.in_option = True
        return False
    if group.in_option:
        group.in_option = token != "]"
        return False
    is_argument = group.take_argument()
    group.units += not is_argument
    if token in _ARGUMENTS:
        group.awaited.append(_ARGUMENTS[token])
    return is_argument


def _close(groups: list[_Group], output: list[str]) -> bool:
    """End the innermost group, if one has begun; return whether it is an argument."""
    if len(groups) == 1:
        return False
    closed = groups.pop()
    if not closed.is_argument:
        groups[-1].units += 0 if groups[-1].in_option else closed.units
    elif closed.units != 1:
        output[closed.brace] = "{"
        output.append("}")
    return closed.is_argument
