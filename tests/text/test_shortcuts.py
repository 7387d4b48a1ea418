"""What the readers skip changes nothing: each shortcut against the plain way that it saves, on real and on random text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.judge_report import writer_samples
from lit_tpgrpo.judges.audit_sets import read_mrben, read_prmbench
from lit_tpgrpo.text import equations, flattening, markers, reflections
from lit_tpgrpo.text.equations import Equation, extract_equations, find_expressions
from lit_tpgrpo.text.flattening import flatten
from lit_tpgrpo.text.reflections import read_step
from tests.real_data import SAMPLE

GREEK = dict(zip(flattening._GREEK_NAMES.split(), "αβγδεθλμπρσφωΔΩ", strict=True))
SYMBOLS = (
    (r"\\[$%]", lambda m: "%" if m[0] == r"\%" else ""),
    (r"\\([*_])", r"\1"),
    (r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?)]|$)", " "),
    (r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![a-zA-Z]))", "°"),
    (r"[‘’]", "'"),
    (r"[−–]", "-"),
    (r"\{,\}|(?<=\d),(?=\d{3}(?!\d))", ""),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"\\\\(?:\[[^\]\n]{0,20}\])?", "\n"),
    (r"\\(?:[()\[\],;:! ]|q?quad\b)|[$&~]", " "),
    (r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·∙]|\*\*?", lambda m: "^" if m[0] == "**" else "*"),
    (r"\\div(?![a-zA-Z])|÷", "/"),
    (r"\\equiv(?![a-zA-Z])", "≡"),
    (r"\\approx(?![a-zA-Z])|≈", "="),
    (r"\\(?:neq?|not\s*=)(?![a-zA-Z])|!=(?=\s)", "≠"),
    (r"\\(?:pmod|bmod|mod)(?![a-zA-Z])", " mod "),
    (r"\\(" + "|".join(GREEK) + r")(?![a-zA-Z])\s?", lambda m: GREEK[m[1]]),
    (r"(?<=\d)\s+x\s+(?=\d)", "*"),
)
GROUPS = (
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\[dt]?frac\s*(\d)\s*(\d)", r"(\1/\2)"),
    (r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)"),
    (r"\\(?:boxed|fbox|text\w*|math\w+|operatorname)\s*\{([^{}]*)\}", r" \1 "),
    (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
    (r"_\s*\{([^{}]*)\}", lambda m: "_" + re.sub(r"\W", "", m[1])),
)


def plain_flatten(text: str) -> str:
    """Apply all rewrites to the whole text, whatever is in it."""
    for pattern, new in SYMBOLS:
        text = re.sub(pattern, new, text)
    for _ in range(8):
        for pattern, new in GROUPS:
            text = re.sub(pattern, new, text)
    return re.sub(r"\\([a-zA-Z]+)", r"\1", text)


def plain_normalise(expression: str) -> str:
    text = re.sub(r"\s+", "", expression).rstrip(".,;:")
    for _ in range(8):
        text = re.sub(r"(?<![\w)])\((-?(?:\d+(?:\.\d+)?[%°]?|[A-Za-zα-ωΔΩ]))\)(?![\w(^])", r"\1", text)
        text = re.sub(r"\(\(([^()]*)\)\)", r"(\1)", text)
        if text.startswith("(") and text.endswith(")") and equations._closes_at_end(text):
            text = text[1:-1]
    return re.sub(r"(?<=[\w)])\*(?=[A-Za-zα-ωΔΩ(])", "", text)


def begins_plainly(flat: str, match: re.Match[str]) -> bool:
    before = flat[max(0, match.start() - 24) : match.start()]
    if match[0][0] == "(" and equations._CALLED.search(before):
        return False
    if equations._NAME_ALONE.fullmatch(match[0]) and equations._CUT_BEFORE_NAME.search(before):
        return False
    return equations._CUT_BEFORE.search(before) is None or equations._ITEM_MARK.search(before) is not None


def plain_equations(flat: str) -> tuple[Equation, ...]:
    """Find all expressions of the text and keep the neighbours with a sign of equality between them."""
    extracted, previous = [], None
    for match in find_expressions(flat):
        sign = previous and re.compile(r"\s*([=≡])\s*").fullmatch(flat, previous.end(), match.start())
        ends = equations._CUT_AFTER.match(flat, match.end()) is None
        if previous is not None and sign and begins_plainly(flat, previous) and ends:
            sides = plain_normalise(previous[0]), plain_normalise(match[0])
            congruence = sign[1] == "≡" or equations._MODULO.match(flat, match.end()) is not None
            extracted += [Equation(*sides, previous.start(), match.end(), congruence)] if all(sides) else []
        previous = match
    return tuple(extracted)


def real_steps() -> list[str]:
    reports = (
        read_prmbench(SAMPLE.folder / "prmbench_qwq_solutions.jsonl"),
        read_mrben(SAMPLE.folder / "mrben_math.json"),
    )
    steps = [c.solution.text[s.start : s.end] for report in reports for c in report.cases for s in c.steps]
    return steps + [step for _, text in writer_samples("3", 10, 0) for step in text.split("\n\n")]


STEPS = real_steps()
TEX = r"""
\ $ % * _ ** ^ { } [ ] ( ) , 000 1 2 a x ! = . : & ~ \\ \( \, \quad \circ \left \right \times \cdot \neq \not \pmod \mod mod \pi
\alpha \frac \dfrac frac \sqrt \text \boxed \mathrm _{ ^{ {,} {1} != × ≈ − ’ ² é
"""
MATHS = r"""
= = ≡ 1 12 3.14 x y a + - * / ^ ( ) (2) (x) sqrt sin mod times is word so if . , ! % ° ' _ x_1 _total cm π ∞ ² | [ ] { \ … ... I
divided_by ldots (1) f choose _=_ _+_ _mod_ -_ 2_k
"""
WORDS = """
wait Wait, no, No. mistake miſtake wrong incorrect not true right yes ok hm actually should be if maybe might so that error
in_step_4 step recheck re-think let me let's double- instead of rather than forgot because which ? . ! 8*2_=_4 x_=_3 4_is_wrong
,_not_4 that's_right I_made_a_mistake_in ._ ?_ Step_4:_ İf
"""


def pieces(words: str) -> list[str]:
    """Return the words, an underscore as a blank as well, and white space."""
    return [*words.split(), *(word.replace("_", " ") for word in words.split() if "_" in word), " ", "\n", "\t", " x "]


def texts(words: str) -> st.SearchStrategy[str]:
    parts, gaps = st.lists(st.sampled_from(pieces(words)), max_size=16), st.sampled_from(["", " "])
    return st.builds(lambda parts, gap: gap.join(parts), parts, gaps)


@pytest.mark.parametrize("step", STEPS[::7])
def test_real_steps_are_read_as_by_the_plain_way(step: str):
    flat = flatten(step)
    assert flat == plain_flatten(step)
    assert extract_equations(flat) == plain_equations(flat)


@settings(max_examples=400, deadline=None)
@given(text=texts(TEX) | st.text())
def test_a_skipped_rewrite_would_have_changed_nothing(text: str):
    assert flatten(text) == plain_flatten(text)


@settings(max_examples=400, deadline=None)
@given(flat=texts(MATHS) | st.text("=1ax +*(^", max_size=20))
def test_text_away_from_signs_of_equality_adds_no_equation(flat: str):
    assert extract_equations(flat) == plain_equations(flat)


def read_without_stems(step: str, monkeypatch: pytest.MonkeyPatch) -> reflections.Reading:
    """Read a step with every pattern, whether the step has one of its stems or not."""
    with monkeypatch.context() as patch:
        for module in (reflections, markers):
            patch.setattr(module, "has_stem", lambda text, stems: True)
        patch.setattr(markers, "nominating", lambda text: [pattern for _, pattern in markers.NOMINATING])
        return read_step(step)


def test_steps_without_stems_are_read_as_by_all_patterns(monkeypatch):
    for step in STEPS:
        assert read_step(step) == read_without_stems(step, monkeypatch)


@settings(max_examples=400, deadline=None)
@given(step=texts(WORDS))
def test_any_step_is_read_as_by_all_patterns(step: str):
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert read_step(step) == read_without_stems(step, monkeypatch)


STEMS_OF = {name: getattr(markers, name) for name in vars(markers) if name.endswith("_STEMS")}
PATTERNS = {name: getattr(markers, name.removesuffix("_STEMS")) for name in STEMS_OF}
for number, (stems, pattern) in enumerate(markers.NOMINATING):
    STEMS_OF[f"nominating {number}"], PATTERNS[f"nominating {number}"] = stems, pattern


@pytest.mark.parametrize("name", STEMS_OF)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_all_that_a_pattern_matches_has_one_of_its_stems(name: str, data: st.DataObject):
    text = data.draw(st.from_regex(PATTERNS[name]))
    assert markers.has_stem(markers.lower(text), STEMS_OF[name])
    assert "nominating" not in name or PATTERNS[name] in markers.nominating(markers.lower(text))


def test_the_patterns_with_stems():
    assert len(STEMS_OF) == 7 + len(markers.NOMINATING)
