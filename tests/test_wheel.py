"""The wheel, installed elsewhere, gives one import name with everything in it, and runs in a foreign script."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # built and installed once
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds our wheel; libraries are lent by this one, our checkout is not."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".git", "runs", "build", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)],
        check=True,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    (wheel,) = folder.glob("lit_tpgrpo-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True, timeout=1200
    )
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.mark.slow
def test_one_import_name_from_the_wheel(installed: Path, tmp_path: Path):
    code = (
        "import lit_tpgrpo, lit_tpgrpo.callbacks, lit_tpgrpo.datamodules, sys\n"
        "from lit_tpgrpo.pretrained import resolve_model\n"
        "print(lit_tpgrpo.__file__)\n"
        "print(lit_tpgrpo.callbacks.MathEvaluation.__module__)\n"
        "print(resolve_model('embedded:tiny-qwen2'))\n"
        "from lit_tpgrpo.judges.grading import GroupPrompts\n"
        "print(resolve_model('embedded:tiny-erring'), GroupPrompts().folder)\n"
        "print('callbacks' in sys.modules, 'datamodules' in sys.modules)\n"
        "from pathlib import Path\n"
        "print((Path(lit_tpgrpo.__file__).parent / 'py.typed').is_file(), len(lit_tpgrpo.__path__))\n"
    )
    out = subprocess.run(
        [installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=1200
    )
    package, callback, model, others, strays, typed = out.stdout.splitlines()
    environment = str(installed.parent.parent)
    assert package.startswith(environment)
    assert callback == "lit_tpgrpo.callbacks.evaluation"
    assert all(path.startswith(environment) for path in (model, *others.split()))
    assert strays == "False False"
    assert typed == "True 1"


@pytest.mark.slow
def test_the_wheel_declares_the_command(installed: Path):
    (entry_points,) = (installed.parent.parent / "lib").glob(
        "python*/site-packages/lit_tpgrpo-*.dist-info/entry_points.txt"
    )
    assert entry_points.read_text().split("\n")[:2] == ["[console_scripts]", "lit-tpgrpo = lit_tpgrpo.cli:main"]


@pytest.mark.slow
def test_a_foreign_script_trains_with_the_wheel(installed: Path, tmp_path: Path):
    script = tmp_path / "foreign_project.py"
    text = (ROOT / "examples" / "foreign_project.py").read_text()
    assert len([line for line in text.splitlines() if line and not line.startswith(('"""', "import", "from"))]) <= 20
    script.write_text(text)
    run = subprocess.run([installed, script], cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
    # Not the last line here: the Trainer's default bar draws itself once more after everything else.
    assert re.search(r"^held-out accuracy 0\.\d{3} -> 0\.\d{3}$", run.stdout, re.MULTILINE)
    assert str(ROOT / "lit_tpgrpo") not in run.stderr
