"""The page opened in a real browser: what it shows, its filters and tooltips, and that the console stays silent."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from benchmarks.report_page import BROWSERS, browser, opened
from lit_tpgrpo.report import read_run, write_report
from tests.report.example_runs import ATTACK, solution_row, write_rows, write_run

BROWSER = browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH"),
]
# A user's hands: points at a thought, looks at the tooltip, goes to the next page, filters, clears.
HANDS = """
const seen = {};
const wanted = (name, value) => {
  const field = document.querySelector(`#filters [name=${name}]`);
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  return document.getElementById("count").textContent;
};
seen.all = document.getElementById("count").textContent;
document.querySelector(".thought").dispatchEvent(new MouseEvent("mouseenter", { clientX: 40, clientY: 40 }));
seen.tip = document.getElementById("tip").innerText;
document.querySelector(".thought").dispatchEvent(new MouseEvent("mouseleave"));
seen.hidden = document.getElementById("tip").hidden;
seen.outcome = wanted("outcome", "incorrect");
seen.address = location.hash;
seen.label = wanted("label", "matched");
seen.text = wanted("text", "LONE");
seen.none = wanted("problem", "no such problem");
document.querySelector("#filters [type=reset]").click();
setTimeout(() => {
  seen.cleared = document.getElementById("count").textContent;
  seen.kept = wanted("kept", "no");
  wanted("kept", "");
  seen.ordered = wanted("order", "thoughts") && document.querySelector(".solution .text").innerText;
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
}, 50);
"""


def dom_and_console(page: Path, folder: Path, fragment: str = "") -> tuple[str, list[str]]:
    """Return the document after its scripts ran, and what was printed on the console."""
    options = ("--window-size=1300,4000", "--virtual-time-budget=20000", "--enable-logging=stderr")
    done = opened(str(BROWSER), page, folder / "profile", *options, fragment=fragment)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_hands(page: Path) -> Path:
    """A copy of the page with a script that uses it, which the page's own policy would refuse."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"), count=1)
    copy = page.with_name("hands.html")
    copy.write_text(text.replace("</body>", f"<script>{HANDS}</script></body>"), encoding="utf-8")
    return copy


def visible(dom: str) -> str:
    """The text of a document without its scripts and styles."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", dom, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def test_runs_side_by_side(tmp_path: Path):
    runs = [write_run(tmp_path / "thought"), write_run(tmp_path / "strong", alpha=2.0)]
    page = tmp_path / "r.html"
    write_report([read_run(run) for run in runs], page)
    dom, console = dom_and_console(page, tmp_path)
    assert console == []
    text = visible(dom)
    assert "6 of 6 solutions" in text
    assert f"Careful. {ATTACK}" in text
    assert "So 7 \U0001f600 \U0001f600." in text
    assert "judge: the answer adopts <b>step 2</b>" in text
    assert "data-attacked" not in dom
    assert "data.credit.alpha" in text
    assert re.search(r'data-ready-ms="\d+"', dom)
    titles = set(re.findall(r">([^<>]+)</text>", html.unescape(dom)))
    assert {"accuracy of the round's solutions", "held-out accuracy, avg@2"} <= titles
    assert dom.count('class="barlayer') >= 2  # both charts of stage times


def test_filters_tooltip_and_order(tmp_path: Path):
    page = tmp_path / "r.html"
    write_report([read_run(write_run(tmp_path / "run"))], page)
    dom, console = dom_and_console(with_hands(page), tmp_path)
    assert console == []
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    seen = json.loads(html.unescape(found))
    tip = seen.pop("tip").split()
    assert " ".join(tip) == "✗ incorrect thought 1 of 2, 1 step process reward +0.250 advantage −0.250 judge no note"
    assert seen.pop("ordered").startswith("✗ incorrectCareful.")
    assert seen == {
        "all": "3 of 3 solutions",
        "hidden": True,
        "outcome": "2 of 3 solutions",
        "address": "#outcome=incorrect",
        "label": "2 of 3 solutions",
        "text": "1 of 3 solutions",
        "none": "0 of 3 solutions",
        "cleared": "3 of 3 solutions",
        "kept": "1 of 3 solutions",
    }


def test_an_address_filters_predictions(tmp_path: Path):
    rows = [solution_row(n, ("correct", "incorrect")[n % 2], text=f"solution number {n}\n\nend") for n in range(50)]
    page = tmp_path / "r.html"
    write_report([read_run(write_rows(tmp_path / "judged.jsonl", rows))], page)
    dom, console = dom_and_console(page, tmp_path, "#outcome=incorrect&text=number+4")
    assert console == []
    assert "5 of 50 solutions" in visible(dom)  # 41, 43, 45, 47 and 49
    assert re.findall(r"solution number (\d+)", visible(dom)) == ["41", "43", "45", "47", "49"]
