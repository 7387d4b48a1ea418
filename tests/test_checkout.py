"""Checkouts with and without symbolic links, imported by real processes: one import name, no class twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = ("callbacks", "datamodules")

SAME = """
import sys
import lit_tpgrpo.callbacks, lit_tpgrpo.datamodules.sources.files
import callbacks, datamodules, datamodules.sources.files, callbacks.samples
from datamodules.arithmetic import ArithmeticProblems
from lit_tpgrpo.pretrained import resolve_model
from lit_tpgrpo.user_errors import in_our_code

assert callbacks is lit_tpgrpo.callbacks and datamodules is lit_tpgrpo.datamodules
assert datamodules.sources.files is lit_tpgrpo.datamodules.sources.files
assert callbacks.samples.SolutionSamples is lit_tpgrpo.SolutionSamples
assert datamodules.MathRolloutDataModule is lit_tpgrpo.MathRolloutDataModule
assert ArithmeticProblems is lit_tpgrpo.ArithmeticProblems
assert ArithmeticProblems.__module__ == "lit_tpgrpo.datamodules.arithmetic.source"
assert lit_tpgrpo.datamodules.__spec__.name == "lit_tpgrpo.datamodules"
try:
    datamodules.sources.files.FileProblems(3)
except Exception as error:
    assert in_our_code(error), error
print(resolve_model("embedded:tiny-qwen2"))
print(len(lit_tpgrpo.__path__))
"""


@pytest.fixture
def without_links(tmp_path: Path) -> Path:
    """A copy of the checkout with one link as Git writes it with ``core.symlinks=false``, a text file, and one gone."""
    ignore = shutil.ignore_patterns("__pycache__", *LINKS)
    shutil.copytree(ROOT / "lit_tpgrpo", tmp_path / "lit_tpgrpo", ignore=ignore)
    for name in LINKS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lit_tpgrpo" / "callbacks").write_text("../callbacks")
    return tmp_path


def run(code: str, folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_checkout_without_links_imports(without_links: Path):
    model, paths = run(SAME, without_links)
    assert Path(model) == without_links / "datamodules" / "arithmetic" / "assets" / "tiny-qwen2"
    assert paths == "2"


@pytest.mark.slow
def test_a_checkout_with_links_has_no_class_twice():
    model, paths = run(SAME, ROOT)
    assert Path(model) == ROOT / "lit_tpgrpo" / "datamodules" / "arithmetic" / "assets" / "tiny-qwen2"
    assert paths == "1"  # nothing else of the checkout becomes part of the package
