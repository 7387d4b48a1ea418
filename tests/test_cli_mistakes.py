"""Whose code raised an error decides whether it is told in one line or as a fault of ours, with its traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_tpgrpo.cli.mistakes import in_our_code

ROOT = Path(__file__).parent.parent


def raised_in(path: Path) -> Exception:
    with pytest.raises(ValueError, match="here") as caught:
        exec(compile("raise ValueError('here')", str(path), "exec"))
    return caught.value


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("lit_tpgrpo/module.py", True),
        ("callbacks/evaluation.py", True),
        ("lit_tpgrpo/datamodules/sources/files.py", True),
        (".venv/lib/python3.12/site-packages/lightning/pytorch/trainer/trainer.py", False),
        ("train_of_my_own.py", False),
    ],
)
def test_libraries_in_the_checkout_are_not_ours(path: str, ours: bool):
    """``make`` puts the virtual environment into the checkout."""
    assert in_our_code(raised_in(ROOT / path)) is ours
