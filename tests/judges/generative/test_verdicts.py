"""The reader of replies: hand-made ones, and fuzzing, which may raise nothing but VerdictError."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.judges.generative import verdicts as v
from lit_tpgrpo.judges.generative.correct import traced_pairs
from lit_tpgrpo.judges.generative.methods import judged_wrong, step_indices
from lit_tpgrpo.judges.generative.segmentation import checked_starts
from lit_tpgrpo.judges.generative.verdicts import VerdictError, read_verdict

ID = "a1b2"
NAMES = (1, 2, 4, 5, 9)
LAST = 10

# What the judge does with each kind of reply about a solution of 10 paragraphs in 5 steps: (form, check).
KINDS: dict[str, tuple[type[v.VerdictModel], Any]] = {
    "segmentation": (v.SegmentationVerdict, lambda x: checked_starts(x.steps, 1, LAST)),
    "reflections": (v.ReflectionsVerdict, lambda x: step_indices(x.reflections, NAMES, 1, LAST)),
    "sources": (v.SourcesVerdict, lambda x: traced_pairs(x, NAMES, (2, 4))),
    "verification": (v.JudgementsVerdict, lambda x: judged_wrong(x, NAMES, (1, 2))),
    "matching": (v.MatchingVerdict, lambda x: step_indices(x.matched, NAMES, 1, LAST)),
    "step": (v.StepVerdict, lambda x: x.wrong),
}
GOOD: dict[str, dict[str, Any]] = {
    "segmentation": {"id": ID, "steps": [[1, 1], [2, 3], [4, 4], [5, 8], [9, 10]]},
    "reflections": {"id": ID, "reflections": [4, 9]},
    "sources": {
        "id": ID,
        "sources": [{"reflection": 4, "intervals": [[1, 3]]}, {"reflection": 9, "intervals": []}],
    },
    "verification": {"id": ID, "judgements": [{"step": 2, "wrong": True}, {"step": 4, "wrong": False}]},
    "matching": {"id": ID, "matched": [2]},
    "step": {"id": ID, "wrong": False},
}


def read(kind: str, text: str) -> Any:
    form, check = KINDS[kind]
    return check(read_verdict(text, form, ID))


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_is_read_however_it_is_wrapped(kind):
    text = json.dumps(GOOD[kind])
    expected = read(kind, text)
    foreign = json.dumps(GOOD[kind] | {"id": "ffff"})
    for wrapped in (
        f"  {text}\n",
        f"```json\n{text}\n```",
        f"```\n{json.dumps(GOOD[kind], indent=2)}\n```",
        f"<think>{foreign} so {text[:-1]}</think>\n{text}",
        f"Here it is: {text}. Done {{",
        f"{foreign}\n{text}",
        f"{text} {text}",
    ):
        assert read(kind, wrapped) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: "The steps look fine to me.", "Invalid JSON"),
        (lambda t: "", "Invalid JSON"),
        (lambda t: t[:-4], "Invalid JSON"),
        (lambda t: t.replace(ID, "ffff"), "answers request ffff"),
        (lambda t: t.replace(ID, "A1B2"), "pattern"),
        (lambda t: t.replace("{", '{"more": 1, ', 1), "Extra inputs"),
        (lambda t: '{"id": "a1b2"}', "Field required"),
        (lambda t: "null", "valid dictionary|object"),
        (lambda t: "x" * (v.MAX_REPLY_CHARS + 1), "characters"),
    ],
)
def test_what_is_no_verdict_is_refused_with_the_reason(kind, spoil, reason):
    with pytest.raises(VerdictError, match=reason):
        read(kind, spoil(json.dumps(GOOD[kind])))


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("reflections", {"reflections": [11]}, "out of bounds"),
        ("reflections", {"reflections": [0]}, "out of bounds"),
        ("reflections", {"reflections": ["4"]}, "valid integer"),
        ("reflections", {"reflections": [True]}, "valid integer"),
        ("reflections", {"reflections": [4.0]}, "valid integer"),
        ("reflections", {"reflections": list(range(1, 402))}, "at most 400"),
        ("matching", {"matched": [-1]}, "greater than or equal"),
        ("segmentation", {"steps": [[1, 5], [5, 10]]}, "overlap at 5"),
        ("segmentation", {"steps": [[1, 4], [6, 10]]}, "gap at 6"),
        ("segmentation", {"steps": [[1, 4], [5, 9]]}, "10 to 10 are left out"),
        ("segmentation", {"steps": [[2, 10]]}, "gap at 2"),
        ("segmentation", {"steps": [[0, 10]]}, "out of bounds"),
        ("segmentation", {"steps": [[1, 10], [11, 12]]}, "out of bounds"),
        ("segmentation", {"steps": [[1, 4, 5]]}, "at most 2"),
        ("segmentation", {"steps": []}, "at least 1"),
        ("sources", {"sources": GOOD["sources"]["sources"][:1]}, "reflection 9 is missing"),
        ("sources", {"sources": GOOD["sources"]["sources"] * 2}, "given twice"),
        ("sources", {"sources": [{"reflection": 2, "intervals": []}]}, "not asked about"),
        ("sources", {"sources": [{"reflection": 0, "intervals": []}]}, "counted from 1"),
        ("sources", {"sources": [{"reflection": 4, "intervals": [[4, 5]]}]}, "does not begin in 1 to 3"),
        ("verification", {"judgements": GOOD["verification"]["judgements"][:1]}, "step 4 is missing"),
        (
            "verification",
            {"judgements": [*GOOD["verification"]["judgements"], {"step": 4, "wrong": True}]},
            "judged both right and wrong",
        ),
        ("verification", {"judgements": [{"step": 2, "wrong": 1}]}, "valid boolean"),
        ("step", {"wrong": "no"}, "valid boolean"),
    ],
)
def test_what_means_nothing_is_refused_with_the_reason(kind, change, reason):
    with pytest.raises(VerdictError, match=reason):
        read(kind, json.dumps(GOOD[kind] | change))


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("segmentation", {"steps": [[5, 10], [1, 4]]}, ((1, 5), 1)),
        ("segmentation", {"steps": [[1, 4], [1, 4], [5, 10]]}, ((1, 5), 1)),
        ("segmentation", {"steps": [[4, 1], [5, 10]]}, ((1, 5), 1)),
        ("segmentation", {"steps": [[1, 4], [5, 99]]}, ((1, 5), 1)),
        ("segmentation", {"steps": [[1, 4], [5, 10]]}, ((1, 5), 0)),
        ("reflections", {"reflections": [3, 10, 2]}, (frozenset({1, 4}), 1)),
        ("reflections", {"reflections": [9, 2]}, (frozenset({1, 4}), 0)),
        ("verification", {"judgements": [{"step": n, "wrong": n == 4} for n in (1, 2, 4)]}, (frozenset({2}), 1)),
    ],
)
def test_what_can_only_mean_one_thing_is_repaired_and_counted(kind, change, expected):
    assert read(kind, json.dumps(GOOD[kind] | change)) == expected


def test_sources_become_pairs_and_are_repaired():
    """Places: 4 is step 2, 9 is step 4 of five. [7, 1] of 9 covers the paragraphs 1 to 7, the steps 0 to 3."""
    found, repairs = read(
        "sources",
        json.dumps(
            {
                "id": ID,
                "sources": [{"reflection": 4, "intervals": [[3, 6]]}, {"reflection": 10, "intervals": [[7, 1]]}],
            }
        ),
    )
    assert found == {2 * 5 + 1, 4 * 5 + 0, 4 * 5 + 1, 4 * 5 + 2, 4 * 5 + 3}
    assert repairs == 3


def test_two_different_verdicts_are_refused():
    with pytest.raises(VerdictError, match="2 different verdicts"):
        read("step", '{"id": "a1b2", "wrong": true} {"id": "a1b2", "wrong": false}')


# ---- fuzzing ----

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 400) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*GOOD["sources"], *GOOD["verification"], "steps", "step", "wrong"]), inner)
    ),
    max_leaves=12,
)
almost_right = st.sampled_from(sorted(GOOD)).flatmap(
    lambda kind: st.builds(
        lambda values: (kind, json.dumps(GOOD[kind] | values)),
        st.dictionaries(st.sampled_from(sorted(GOOD[kind])), json_values, max_size=2),
    )
)


def never_raises_anything_else(kind: str, text: str) -> bool:
    """Whether the reply was usable."""
    try:
        read(kind, text)
    except VerdictError:
        return False
    return True


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.text(alphabet=st.characters(), max_size=200))
def test_any_text(kind, text):
    never_raises_anything_else(kind, text)


@pytest.mark.slow
@settings(max_examples=300)
@given(almost_right)
def test_any_json_that_is_nearly_a_verdict(pair):
    never_raises_anything_else(*pair)


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), json_values, st.text(max_size=20), st.text(max_size=20))
def test_any_json_in_any_prose(kind, value, before, after):
    never_raises_anything_else(kind, before + json.dumps(value) + after)


MARKS = ("{", "[", '"', "</think>", "```", "NaN", "-", "\\u12", "e999")


def damaged(text: str, rng: random.Random) -> str:
    """A verdict after some accidents: characters lost, doubled, changed or moved, cut short, nested, interrupted."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        accidents = (
            text[:a] + text[b:],
            text[:a] + text[a:b] * 2 + text[b:],
            text[:a] + rng.choice(string.printable + "\ud800\u2028\x00é数") + text[a + 1 :],
            text[:b],
            text[:a] + str(rng.randint(-(10**30), 10**30)) + text[b:],
            text[:a] + rng.choice(MARKS) + text[a:],
            "[" * rng.randint(1, 3000) + text,
            '{"id":' * rng.randint(1, 3000) + text,
        )
        text = rng.choice(accidents)
        if not text:
            break
    return text


@pytest.mark.slow
def test_a_hundred_thousand_damaged_verdicts():
    """Seeded, so that the suite says the same each time. Some damage leaves a verdict usable: both must occur."""
    rng = random.Random(0)
    usable = 0
    for _ in range(100_000):
        kind = rng.choice(sorted(KINDS))
        usable += never_raises_anything_else(kind, damaged(json.dumps(GOOD[kind]), rng))
    assert 1_000 < usable < 50_000, usable
