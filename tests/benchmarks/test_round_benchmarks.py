"""The benchmarks of whole rounds run as their texts say and end in the lines that are compared."""

from __future__ import annotations

import re

import pytest

from benchmarks import round_overhead, schedules


def output(monkeypatch, capsys, module, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
    module.main()
    return capsys.readouterr().out


def test_round_overhead_names_each_stage_and_their_sum(monkeypatch, capsys):
    out = output(monkeypatch, capsys, round_overhead, "--solutions", "16", "--tokens", "300", "--repeats", "1")
    for schedule in ("serial", "streamed"):
        seconds = {
            stage: float(re.search(rf"^{schedule} +{stage} +([\d.]+) s", out, re.MULTILINE)[1])  # pyright: ignore
            for stage in (*round_overhead.STAGES, "whole")
        }
        assert seconds["whole"] > 0
        if schedule == "serial":  # streamed stages overlap
            assert sum(seconds[stage] for stage in round_overhead.STAGES) <= seconds["whole"] + 0.05
    assert re.search(r"overhead per million tokens: [\d.]+ s\n$", out)


@pytest.mark.slow
def test_schedules_make_the_same_round_and_compare_it_with_its_stages(monkeypatch, capsys):
    settings = "--problems 4 --group_size 4 --batch_size 8 --tokens 64 --level 1 --latency 0.01 --repeats 1"
    out = output(monkeypatch, capsys, schedules, *settings.split())
    assert re.search(r"^16 solutions in batches of 8, [1-9]\d* requests", out)
    assert re.search(r"streamed round to longest stage: [\d.]+ \([\d.]+ to [\d.]+\)\n$", out)
