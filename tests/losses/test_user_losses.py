"""Losses that a user writes without annotations or with a mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_tpgrpo.cli import main
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses.base import LossOutput
from lit_tpgrpo.module import TPGRPOModule
from tests.losses.test_interface import one_step

ROOT = Path(__file__).parents[2]


class Unannotated:
    def __init__(self, scale=2.0):
        self.scale = scale

    def needs_reference(self):
        return False

    def __call__(self, x):
        return LossOutput(-(x.weights * x.advantages * x.logprobs).sum() * self.scale)


class Bare(Unannotated):
    def __call__(self, x):
        return torch.zeros((), requires_grad=True)


LOAD = """
import sys
from lit_tpgrpo import TPGRPOModule
print(TPGRPOModule.load_from_checkpoint(sys.argv[1]).token_loss.scale)
"""


@pytest.mark.slow
def test_a_loss_without_annotations_that_the_command_line_trained_is_loaded_in_python(random_model, tmp_path):
    """In a process of its own: one in which the command line ran accepts such a loss already."""
    size = [
        "--data.problems_per_step",
        "2",
        "--data.steps_per_round",
        "1",
        "--data.group_size",
        "2",
        "--data.keep",
        "all",
    ]
    size += ["--data.sampling.max_new_tokens", "8", "--data.val", "null", "--trainer.callbacks", "null"]
    loss = ["--model.loss", f"{__name__}.Unannotated", "--model.loss.scale", "3.0"]
    where = ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path), "--trainer.max_steps", "1"]
    saved = ["--trainer.callbacks+", "lit_tpgrpo.callbacks.SafeCheckpoint"]
    main(["fit", "--config", "configs/quickstart.yaml", "--model.model", random_model, *size, *loss, *where, *saved])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    command = [sys.executable, "-c", LOAD, str(checkpoint)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the loss has the name that it has in this process
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stdout) == (0, "3.0\n"), done.stderr[-2000:]


def test_a_loss_that_returns_a_tensor_is_named(random_model, tmp_path):
    with pytest.raises(ConfigError, match=r"the loss Bare returned .*; expected lit_tpgrpo\.LossOutput\(loss=\.\.\.\)"):
        one_step(TPGRPOModule(random_model, loss=Bare()), tmp_path)
