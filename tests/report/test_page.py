"""The page: what is in it, that it is safe, and what the command says."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from pathlib import Path

import pytest

from lit_tpgrpo.errors import ConfigError, InputError, StorageError
from lit_tpgrpo.report import page, read_run, write_report
from lit_tpgrpo.report.__main__ import main
from tests.report.example_runs import ATTACK, solution_row, write_rows, write_run


def script_data(text: str, name: str) -> dict:
    (content,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    return json.loads(content)


def test_the_page_holds_all_of_the_run_and_nothing_runs_that_a_model_wrote(tmp_path: Path):
    runs = [read_run(write_run(tmp_path / f"<b>{n}", alpha=n)) for n in (1, 2)]
    assert write_report(runs, tmp_path / "r.html") == 6
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    data = script_data(text, "solution-data")
    texts = ["".join("".join(t[3]) for t in s["thoughts"]) for s in data["solutions"]]
    assert texts[0] == f"Careful. {ATTACK}\n\nSo 7 \U0001f600 \U0001f600."
    assert texts[2] == r"lone \ud83d half" + "\n\nEnd"
    assert data["solutions"][0]["thoughts"][0][:3] == ["incorrect", 0.25, -0.25]
    assert data["problems"] == [["p/1", "What is 1 < 2 & 3?", "7"], ["p/2", "Other?", "7"]]
    assert "<script>document" not in text
    assert "<b>1" not in text
    assert "&lt;b&gt;1" in text
    assert text.count("data.credit.alpha") == 3  # where settings differ, and in those of each
    charts = script_data(text, "chart-data")
    curve = next(c for c in charts["curves"] if c["name"] == "rollout/accuracy")
    assert [(t["name"], t["x"], t["y"]) for t in curve["traces"]] == [
        ("<b>1", [0, 2], [0.25, 0.75]),
        ("<b>2", [0, 2], [0.25, 0.75]),
    ]
    assert [(t["name"], t["x"]) for t in charts["stages"]["totals"]] == [
        ("sampling", [6.0, 6.0]),
        ("judging", [1.5, 1.5]),
        ("training", [9.0, 9.0]),
    ]


@pytest.mark.parametrize(
    ("schedule", "time"), [("serial", "0.3 min"), ("streamed", "≤ 0.3 min"), ("ahead", "≤ 0.3 min")]
)
def test_the_time_of_stages_that_overlap_is_a_bound(tmp_path: Path, schedule: str, time: str):
    """6 + 1.5 + 9 seconds, one stage after another."""
    settings = {"class_path": "lit_tpgrpo.datamodules.MathRolloutDataModule", "init_args": {"schedule": schedule}}
    rendered, _ = page.render([read_run(write_run(tmp_path / "run", data=settings))])
    assert f"<td>{time}</td>" in rendered


@pytest.mark.parametrize("key", ["placeholder", "showlegend", "progress"])
def test_a_key_is_redacted_in_the_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str):
    """A key may be a word of the page's own scripts, of plotly's figures or of the template."""
    run = write_run(tmp_path / f"run-{key}", alpha=1, notes=key)
    other = write_run(tmp_path / "other", alpha=2, notes="none")
    written = solution_row(text=f"{key}\n\nend", prompt=key, gold=key, answer=key, judge_note=key, reward={key: 1.0})
    write_rows(run / "solutions.jsonl", [written])
    plain, _ = page.render([read_run(run), read_run(other)])
    monkeypatch.setattr("lit_tpgrpo.redaction._spellings", [key])
    text, shown = page.render([read_run(run), read_run(other)])
    assert shown == 4
    scripts = re.compile(r"<script>(.*?)</script>", re.DOTALL)
    assert scripts.findall(text) == scripts.findall(plain)
    assert re.findall("<meta http-equiv.*", text) == re.findall("<meta http-equiv.*", plain)
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0])
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts.findall(text)]
    assert sorted(digests) == sorted(re.findall("'sha256-([^']*)'", policy))
    data, charts = script_data(text, "solution-data"), script_data(text, "chart-data")
    assert data["problems"][0] == ["p/1", "[key]", "[key]"]
    (first,) = [s for s in data["solutions"] if s["run"] == 0]
    assert (first["answer"], first["note"], first["rewards"]) == ("[key]", "[key]", [["[key]", 1.0]])
    assert first["thoughts"][0][3] == ["[key]\n\n"]
    assert data["runs"] == ["run-[key]", "other"]
    assert charts["curves"][0]["traces"][0]["name"] == "run-[key]"
    assert [set(c) for c in charts["curves"]] == [set(c) for c in script_data(plain, "chart-data")["curves"]]
    assert "<h1>run-[key], other</h1>" in text
    assert f"{tmp_path}/run-[key]</code>" in text
    assert text.count("<code>[key]</code>") == 2  # the setting, where settings differ and among all of the run
    assert key not in re.sub(r"<(style|script)\b[^>]*>.*?</\1>", "", text, flags=re.DOTALL).replace('placeholder="', "")


def test_seeds_are_drawn_as_a_band(tmp_path: Path):
    other = "step,round,rollout/accuracy\n0,0,0.75\n2,1,0.95\n"  # the same steps, 0.5 and 0.2 higher
    runs = [read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", seed=1, metrics=other))]
    text, _ = page.render(runs)
    curve = next(c for c in script_data(text, "chart-data")["curves"] if c["name"] == "rollout/accuracy")
    high, low, mean = (trace["y"] for trace in curve["traces"])
    assert (high, low) == ([0.75, 0.95], [0.25, 0.75])
    assert mean == pytest.approx([0.5, 0.85])
    assert "0.500 → 0.850 (0.750 to 0.950)" in text


def test_the_page_needs_no_network(tmp_path: Path):
    text, _ = page.render([read_run(write_run(tmp_path / "a"))])
    assert "default-src 'none'" in html.unescape(text)
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text.split("/**\n* plotly.js", 1)[0]) == []


def test_fewer_solutions_are_shown_where_their_text_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [solution_row(round=n, text="x" * 100) for n in range(10)]
    run = read_run(write_rows(tmp_path / "j.jsonl", rows))
    monkeypatch.setattr(page, "MAX_CHARS", 500)
    text, shown = page.render([run])
    assert shown == 5
    assert "5 of 10, taken evenly over the rounds" in text
    assert page.render([run], max_solutions=3)[1] == 3


def test_the_command_writes_a_page_for_predictions_and_labels(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "a=b.jsonl", [solution_row(), solution_row(1, "incorrect")])
    main(["a=b.jsonl", "--out", "p.html"])
    assert re.fullmatch(
        r"report: p\.html \(1 run, 2 solutions, \d\.\d MB; open it in a browser\)\n", capsys.readouterr().out
    )
    for n in (1, 2):
        write_run(tmp_path / f"run{n}", alpha=n)
    main(["both=run1", "both=run2"])
    assert "report: report.html (2 runs of 1 experiment, 6 solutions, " in capsys.readouterr().out
    assert "<h1>both</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_folders_of_runs_that_were_refused_are_left_out_of_several(tmp_path: Path, capsys, monkeypatch):
    """``runs/*/version_*`` names them too; of a run whose settings were refused the file of its lock is left."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "version_0")
    (tmp_path / "version_1").mkdir()
    (tmp_path / "version_1" / ".lock").write_text("{}")
    main(["version_0", "version_1"])
    said = capsys.readouterr()
    assert said.err == "skipped: version_1 is empty: no run was begun there\n"
    assert "report: report.html (1 run, " in said.out
    with pytest.raises(SystemExit, match="version_1 is no run"):
        main(["version_1"])


def test_a_report_is_replaced_and_no_other_file(tmp_path: Path):
    run = read_run(write_run(tmp_path / "run"))
    write_report([run], tmp_path / "r.html")
    write_report([run], tmp_path / "r.html", max_solutions=0)
    assert script_data((tmp_path / "r.html").read_text(encoding="utf-8"), "solution-data")["solutions"] == []
    with pytest.raises(InputError, match=r"config\.yaml exists and is no report of this package"):
        write_report([run], tmp_path / "run" / "config.yaml")
    with pytest.raises(InputError, match="is a folder; give the file to write"):
        write_report([run], tmp_path)
    with pytest.raises(ConfigError, match="max_solutions of at least 0, got 1 and -1"):
        write_report([run], tmp_path / "r.html", max_solutions=-1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "run"]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = read_run(write_run(tmp_path / "run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"the report cannot be written to .*file/r\.html"):
        write_report([run], tmp_path / "file" / "r.html")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_report([run], tmp_path / "r.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "run"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "error: nowhere: there is no such run"),
        (["run", "run/../run"], "error: run is given more than once; give each run once"),
        (["run", "--out", "run"], "error: run is a folder"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, monkeypatch, args: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    with pytest.raises(SystemExit, match=re.escape(message)) as ended:
        main(args)
    assert "\n" not in str(ended.value.code)
