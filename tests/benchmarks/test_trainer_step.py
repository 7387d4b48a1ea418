"""The benchmark of the trainer's step: its table from known numbers, and a small run with real processes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks.trainer_step import ARCHITECTURE, GROUP_SIZE, TRL, Measured, batch_of, main, report


def measured(*seconds: float, peak: int) -> Measured:
    nothing: Any = None
    return Measured(nothing, nothing, list(seconds), before=peak // 2, peak=peak, loss=0.0339)


def test_the_batch_has_groups_with_one_prompt_and_mixed_lengths():
    sequences = batch_of().sequences
    assert len(sequences) == 40
    prompts = [tuple(s.prompt_ids.tolist()) for s in sequences]
    assert [prompts.index(p) // GROUP_SIZE for p in prompts] == [i // GROUP_SIZE for i in range(40)]
    lengths = [len(s.completion_ids) for s in sequences]
    assert sorted(lengths) != lengths
    assert 48 <= min(lengths) < max(lengths) <= 480


def test_ratios_are_of_steps_in_the_same_round():
    """A machine that is twice as slow in the last two rounds changes no ratio: 8 of 2, 16 of 4, 18 of 4; 300 of 1,000 MB."""
    batch = batch_of(8)
    lengths = [(len(s.prompt_ids), len(s.completion_ids)) for s in batch.sequences]
    flops = ARCHITECTURE.training_flops(lengths)
    found = {"ours": measured(2, 4, 4, peak=300_000_000), TRL: measured(8, 16, 18, peak=1_000_000_000)}
    text = report(found, [flops, flops / 2, flops / 2], batch)
    cells = [cell.strip() for cell in text[-4].split("|")]
    tokens = sum(c for _, c in lengths)
    assert cells[1:-1] == [
        *("ours", f"{tokens / 4:.0f}", "4.00", "2.00 to 4.00", "0.30", "0.15", "50%", "4.00", "4.00 to 4.50", "0.30"),
        "0.0339",
    ]
    assert text[-1] == "tokens/s ratio to TRL: 4.00  peak memory ratio: 0.30"
    without = report({"ours": found["ours"]}, [flops] * 3, batch)
    assert "ratio to TRL:" not in "\n".join(without)


def test_solutions_that_fill_no_group_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--solutions", "12"])
    assert "must be a multiple of 8" in capsys.readouterr().err


@pytest.mark.slow
def test_ours_and_trls_first_step_have_one_loss(capsys, tmp_path):
    """On eight solutions, to four places; that of our other batchings: ``test_the_step_that_trl_is_timed_on_is_ours``."""
    out = tmp_path / "table.md"
    main(["--variants", "ours, packed", TRL, "--solutions", "8", "--rounds", "1", "--out", str(out)])
    text = out.read_text()
    assert capsys.readouterr().out.endswith(text)
    rows = re.findall(r"^\| (ours, packed|TRL) \|.*\| (-?[\d.]+) \|$", text, flags=re.MULTILINE)
    assert [name for name, _ in rows] == ["ours, packed", TRL]
    assert len({loss for _, loss in rows}) == 1
    assert re.fullmatch(r"tokens/s ratio to TRL: \d+\.\d\d  peak memory ratio: \d\.\d\d", text.splitlines()[-1])
