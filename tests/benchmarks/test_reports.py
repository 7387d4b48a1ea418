"""Reports of benchmarks name machine, versions and command, and the file of ``--out`` holds what is printed."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import engine, logprobs, report_page, store, weight_sync
from benchmarks.engine import BASELINE
from benchmarks.reports import opening, publish, spread
from lit_tpgrpo.engines.base import Completion
from lit_tpgrpo.records import StopReason
from tests.report.example_runs import solution_row, write_rows


def report_of(module: ModuleType, arguments: str, out: Path, capsys) -> str:
    """Run a benchmark; return its report, which is checked for what all have."""
    given = [*arguments.split(), "--out", str(out)]
    module.main(given)
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(text)
    name = module.__name__.rsplit(".", 1)[-1]
    assert f"`python -m benchmarks.{name} {' '.join(given)}`" in text
    for package in ("torch", "transformers", "numpy", "pyarrow"):
        assert f"{package} {version(package)}" in text
    assert re.search(r"; 1 thread\(s\); load average of the last minute \d", text)
    return text


def cells(text: str) -> list[list[str]]:
    """Return the cells of all rows of tables but heads."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_a_report_names_the_command_and_every_setting_but_its_file(tmp_path, capsys):
    args = argparse.Namespace(repeats=3, names=["a b", "c"], first=None, out=tmp_path / "deep" / "report.md")
    lines = opening("Title", "engine", ["--names", "a b", "c"], args, threads=2)
    assert lines[:2] == ["# Title", ""]
    assert lines[2].endswith(", `python -m benchmarks.engine --names 'a b' c`")
    assert "; 2 thread(s); " in lines[3]
    assert lines[-1] == "- repeats 3, names a b + c"
    publish(["one", "two"], args.out)
    assert args.out.read_text() == capsys.readouterr().out == "one\ntwo\n"


def test_a_spread_is_median_lowest_and_highest():
    assert spread([4.0, 1.0, 2.0, 3.0], 1) == "2.5 (1.0 to 4.0)"


@pytest.mark.slow
def test_the_store_is_measured_with_each_text(tmp_path, capsys):
    text = report_of(store, "--solutions 4 --tokens 300 --group_size 2 --repeats 1", tmp_path / "store.md", capsys)
    rows = {(row[0], row[1]): row[2:] for row in cells(text)[1:]}
    assert list(rows) == [(name, letters) for letters in store.FIRST_LETTERS for name in store.STORES]
    for name in store.STORES:
        kinds = [[float(cell) for cell in rows[name, letters][2:]] for letters in store.FIRST_LETTERS]
        widths = [text for *_, text in kinds]
        # Python's 1, 2 and 4 bytes a character; 57 to 76 of each text's object are no characters.
        assert widths[1] / widths[0] == pytest.approx(2, rel=0.1)
        assert widths[2] / widths[0] == pytest.approx(4, rel=0.1)
        assert kinds[2][2] - kinds[0][2] == pytest.approx(widths[2] - widths[0], rel=0.2)  # memory grows by the text
        assert kinds[2][0] == pytest.approx(kinds[0][0], abs=0.2)  # and the disk does not: it has UTF-8
        for disk, verdicts, *_ in kinds:
            assert 0 < verdicts < disk


def completions(*ids: list[int]) -> dict[int, tuple[Completion, ...]]:
    return {0: tuple(Completion(np.array(i), np.full(len(i), -0.5), StopReason.EOS) for i in ids)}


def test_the_engines_ratio_is_the_median_within_repeats():
    """Twice and three times as fast; a machine that is slower in the second repeat changes nothing."""
    rates = {BASELINE: [100.0, 50.0, 100.0], "cache": [100.0, 50.0, 100.0], "engine": [200.0, 150.0, 200.0]}
    rates |= {"continuous": [50.0, 25.0, 50.0]}
    samples = {name: completions([1, 2], [3]) for name in rates} | {"engine": completions([1, 2], [4])}
    lines = engine.report(rates, samples)
    assert lines[0] == "- 2 solutions of 1 to 2 tokens, median 2"
    ours, other = cells("\n".join(lines))[-2:]
    assert ours[2:] == ["200 (150 to 200)", "2.00 (2.00 to 3.00)", "1", "-0.5000"]
    assert other[2:] == ["50 (25 to 50)", "0.50 (0.50 to 0.50)", "–", "-0.5000"]  # its seeds are not ours
    assert lines[-2:] == ["tokens/s ratio to continuous: 4.00", "tokens/s ratio to generate: 2.00"]


@pytest.mark.slow
def test_the_engine_is_measured_beside_generate(tmp_path, capsys):
    settings = "--prompts 2 --n 2 --tokens 6 --batch_size 4 --repeats 1 --device cpu"
    text = report_of(engine, settings, tmp_path / "engine.md", capsys)
    assert [row[0] for row in cells(text)[1:]] == list(engine.CANDIDATES)
    assert re.fullmatch(r"tokens/s ratio to generate: \d+\.\d\d", text.splitlines()[-1])


def test_ratios_of_weight_updates_are_of_paired_passes():
    """The server needs vLLM; the text of known numbers does not."""
    seconds = {"a": [1.0, 2.0, 4.0], "b": [2.0, 4.0, 4.0]}
    assert weight_sync.ratio(seconds, "a", "b") == "0.50 (0.50 to 1.00)"
    lines = weight_sync.section("Title.", seconds, [2**20, 2**22])
    assert lines[1] == "Title."
    assert cells("\n".join(lines))[1:] == [
        ["a", "2.000 (1.000 to 4.000)", "1.00", "0"],
        ["b", "4.000 (2.000 to 4.000)", "4.00", "1"],
    ]


def test_a_heads_ratios_are_of_passes_in_the_same_round():
    """Half of the time and a quarter of the memory; a round that is twice as slow for both changes nothing."""
    naive = logprobs.Passes([1.0, 2.0, 1.0], [3.0, 6.0, 3.0], [400.0, 400.0, 200.0])
    ours = logprobs.Passes([1.0, 2.0, 1.0], [1.0, 2.0, 2.0], [100.0, 100.0, 100.0])
    lines = logprobs.report({"naive": naive, "ours": ours, "trl": logprobs.Passes(error="ImportError: no trl")})
    _, first, second, failed = cells("\n".join(lines))
    assert (first[3], first[5]) == ("1.00 (1.00 to 1.00)", "1.00 (1.00 to 1.00)")
    assert second[1:6] == [
        *("1.000 (1.000 to 2.000)", "2.000 (1.000 to 2.000)", "0.50 (0.50 to 0.75)"),
        *("100 (100 to 100)", "0.25 (0.25 to 0.50)"),
    ]
    assert failed[:2] == ["trl", "failed: ImportError: no trl"]
    assert cells("\n".join(logprobs.report({"ours": ours})))[-1][3:6] == ["", "100 (100 to 100)", ""]


@pytest.mark.slow
def test_heads_are_measured_in_turn_and_one_that_fails_is_a_row(tmp_path, capsys):
    """Liger's head needs a package and a GPU."""
    settings = "--tokens 512 --hidden 8 --vocab 8192 --repeats 2 --threads 1 --variants naive ours liger"
    text = report_of(logprobs, settings, tmp_path / "logprobs.md", capsys)
    rows = {row[0]: row[1:] for row in cells(text)[1:]}
    assert list(rows) == ["naive", "ours", "liger"]
    assert all(re.match(r"\d+\.\d{2} \(", rows["ours"][i]) for i in (2, 4))
    assert rows["liger"][0].startswith("failed: ")
    assert re.match(r"ours to ours_eager, and to fp64: log-probs 0\.0e\+00, ", text.splitlines()[-1])


def test_a_pass_that_adds_no_memory_has_no_ratio():
    found = {"naive": logprobs.Passes([2.0], [2.0], [0.0]), "ours": logprobs.Passes([1.0], [1.0], [0.5])}
    assert cells("\n".join(logprobs.report(found)))[-1][3:6] == ["0.50 (0.50 to 0.50)", "0 (0 to 0)", ""]


@pytest.mark.slow
@pytest.mark.skipif(report_page.browser() is None, reason="no browser is on the PATH")
def test_a_page_is_opened_with_as_many_solutions_as_are_wanted(tmp_path, capsys):
    judged = write_rows(tmp_path / "judged.jsonl", [solution_row(n, text="two steps\n\nof text") for n in range(3)])
    text = report_of(report_page, f"{judged} --solutions 20 --repeats 2", tmp_path / "page.md", capsys)
    (row,) = cells(text)[1:]
    assert row[:2] == ["20", "18"]
    assert re.fullmatch(r"\d\.\d\d \(\d\.\d\d to \d\.\d\d\)", row[4])


def test_without_a_browser_one_line_says_which_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SystemExit, match="no browser is on the PATH, looked for chromium, chromium-browser, google-chrome"
    ):
        report_page.main([str(tmp_path)])
