"""The growth benchmark fits exponents, marks those that are too large, and runs every part."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import growth
from benchmarks.growth import AXES, BASE, Growth, exponent, main, row, time_and_peak


def test_exponents_of_powers():
    assert exponent([1, 2, 4, 8], [5, 10, 20, 40]) == pytest.approx(1)
    assert exponent([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)
    assert exponent([2, 4], [7, 7]) == pytest.approx(0, abs=1e-12)


@given(st.sampled_from(sorted(AXES)), st.floats(1e-9, 1e3))
def test_sizes_of_any_scale_keep_their_ratios(part_and_axis, scale):
    """None is there twice, and a fit over them means what it says; scale 1 is the table."""
    axis, sizes = part_and_axis[1], AXES[part_and_axis]
    found = growth.scaled(axis, sizes, scale)
    assert [n * sizes[0] for n in found] == [found[0] * n for n in sizes]
    assert found[0] == max(growth.LEAST[axis], int(sizes[0] * scale))
    assert growth.scaled(axis, sizes, 1.0) == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "0"], "--scale must be positive and finite, got 0.0"),
        (["--scale", "nan"], "--scale must be positive and finite, got nan"),
        (["--scale", "inf"], "--scale must be positive and finite, got inf"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_growth_above_the_limit_is_marked_unless_it_is_attention():
    sizes, squares, lines = (1, 2, 4), (1.0, 4.0, 16.0), (1e6, 2e6, 4e6)
    assert row(Growth("store", "length", sizes, squares, lines), 1.15) == (
        "| store | length | 1 2 4 | 1000.0 to 16000.0 | **2.00** | 2.00 | 1.0 to 4.0 | 1.00 | 1.00 |"
    )
    assert "**" not in row(Growth("trainer step", "length", sizes, squares, lines), 1.15)


def test_peaks_are_what_each_work_allocates_and_the_collector_is_on_again():
    seconds, peaks = time_and_peak([lambda n=n: bytearray(n) for n in (1_000_000, 4_000_000)], 2)
    assert len(seconds) == 2
    assert peaks == pytest.approx([1e6, 4e6], rel=0.05)
    with pytest.raises(ZeroDivisionError):
        time_and_peak([lambda: 1 // 0], 1)
    assert gc.isenabled()


@pytest.mark.slow
@pytest.mark.parametrize("part", BASE)
def test_every_part_is_measured(part: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "AXES", {(p, axis): (n := growth.LEAST[axis], 2 * n) for p, axis in AXES})
    monkeypatch.setattr(growth, "BASE", {part: growth.Size(64, 2, 1, 512)})
    main(["--parts", part, "--repeats", "1", "--scale", ".1", "--out", str(tmp_path / "growth.md")])
    written = (tmp_path / "growth.md").read_text()
    assert written.count(f"\n| {part} |") == sum(p == part for p, _ in AXES)
    assert "Python" in written
    assert written in capsys.readouterr().out
