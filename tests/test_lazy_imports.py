"""What is imported when it is used: a package that is not installed costs the part that needs it, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    *("openai", "llguidance", "bitsandbytes", "datasets", "math_verify", "latex2sympy2_extended", "peft", "accelerate"),
    *("tensorboard", "tenacity", "aiolimiter", "vllm", "trl", "liger_kernel", "mlflow", "trackio", "wandb"),
)
# A judge that asks language models is one part, and these are its packages.
GENERATIVE = {"aiolimiter", "tenacity"}

PROGRAM = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder

missing = set(sys.argv[1].split(","))

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
import lit_tpgrpo
failed = {}
for module in pkgutil.walk_packages(lit_tpgrpo.__path__, "lit_tpgrpo."):
    # vLLM's own modules begin with vLLM; __main__ modules run when they are imported.
    if ".vllm" not in module.name and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name
import train
print(json.dumps([failed, sorted(missing & {name.partition(".")[0] for name in sys.modules})]))
"""


def imported_without(*missing: str) -> tuple[dict[str, str], list[str]]:
    """Modules of ours that cannot be imported and what they lack, and which of ``missing`` were imported all the same."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(missing)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    failed, imported = json.loads(done.stdout.splitlines()[-1])
    return failed, imported


@pytest.mark.slow
def test_the_package_and_the_command_line_need_no_optional_package():
    failed, imported = imported_without(*OPTIONAL)
    assert imported == []
    # math-verify is imported by the verifier's workers alone, when they start.
    assert failed.pop("lit_tpgrpo.verify.algebra") in ("math_verify", "latex2sympy2_extended")
    # The generative judge, and what measures or trains one.
    assert set(failed.values()) <= GENERATIVE
    assert {name for name in failed if "judge" not in name} == set()
    assert "lit_tpgrpo.judges.generative" in failed
