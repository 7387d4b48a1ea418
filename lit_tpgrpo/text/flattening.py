"""Convert LaTeX and Markdown in running text to plain text, from which equations are extracted.

The rewrites are applied in order, each to the whole text. A rewrite is skipped where the text has none of its signs: it
would change nothing there, and most texts have few signs. Looking for a sign takes a tenth of the time of a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Rewrite = tuple[tuple[str, ...], re.Pattern[str], str | Callable[[re.Match[str]], str]]
"""Signs, pattern, replacement: all that the pattern matches contains at least one of the signs."""

_GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma phi omega Delta Omega"
_GREEK: dict[str, str] = dict(zip(_GREEK_NAMES.split(), "αβγδεθλμπρσφωΔΩ", strict=True))
# The order matters: escaped symbols come before the signs that they contain. Patterns begin with a character or a class,
# not with a condition on what precedes them: ``re`` then skips to the next place where they can match.
_BEFORE_THOUSANDS: tuple[Rewrite, ...] = (
    ((r"\$", r"\%"), re.compile(r"\\[$%]"), lambda m: "%" if m[0] == r"\%" else ""),
    ((r"\*", r"\_"), re.compile(r"\\([*_])"), lambda m: m[1]),  # Markdown's escapes
    (("**",), re.compile(r"\*\*(?:(?<!\S\*\*)(?=\S)|(?<=\S\*\*)(?=[\s.,;:!?)]|$))"), " "),  # bold type in Markdown
    ((r"\circ",), re.compile(r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![a-zA-Z]))"), "°"),
    (("‘", "’"), re.compile(r"[‘’]"), "'"),
    (("−", "–"), re.compile(r"[−–]"), "-"),
)
_AFTER_THOUSANDS: tuple[Rewrite, ...] = (
    (
        (r"\left", r"\right", r"\displaystyle", r"\b", r"\B"),
        re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])"),
        "",
    ),
    ((r"\\",), re.compile(r"\\\\(?:\[[^\]\n]{0,20}\])?"), "\n"),
    (("$", "&", "~", "\\"), re.compile(r"[\\$&~](?:(?<=[$&~])|(?<=\\)(?:[()\[\],;:! ]|q?quad\b))"), " "),
    (("**",), re.compile(r"\*\*"), "^"),
    ((r"\times", r"\cdot", r"\ast", "×", "·", "∙"), re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·∙]"), "*"),
    ((r"\div", "÷"), re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    ((r"\equiv",), re.compile(r"\\equiv(?![a-zA-Z])"), "≡"),
    ((r"\approx", "≈"), re.compile(r"\\approx(?![a-zA-Z])|≈"), "="),
    ((r"\n", "!="), re.compile(r"\\(?:neq?|not\s*=)(?![a-zA-Z])|!=(?=\s)"), "≠"),
    ((r"\pmod", r"\bmod", r"\mod"), re.compile(r"\\[pb]?mod(?![a-zA-Z])"), " mod "),
    (("\\",), re.compile(r"\\(" + "|".join(_GREEK) + r")(?![a-zA-Z])\s?"), lambda m: _GREEK[m[1]]),
)
# Applied from the innermost braces outwards. Functions: ``re`` reads a template with groups once more for each match.
_GROUPS: tuple[Rewrite, ...] = (
    (("frac",), re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), lambda m: f"(({m[1]})/({m[2]}))"),
    (("frac",), re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), lambda m: f"({m[1]}/{m[2]})"),
    (("sqrt",), re.compile(r"\\sqrt\s*\{([^{}]*)\}"), lambda m: f"sqrt({m[1]})"),
    (
        ("box", "text", "math", "operatorname"),
        re.compile(r"\\(?:boxed|fbox|text\w*|math\w+|operatorname)\s*\{([^{}]*)\}"),
        lambda m: f" {m[1]} ",
    ),
    (("^",), re.compile(r"\^\s*\{([^{}]*)\}"), lambda m: f"^({m[1]})"),
    (("_",), re.compile(r"_\s*\{([^{}]*)\}"), lambda m: "_" + _NO_LETTER.sub("", m[1])),
)
_NO_LETTER = re.compile(r"\W")
_COMMAND = re.compile(r"\\(?=[a-zA-Z])")
# A probe is cheaper than its pattern, which needs it: a comma before a digit or brace, a single x.
_COMMA, _THOUSANDS = re.compile(r",(?=[\d}])"), re.compile(r"[{,](?:(?<=\{),\}|(?<=\d,)(?=\d{3}(?!\d)))")
_X, _TIMES = re.compile(r"x(?<=\sx)\s"), re.compile(r"\s(?<=\d\s)\s*x\s+(?=\d)")
_MAX_NESTING = 8


def _possible(rewrites: tuple[Rewrite, ...], tex: bool, plain: bool) -> tuple[Rewrite, ...]:
    """Return the rewrites, with those of their signs that a text with or without backslashes, all ASCII or not, can have."""
    kept = (
        (tuple(sign for sign in signs if (tex or "\\" not in sign) and (sign.isascii() or not plain)), pattern, new)
        for signs, pattern, new in rewrites
    )
    return tuple(rewrite for rewrite in kept if rewrite[0])


# By whether a text has a backslash, and whether it is all ASCII. No rewrite adds a backslash, or another's sign beyond ASCII.
_BOTH = (False, True)
_FIRST = tuple(tuple(_possible(_BEFORE_THOUSANDS, tex, plain) for plain in _BOTH) for tex in _BOTH)
_SECOND = tuple(tuple(_possible(_AFTER_THOUSANDS, tex, plain) for plain in _BOTH) for tex in _BOTH)


def flatten(text: str) -> str:
    """Convert LaTeX to plain text: ``\\( \\frac{1}{5} \\times 10 = 2 \\)`` becomes ``((1)/(5)) * 10 = 2`` and spaces."""
    tex, plain = "\\" in text, text.isascii()
    text = _apply(_FIRST[tex][plain], text)
    if _COMMA.search(text):
        text = _THOUSANDS.sub("", text)
    text = _apply(_SECOND[tex][plain], text)
    if "x" in text and _X.search(text):
        text = _TIMES.sub("*", text)
    for _ in range(_MAX_NESTING):
        if "{" not in text and "frac" not in text:
            break
        before = text
        text = _apply(_GROUPS, text)
        if text == before:
            break
    return _COMMAND.sub("", text) if tex else text


def _apply(rewrites: tuple[Rewrite, ...], text: str) -> str:
    for signs, pattern, new in rewrites:
        for sign in signs:
            if sign in text:
                text = pattern.sub(new, text)
                break
    return text
