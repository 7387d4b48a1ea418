"""Prompt files from anywhere: no code, no endless work, no text without end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative import templates
from lit_tpgrpo.judges.generative.templates import MAX_PROMPT_CHARS, PromptTemplate

FILE = Path("step.txt")


def template(source: str) -> PromptTemplate:
    return PromptTemplate(source, FILE)


REFUSED = {
    "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}": "step.txt:1: Call is not allowed",
    "{{ id.__class__.__mro__ }}": "the attribute __mro__",
    "{{ id['__class__'] }}": None,
    "{{ id | attr('__class__') }}": "the filter attr",
    "{{ ().__class__ }}": "the attribute __class__",
    "{{ 'a' * 10**9 }}": "Mul is not",
    "{{ 10**10**10 }}": "Pow is not",
    "{{ '%1000000000d' % 1 }}": "Mod is not",
    "{{ id ~ id }}": "Concat is not",
    "{% for i in range(10**9) %}{% endfor %}": "Call is not",
    "{% set x = 'a' %}{{ x }}": "Assign is not",
    "{% macro f() %}{{ f() }}{% endmacro %}": "Macro is not",
    "{% include '/etc/passwd' %}": "Include is not",
    "{% extends '/etc/passwd' %}": "Extends is not",
    "{% import 'os' as os %}": "Import is not",
    "{% filter upper %}a{% endfilter %}": "FilterBlock is not",
    "{% for a in id recursive %}{{ a }}{% endfor %}": "For is not",
    "{{ id | center(1000000000) }}": "the filter center",
    "{{ id | indent(1000000000) }}": "the filter indent",
    "{{ id | format(1) }}": "the filter format",
    "{{ id | replace('a', 'aaaa') }}": "the filter replace",
    "{{ id | join(*id) }}": "the filter join with such arguments",
    "{{ 'a' in id }}": "the comparison in",
    "{{ id is filter }}": "the test filter",
    "{{ id[1:] }}": "Slice is not",
    "{{ loop.cycle }}": "the attribute cycle",
    "ok\n{{ id": "step.txt:2: unexpected end",
    "{{ nothing | nothing }}": "the filter nothing",
    "{{" + "(" * 20_000 + "id" + ")" * 20_000 + "}}": "nested too deeply",
    "{{" + "not " * 500 + "id}}": "step.txt:1: is nested more than 50 deep",
    "{% if id %}" * 30 + "{% endif %}" * 30: None,
    "{% for a in id %}" * 30 + "{% endfor %}" * 30: "nested too deeply",
    "{{ id }}" * 200_000: "has 1,600,000 characters",
    "{{ [" + "id," * 20_000 + "] }}": "step.txt: has more than 20,000 variables",
    "{{ " + "1" * 5000 + " }}": "step.txt: Exceeds the limit (4300 digits)",
}


@pytest.mark.parametrize("source", REFUSED, ids=lambda s: s[:40])
def test_what_a_prompt_may_not_hold_is_refused_when_it_is_read(source: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = REFUSED[source]
    if words is None:  # harmless, or an error when it is filled in
        template(source)
    else:
        with pytest.raises(ConfigError) as caught:
            template(source)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for a in t %}{% for b in t %}{% endfor %}{% endfor %}", "it uses more than 2,000,000 steps"),
        ("{% for a in t %}{% for b in t %}{% for c in t %}{{ a }}{% endfor %}{% endfor %}{% endfor %}", "steps"),
        ("{% for a in t %}{{ t | length }}{{ t | sort | first }}{% endfor %}", "steps"),
        ("{% for a in t %}" + "{% if a == 'x' %}{% endif %}" * 1000 + "{% endfor %}", "steps"),
        ("{% for a in t %}{{ t }}{% endfor %}", "its output exceeds 10,000,000 characters"),
        ("{{ t | join(t) }}", "join makes more than 10,000,000 characters"),
        ("{{ t | join('" + "x" * 400_000 + "') }}", "join makes more than"),
        ("{{ t + t }}", "+ takes numbers, got str and str"),
        ("{{ n + t }}", "+ takes numbers, got int and str"),
        ("{{ n | upper }}", "cannot be filled in"),
        ("{{ t | map('attr') }}", "map takes one of 'first'"),
        ("{{ t['__class__'] }}", "cannot be filled in"),
        ("{{ t['upper'] }}", "cannot be shown"),
        # Written as Python writes a list, this is 300 MB.
        ("{{ [" + "t, " * 3000 + "] }}", "it uses more than 2,000,000 steps"),
        ("{{ [[" + "t, " * 3000 + "]] | length }}", "it uses more than 2,000,000 steps"),
        ("{% for a in t %}{{ [" + "t, " * 15 + "] }}{% endfor %}", "it uses more than 2,000,000 steps"),
        ("{% for a in n %}{% endfor %}", "cannot be filled in"),
        ("{% for a in t %}{{ loop.nextitem.index }}{% endfor %}", None),
    ],
    ids=lambda s: str(s)[:40],
)
def test_what_uses_too_much_is_ended(source: str, words: str | None):
    """A prompt of 100,000 characters, the most that is shown of a solution."""
    with pytest.raises(ConfigError, match=r"step\.txt") as caught:
        template(source).render(t="a" * 100_000, n=3)
    assert words is None or words in str(caught.value)


def test_what_prompts_need_is_there():
    source = (
        "{# a comment #}{% raw %}{{ id }}{% endraw %} {{ id | upper }} {{ 'right' if correct else 'wrong' }}\n"
        "{% for n, text in paragraphs if n > 1 %}\n[{{ n }}] {{ text | trim }}{{ ', ' if not loop.last }}\n{% else %}\nnone\n"
        "{% endfor %}\n{{ asked | join(', ') }} {{ pairs | map('first') | join('-') }} {{ asked | length + 1 - 2 }}\n"
        "{% if asked and not known is defined or asked[0] == 3 %}\nyes{% elif correct %}no{% endif %}\n"
        "{{ pairs | map('last') | sort | list | last }} {{ asked is none }} {{ -asked[1] }} {{ asked | count }}"
    )
    text = template(source).render(
        id="ab",
        correct=True,
        paragraphs=[(1, "x"), (2, " y "), (3, "z")],
        asked=[3, 4],
        pairs=[(7, "b"), (8, "a")],
        known=[],
    )
    assert text == "{{ id }} AB right\n[2] y, \n[3] z\n3, 4 7-8 1\nyesb False -4 2"
    assert template(source).variables == {"id", "correct", "paragraphs", "asked", "pairs", "known"}


def test_the_budget_is_of_one_prompt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(templates, "MAX_STEPS", 1000)
    once = template("{% for a in t %}{{ a }}{% endfor %}")
    for _ in range(5):
        assert once.render(t="a" * 200) == "a" * 200
    with pytest.raises(ConfigError, match="it uses more than 1,000 steps"):
        once.render(t="a" * 1001)
    with pytest.raises(ConfigError, match="it uses more than 1,000 steps"):
        template("{{ t | length }}").render(t="a" * 1001)


@given(st.text("{}%#()[]|'\"+*-._ \nabijlmopinfrdset0123456789", max_size=60))
def test_whatever_a_file_holds_it_is_a_template_or_one_error(source: str):
    with suppress(ConfigError):
        text = template("{{ id }}" + source).render(id="ab")
        assert text.startswith("ab")
        assert len(text) <= MAX_PROMPT_CHARS
