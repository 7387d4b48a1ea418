"""The benchmarks of whole rounds: reports of known numbers, and that they run as their texts say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks import round_overhead, rounds_ahead, schedules
from lit_tpgrpo.pretrained import load_tokenizer


def written(tmp_path, capsys, module, settings: str) -> str:
    """Run a benchmark; return its report, which is what it printed."""
    out = tmp_path / "report.md"
    module.main([*settings.split(), "--out", str(out)])
    text = out.read_text()
    assert capsys.readouterr().out.endswith(text)
    assert "transformers 5" in text
    return text


def test_round_overhead_names_each_stage_and_they_add_up(tmp_path, capsys):
    text = written(tmp_path, capsys, round_overhead, "--solutions 16 --tokens 300 --repeats 1")
    names = (*round_overhead.STAGES, "other", "whole")
    rows = {name: re.search(rf"^\| {name} \| (-?[\d.]+) .*\| (-?[\d.]+) ", text, re.MULTILINE) for name in names}
    for column in (1, 2):
        seconds = [float(row[column]) for row in rows.values() if row]
        assert len(seconds) == len(names)
        assert seconds[-1] > 0
        assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=0.005 * len(names))
    assert re.search(r"\| peak, bytes a token \| [\d.]+ ", text)
    assert re.search(r"overhead per million tokens: [\d.]+ s\n$", text)


def test_recorded_solutions_that_repeat_share_no_memory():
    engine = round_overhead.Recorded(load_tokenizer("embedded:tiny-qwen2"), 2, 40)
    one, other = engine.completion(0), engine.completion(2)
    assert one == other
    assert not np.shares_memory(one.token_ids, other.token_ids)
    assert not np.shares_memory(one.logprobs, other.logprobs)


def test_a_round_is_compared_with_the_longest_stage_and_a_streamed_round():
    """Serial rounds of 6 and 12 with stages of 4 and 8 at most; streamed ones of 5 and 8."""
    rounds, stages = {"serial": [6.0, 12.0], "streamed": [5.0, 8.0]}, {"sampling": [4.0, 4.0], "judging": [2.0, 8.0]}
    assert [line for line in schedules.report(rounds, stages) if " to " in line and "|" not in line] == [
        "serial round to a streamed round: 1.35 (1.20 to 1.50)",
        "serial round to the longest stage: 1.50 (1.50 to 1.50)",
        "streamed round to a streamed round: 1.00 (1.00 to 1.00)",
        "streamed round to the longest stage: 1.12 (1.00 to 1.25)",
    ]


def test_a_period_is_compared_with_both_of_its_bounds():
    """Serial stages of 4, 2 and 3 seconds; a streamed round of 5."""
    stages = {"sampling": [4.0], "verifying and judging": [2.0], "training": [3.0], "making a round, streamed": [5.0]}
    lines = rounds_ahead.report(rounds_ahead.RoundPeriods({"serial": [9.0], "ahead": [6.0, 6.0, 7.0]}, stages))
    assert "| ahead period | 6.00 (6.00 to 7.00) |" in lines
    assert [line for line in lines if line.startswith("period")] == [
        "period with serial to the longest stage: 2.25  to the longer of training and a streamed round: 1.80",
        "period with ahead to the longest stage: 1.50  to the longer of training and a streamed round: 1.20",
    ]


@pytest.mark.slow
def test_schedules_make_the_same_round_and_compare_it_with_its_stages(tmp_path, capsys):
    settings = "--problems 4 --group_size 4 --batch_size 8 --tokens 64 --level 1 --latency 0.01 --repeats 1"
    text = written(tmp_path, capsys, schedules, settings)
    assert re.search(r"^- 16 solutions in batches of 8, [1-9]\d* requests", text, re.MULTILINE)
    assert re.search(r"streamed round to the longest stage: [\d.]+ \([\d.]+ to [\d.]+\)\n$", text)


@pytest.mark.slow
def test_every_schedule_is_trained_and_compared(tmp_path, capsys):
    settings = "--rounds 3 --problems 2 --group_size 2 --steps 2 --tokens 16 --batch_size 2 --latency 0.1"
    text = written(tmp_path, capsys, rounds_ahead, settings)
    for schedule in ("serial", "streamed", "pipelined", "ahead"):
        assert re.search(rf"^\| {schedule} period \| \d", text, re.MULTILINE)
        assert re.search(rf"^period with {schedule} to the longest stage: [\d.]+  to the longer", text, re.MULTILINE)
    assert re.search(r"to the longer of training and a streamed round: [\d.]+\n$", text)
