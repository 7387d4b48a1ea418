r"""Normalise the notation of answers that differ only in layout: Unicode, spacing, fonts, TeX's short forms.

``canonical`` parses TeX as TeX does: tokens, groups, arguments. It never computes or guesses, and keeps what it does not
know. So two texts with the same canonical form are the same answer; two with different forms need not be different answers.
It takes time linear in the text, and nesting is limited.

In a canonical text

- ``\dfrac``, ``\tfrac``, ``\left``, ``\!``, ``\displaystyle``, ``$`` and fonts are removed or replaced; arguments have
  braces (``\frac12`` becomes ``\frac{1}{2}``, ``x^2`` becomes ``x^{2}``); other braces are removed;
- a struck relation is its own command: ``\not=`` becomes ``\neq``, ``\not\in`` ``\notin``;
- words are ``\text{words}``, whatever text command they were in; an upright ``i`` or ``e`` is the letter;
- any space becomes a single space, any wide space ``\quad``;
- full-width, superscript and mathematical characters of Unicode become their ASCII or TeX equivalents.
"""

from __future__ import annotations

import re

from lit_tpgrpo.text.characters import plain_characters

MAX_DEPTH = 60
"""Maximum depth of nested groups; the deepest gold of MATH has 5."""

_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\s+|.", re.DOTALL)

_SAME_COMMAND = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\le": r"\leq", r"\leqslant": r"\leq",
    r"\ge": r"\geq", r"\geqslant": r"\geq", r"\ne": r"\neq", r"\lt": "<", r"\gt": ">",
    r"\varnothing": r"\emptyset", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\times": r"\cdot", r"\ast": r"\cdot",
    r"\vert": "|", r"\lvert": "|", r"\rvert": "|", r"\|": r"\Vert", r"\mid": "|", r"\colon": ":", r"\lbrack": "[",
    r"\rbrack": "]", r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\land": r"\wedge", r"\to": r"\rightarrow",
    r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\approxeq": r"\approx", r"\thickapprox": r"\approx",
    r"\simeq": r"\approx", r"\imath": "i", r"\R": r"\mathbb{R}", r"\reals": r"\mathbb{R}", r"\Reals": r"\mathbb{R}",
    r"\i": "i", r"\backslash": r"\setminus", r"\iff": r"\Leftrightarrow", r"\lnot": r"\neg", r"\bmod": r"\mod",
}  # fmt: skip
_SPACE = {r"\ ", r"\,", r"\;", r"\:", r"\>", "~", r"\thinspace", r"\medspace", r"\thickspace", r"\enspace"}
_WIDE = {r"\quad", r"\qquad", r"\hfill", r"\\"}
_NOTHING = {
    "$", r"\(", r"\)", r"\[", r"\]", r"\!", r"\left", r"\right", r"\middle", r"\displaystyle", r"\textstyle",
    r"\limits", r"\nolimits", r"\scriptstyle", r"\rm", r"\bf", r"\it", r"\cal", r"\boldmath", r"\strut", r"\/",
    *(rf"\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")),
}  # fmt: skip
_WORDS = {rf"\{name}" for name in (
    "text", "textrm", "textbf", "textit", "textnormal", "textsf", "texttt", "textup", "mbox", "hbox", "mathrm",
    "mathbf", "mathit", "mathsf", "mathtt", "operatorname", "operatorname*", "emph", "boldsymbol", "bm", "mathnormal",
)}  # fmt: skip
_TRANSPARENT = {r"\boxed", r"\fbox", r"\mathop", r"\mathord", r"\mathbin", r"\mathrel", r"\ensuremath"}
_INVISIBLE = {r"\phantom", r"\hphantom", r"\vphantom", r"\hspace", r"\hspace*", r"\vspace", r"\label", r"\color"}
_ARGUMENTS = (
    {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, r"\pmod": 1, r"\mathbb": 1, r"\mathcal": 1}
    | dict.fromkeys((r"\overline", r"\bar", r"\vec", r"\hat", r"\widehat", r"\tilde", r"\widetilde", r"\underline"), 1)
    | dict.fromkeys((r"\overrightarrow", r"\mathfrak", r"\mathscr", r"\begin", r"\end", r"\dot", r"\ddot"), 1)
)
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "max", "min", "gcd", "lcm", "arcsin", "arccos",
              "arctan", "sinh", "cosh", "tanh", "det", "deg", "lim", "arg", "dim", "ker", "inf", "sup"}  # fmt: skip

_NEGATED = {
    "=": r"\neq", "<": r"\nless", ">": r"\ngtr", r"\leq": r"\nleq", r"\geq": r"\ngeq", r"\in": r"\notin", r"\cong": r"\ncong",
    r"\approx": r"\napprox", r"\equiv": r"\nequiv",
}  # fmt: skip
_STRUCK = re.compile(r"\\not *+([=<>]|\\(?:leq|geq|in|cong|approx|equiv)(?![A-Za-z]))")

Node = str | list["Node"]


class Unreadable(ValueError):
    """The text cannot be read as TeX: braces do not match, or groups are nested too deeply."""


def canonical(text: str) -> str:
    r"""Return the canonical form of an answer; see the module.

    Raises:
        Unreadable: braces do not match, or groups are nested too deeply.

    >>> print(canonical(r"$\dfrac12$"))
    \frac{1}{2}
    """
    return _tidy(_STRUCK.sub(_negated, _render(_grouped(plain_characters(text)), depth=0)))


def layout_key(canonical_text: str) -> str:
    r"""Return a key that is equal for two canonical texts exactly if they look the same.

    It has no spaces except between two digits, and ``2x`` for ``2\cdot x``.
    """
    text = _CDOT.sub("", canonical_text)
    return _DIGIT_GAP.sub("\0", text).replace(" ", "").replace("\0", " ")


def _negated(struck: re.Match[str]) -> str:
    return f"{_NEGATED[struck[1]]} "


_CDOT = re.compile(r"(?<=[0-9A-Za-z}]) ?\\cdot ?(?=[A-Za-z\\])|(?<=[A-Za-z}]) ?\\cdot ?(?=[0-9A-Za-z\\])")
_DIGIT_GAP = re.compile(r"(?<=[0-9]) (?=[0-9])")


def _grouped(text: str) -> list[Node]:
    """Parse a text into tokens, with groups ``{...}`` as nested lists."""
    stack: list[list[Node]] = [[]]
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "{":
            if len(stack) > MAX_DEPTH:
                raise Unreadable("expected an answer with fewer nested groups")
            stack.append([])
        elif token == "}":
            if len(stack) == 1:
                raise Unreadable("expected matching braces, got a closing one without an opening one")
            group = stack.pop()
            stack[-1].append(group)
        elif token.isspace():
            stack[-1].append(" ")
        elif token == "\\":
            raise Unreadable("expected a command after a backslash, got the end of the text")
        else:
            stack[-1].append(_SAME_COMMAND.get(token, token))
    if len(stack) > 1:
        raise Unreadable("expected matching braces, got one that never closes")
    return stack[0]


class _NotationScanner:
    """Scanner of nodes; as in TeX, an argument is one token or one group, after skipped spaces."""

    def __init__(self, nodes: list[Node], depth: int) -> None:
        self.nodes = nodes
        self.position = 0
        self.depth = depth

    def __bool__(self) -> bool:
        return self.position < len(self.nodes)

    def take(self) -> Node:
        self.position += 1
        return self.nodes[self.position - 1]

    def skip_space(self) -> None:
        while self and not isinstance(node := self.nodes[self.position], list) and (node == " " or node in _NOTHING):
            self.position += 1

    def argument(self) -> str:
        """Read and render a command's argument; return "" at the end of the text."""
        self.skip_space()
        if not self:
            return ""
        node = self.take()
        if isinstance(node, list):
            return _render(node, self.depth + 1).strip()
        if not node.startswith("\\"):
            return node
        if self.depth >= MAX_DEPTH:  # \sqrt\sqrt\sqrt...
            raise Unreadable("expected an answer with fewer nested arguments")
        self.depth += 1
        rendered = _command(node, self)
        self.depth -= 1
        return rendered.strip()

    def optional(self) -> str:
        """Read an optional argument such as the ``[3]`` of a root, with its brackets; return "" if there is none."""
        self.skip_space()
        window = self.nodes[self.position : self.position + MAX_DEPTH]
        if not window or window[0] != "[" or "]" not in window:
            return ""
        end = window.index("]")
        self.position += end + 1
        return f"[{_render(window[1:end], self.depth + 1).strip()}]"


def _render(nodes: list[Node], depth: int) -> str:
    if depth > MAX_DEPTH:
        raise Unreadable("expected an answer with fewer nested groups")
    scanner = _NotationScanner(nodes, depth)
    parts: list[str] = []
    while scanner:
        node = scanner.take()
        if isinstance(node, list):
            part = _render(node, depth + 1)
        elif node.startswith("\\"):
            part = _command(node, scanner)
        elif node in "^_":
            part = _script(node, scanner)
        else:
            part = "" if node in _NOTHING else " " if node in _SPACE else r"\cdot " if node == "*" else node
        # Separate a command's name from a letter that follows it.
        if parts and part[:1].isalpha() and _ends_in_command(parts[-1]):
            part = " " + part
        if part:
            parts.append(part)
    return "".join(parts)


def _ends_in_command(text: str) -> bool:
    """Return whether a letter appended to ``text`` would become part of a command's name."""
    name = text.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") if text[-1:].isalpha() else text
    return name != text and name.endswith("\\")


def _script(mark: str, scanner: _NotationScanner) -> str:
    argument = scanner.argument()
    if argument == r"\prime":
        return "'"
    if mark == "^" and argument in (r"\circ", r"\degree", "o"):
        return r"^{\circ}"
    return f"{mark}{{{argument}}}"


def _command(name: str, scanner: _NotationScanner) -> str:
    if name in _NOTHING or name == r"\limits":
        return ""
    if name in _SPACE:
        return " "
    if name in _WIDE:
        return r"\\" if name == r"\\" else r"\quad "
    if name == r"\degree":
        return r"^{\circ}"
    if name in _INVISIBLE:
        scanner.argument()
        return ""
    if name in _TRANSPARENT:
        return scanner.argument()
    if name in _WORDS:
        return _words(name, scanner)
    if name in _ARGUMENTS:
        option = scanner.optional() if name == r"\sqrt" else ""
        return name + option + "".join(f"{{{scanner.argument()}}}" for _ in range(_ARGUMENTS[name]))
    return f"{name} " if name[1:].isalpha() and scanner and scanner.nodes[scanner.position] == " " else name


def _words(name: str, scanner: _NotationScanner) -> str:
    r"""Render a text command: single letters and numbers as in a formula, functions as commands, words as ``\text{}``."""
    scanner.skip_space()
    node = scanner.take() if scanner else ""
    raw = _render(node, scanner.depth + 1) if isinstance(node, list) else node
    inner = raw.strip()
    upright = name not in (r"\text", r"\textrm", r"\mbox", r"\hbox", r"\textnormal")
    if inner in _FUNCTIONS and upright:
        return f"\\{inner} "
    if not any(letter.isalpha() for letter in inner) or (len(inner) == 1 and upright):
        return raw
    if "\\" in inner and not inner.startswith(r"\text"):
        return inner  # a formula in bold type
    before, after = (" " if raw[:1].isspace() else ""), (" " if raw[-1:].isspace() else "")
    inner = inner.removeprefix(r"\text{").removesuffix("}") if inner.startswith(r"\text{") else inner
    return f"{before}\\text{{{' '.join(inner.split())}}}{after}"


_SPACES = re.compile(r" +")
_BREAKS = (r"\quad", r"\\")
_WIDE_SPACES = re.compile(r"(?:(?:\\quad|\\\\)\s*+)*+")


def _tidy(text: str) -> str:
    """Reduce spaces to single ones, strip both ends, and remove one full stop, comma or semicolon at the end."""
    text = _SPACES.sub(" ", text).strip()
    text = text[_WIDE_SPACES.match(text).end() :]  # pyright: ignore[reportOptionalMemberAccess]
    end = len(text)
    while text.endswith(_BREAKS, 0, end) and not text.endswith(r"\\\\", 0, end):
        for mark in _BREAKS:
            end -= len(mark) if text.endswith(mark, 0, end) else 0
        while end and text[end - 1].isspace():
            end -= 1
    text = text[:end]
    if text.endswith((".", ",", ";")) and text[-2:-1] not in (".", "\\", ","):
        text = text[:-1].rstrip()
    return text
