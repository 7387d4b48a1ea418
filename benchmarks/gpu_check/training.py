"""Parts that train the embedded policy with ``train.py``: does a setting run, does it learn, do engine and trainer agree?"""

from __future__ import annotations

import csv
import math
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import torch

from benchmarks.gpu_check.bench import ROOT, Bench, Value

SETTINGS = "benchmarks/gpu_check/two_steps.yaml"
PRECISIONS = ("32", "bf16-mixed", "16-mixed", "bf16-true")
# Two groups with both correct and incorrect solutions: with fewer or shorter ones there is no gradient.
_TINY = ("--data.problems_per_step=2", "--data.train.n=16", "--trainer.max_steps=1")
_QUICKSTART_TINY = (
    *(
        "--data.group_size=2",
        "--data.problems_per_step=2",
        "--data.steps_per_epoch=2",
        "--data.sampling.max_new_tokens=64",
    ),
    *("--data.val.n=4", "--data.eval_samples=1", "--data.train.n=32", "--data.keep=all", "--trainer.max_steps=2"),
    "--trainer.val_check_interval=2",
)
# Logged metrics of a step, and their columns in the table.
_SHOWN = {
    "train/loss": "loss",
    "train/grad_norm": "grad norm",
    "train/step_skipped": "last step skipped",
    "train/loss_scale": "loss scale",
    "mismatch/logprob_mean": "mean log-prob gap",
    "mismatch/logprob_max": "max log-prob gap",
}
# Maximum mean |engine - trainer| of a token's log-prob; above it, their arithmetic differs. Measured on a CPU at full size:
# 4.7e-7 in 32, 3.6e-4 in bf16-mixed, 4.4e-4 in bf16-true; 16-mixed rounds less than bf16.
_PARITY = {"32": 1e-4, "bf16-mixed": 5e-3, "16-mixed": 5e-3, "bf16-true": 5e-3}


class PartFailed(Exception):
    """A part ran to its end, but a measured value is wrong."""


def accelerator(bench: Bench) -> str:
    """Return Lightning's name of the device."""
    return "gpu" if bench.device == "cuda" else "cpu"


# ---- quickstart ----


def quickstart(bench: Bench) -> None:
    """Run ``train.py fit`` with half of the quickstart's steps, and read the accuracies in its last line."""
    arguments = [
        *("fit", "--config", "configs/quickstart.yaml", f"--trainer.accelerator={accelerator(bench)}"),
        *("--trainer.max_steps=40", "--trainer.val_check_interval=40"),
        *(f"--trainer.logger.save_dir={bench.scratch}", f"--trainer.default_root_dir={bench.scratch}"),
        *(_QUICKSTART_TINY if bench.tiny else ()),
    ]
    start = time.perf_counter()
    status, output = run_echoed([sys.executable, "train.py", *arguments])
    seconds = time.perf_counter() - start
    if status != 0:
        raise PartFailed(f"train.py ended with {status}")
    before, after = held_out_accuracies(output)
    bench.row("quickstart", **{"held-out before": before, "after": after, "seconds": round(seconds, 1)})
    if not bench.tiny and after < before + 0.2:
        raise PartFailed(f"held-out accuracy went from {before} to {after}: the policy did not learn")


def run_echoed(command: Sequence[str]) -> tuple[int, str]:
    """Run a program in the repository's root and print its lines as they arrive, so that a kill does not lose them.

    Returns:
        The exit status, and the output including stderr.
    """
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return program.returncode, "".join(lines)


def held_out_accuracies(output: str) -> tuple[float, float]:
    """Return the two numbers of the last line ``held-out accuracy B -> A``."""
    matches = re.findall(r"held-out accuracy ([\d.]+) -> ([\d.]+)", output)
    if not matches:
        raise PartFailed(f"no held-out accuracy in the output, which ends: {output[-300:]}")
    before, after = matches[-1]
    return float(before), float(after.rstrip("."))


# ---- two steps ----


def fit(bench: Bench, label: str, *arguments: str) -> list[dict[str, float]]:
    """Run ``train.py fit`` for two steps in this process, store a row of its metrics, and return the metrics of each step.

    Raises:
        PartFailed: it ended with an error message, the loss or the gradient is not finite, no step had a gradient, or nothing
            was logged.
    """
    import train

    folder = bench.scratch / re.sub(r"\W+", "-", label)
    bench.reset_peak()
    start = time.perf_counter()
    settings = [
        *("fit", "--config", SETTINGS, f"--trainer.accelerator={accelerator(bench)}"),
        *(f"--trainer.logger.save_dir={folder}", f"--trainer.default_root_dir={folder}"),
        *(_TINY if bench.tiny else ()),
        *arguments,
    ]
    try:
        train.main(settings)
    except SystemExit as error:  # how train.py reports a user error
        raise PartFailed(f"train.py ended: {error}") from error
    seconds = time.perf_counter() - start
    steps = logged_steps(folder)
    last = steps[-1]
    values: dict[str, Value] = {column: _short(last[name]) for name, column in _SHOWN.items() if name in last}
    bench.row(label, steps=len(steps), **values, **{"peak GiB": bench.peak_gib(), "seconds": round(seconds, 1)})
    # A step that 16-mixed skips has no gradient norm.
    bad = [n for n in ("train/loss", "train/grad_norm") if not all(math.isfinite(s[n]) for s in steps if n in s)]
    if bad:
        raise PartFailed(f"{label}: {', '.join(bad)} not finite")
    check_that_it_trained(label, steps)
    bench.free()
    return steps


def logged_steps(folder: Path) -> list[dict[str, float]]:
    """Read the metrics of each optimizer step, in order, from the file of a run's CSV logger."""
    paths = sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise PartFailed(f"no metrics were logged in {folder}")
    with open(paths[-1], newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    steps = [row for row in rows if "train/loss" in row]
    if not steps:
        raise PartFailed(f"no optimizer step was logged in {paths[-1]}")
    return steps


def check_that_it_trained(label: str, steps: Sequence[Mapping[str, float]]) -> None:
    """Check that a step changed the weights: one neither skipped for overflow (16-mixed) nor with a gradient of 0.

    Raises:
        PartFailed: there is no such step.
    """
    if all(s.get("train/step_skipped", 0.0) for s in steps):
        raise PartFailed(f"{label}: all {len(steps)} steps were skipped, their gradients overflowed")
    if not any(s.get("train/grad_norm", 0.0) > 0 and not s.get("train/step_skipped", 0.0) for s in steps):
        raise PartFailed(f"{label}: the gradient's norm is 0 in all {len(steps)} steps, nothing was trained")


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def precisions(bench: Bench) -> None:
    """Run two steps in each precision, and check the mismatch between the engine's log-probs and the trainer's.

    16-mixed gets four steps, because its loss scale may be too large for the first ones, which are then skipped.
    """
    wrong = []
    for precision in PRECISIONS:
        if precision == "16-mixed" and bench.device == "cpu":
            continue  # Lightning uses bf16-mixed instead
        with bench.attempt(precision):
            more = ("--trainer.max_steps=4",) if precision == "16-mixed" else ()
            steps = fit(bench, precision, f"--trainer.precision={precision}", *more)
            gap = steps[-1]["mismatch/logprob_mean"]
            if not gap <= _PARITY[precision]:
                wrong.append(f"{precision}: {gap:.3g} > {_PARITY[precision]}")
    if wrong:
        raise PartFailed(f"engine and trainer disagree, mean |difference| of log-probs: {'; '.join(wrong)}")


def fsdp(bench: Bench, *arguments: str) -> None:
    """Run two steps with FSDP2 on one rank, with NCCL on a GPU and gloo on a CPU.

    Args:
        bench: the part's settings.
        arguments: further arguments of ``train.py``.
    """
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import get_backend_config

    from lit_tpgrpo import cli
    from lit_tpgrpo.distributed import end_process_group

    groups: list[tuple[str, int]] = []

    def record_and_end() -> None:
        if dist.is_initialized():
            groups.append((get_backend_config(), dist.get_world_size()))
        end_process_group()

    offload = any("cpu_offload" in a for a in arguments) and bench.device == "cuda"
    with mock.patch.object(cli, "end_process_group", record_and_end):  # afterwards there is no group to look at
        fit(
            bench,
            " ".join(("FSDP2", *(Path(a).stem if a.endswith(".yaml") else a for a in arguments if a != "--config"))),
            "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
            "--trainer.strategy.data_parallel_size=1",
            "--trainer.strategy.tensor_parallel_size=1",
            *(("--trainer.strategy.process_group_backend=cpu:gloo,cuda:nccl",) if offload else ()),
            *arguments,
        )
    if not groups:
        raise PartFailed("no process group was used")
    backends, ranks = groups[0]
    bench.row("process group", backends=backends, ranks=ranks)
    if bench.device == "cuda" and "nccl" not in backends:
        raise PartFailed(f"expected NCCL, got {backends}")


def lora(bench: Bench) -> None:
    """Run two steps with LoRA, with the policy without its adapter as the reference."""
    fit(bench, "LoRA", "--config", "configs/memory/lora.yaml")
    if not bench.tiny:
        fit(bench, "LoRA, bf16-mixed", "--config", "configs/memory/lora.yaml", "--trainer.precision=bf16-mixed")


def references(bench: Bench) -> None:
    """Run with each kind of reference copy; its KL must be 0 before the first step and positive after it."""
    for name in ("frozen", "offloaded"):
        steps = fit(bench, f"reference {name}", f"--model.reference={name}")
        kl = [step["train/kl_ref"] for step in steps]
        bench.row(f"KL to it, {name}", **{"step 1": _short(kl[0]), "last step": _short(kl[-1])})
        if not abs(kl[0]) < 1e-5:
            raise PartFailed(f"the KL to the {name} reference is {kl[0]} before the first step, which must be 0")
        if not bench.tiny and not kl[-1] > 1e-6:
            raise PartFailed(f"the KL to the {name} reference is {kl[-1]} after a step: the reference changed too")


def resume(bench: Bench) -> None:
    """Resume a checkpoint of the device on the CPU, and the CPU's checkpoint on the device."""
    device = accelerator(bench)
    checkpoint: Path | None = None
    for steps, name in ((1, device), (2, "cpu"), (3, device)):
        label = f"step {steps} on {name}"
        folder = bench.scratch / re.sub(r"\W+", "-", label)
        fit(
            bench,
            label,
            f"--trainer.accelerator={name}",
            f"--trainer.max_steps={steps}",
            "--trainer.enable_checkpointing=true",
            "--trainer.callbacks+=lit_tpgrpo.callbacks.SafeCheckpoint",
            "--trainer.callbacks.every_n_train_steps=1",
            *(() if checkpoint is None else (f"--ckpt_path={checkpoint}",)),
        )
        checkpoint = newest_checkpoint(folder)
        step = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
        if step != steps:
            raise PartFailed(f"{label}: the checkpoint is of step {step}")


def newest_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint file in a folder."""
    paths = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise PartFailed(f"no checkpoint in {folder}")
    return paths[-1]


def bitsandbytes(bench: Bench) -> None:
    """Run two steps with 4-bit weights under LoRA, and with Adam's moments in 8 bits, paged or not."""
    for label, config in (("nf4", "qlora"), ("8-bit AdamW", "adamw8bit"), ("paged 8-bit AdamW", "paged_adamw8bit")):
        with bench.attempt(label):
            fit(bench, label, "--config", f"configs/memory/{config}.yaml")
