"""Find the program that an answer block gives: its last fenced block in Python."""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*")
_PYTHON = frozenset({"python", "python3", "py", "py3", "python-3"})


def last_program(text: str) -> str | None:
    """Return the content of the last block fenced as Python, or else of the last one that names no language.

    A block that never closes is none: the solution was cut off.

    >>> last_program("So:\\n```python\\nprint(1)\\n```\\nIt prints\\n```\\n1\\n```\\n")
    'print(1)\\n'
    """
    programs: list[str] = []
    unnamed: list[str] = []
    opened: tuple[str, str] | None = None
    content: list[str] = []
    for line in text.splitlines(keepends=True):
        fence = _FENCE.fullmatch(line.rstrip())
        if opened is None:
            if fence is not None:
                opened, content = (fence[1], fence[2].lower().strip("{.}")), []
        elif fence is not None and fence[1].startswith(opened[0]) and not fence[2]:
            if opened[1] in _PYTHON:
                programs.append("".join(content))
            elif not opened[1]:
                unnamed.append("".join(content))
            opened = None
        else:
            content.append(line)
    return (programs or unnamed or [None])[-1]
