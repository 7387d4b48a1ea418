"""Training on vLLM as a user runs it: it learns, and whatever ends it leaves no process behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.engines.vllm_engines.conftest import session_members

ROOT = Path(__file__).parents[3]
LAST_LINE = r"held-out accuracy (\d\.\d{3}) -> (\d\.\d{3})"
EXACT = 1e-4


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The vLLM quickstart in a session of its own, writing into ``folder``."""
    logger = "lightning.pytorch.loggers.TensorBoardLogger"
    command = [
        *(sys.executable, "train.py", "fit", "--config", "configs/quickstart.yaml"),
        *("--config", "configs/quickstart/vllm.yaml"),
        *("--trainer.logger", logger, "--trainer.logger.save_dir", str(folder), "--trainer.logger.name", "run"),
        *("--trainer.default_root_dir", str(folder), "--trainer.accelerator", "cpu", *options),
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def small(*options: str) -> list[str]:
    return [
        *("--data.problems_per_step", "2", "--data.steps_per_round", "2", "--trainer.max_steps", "4"),
        *("--data.val.n", "4", "--data.eval_samples", "2", *options),
    ]


def test_the_vllm_quickstart_learns(tmp_path):
    """Two fifths of its steps. Every round is sampled with the weights of its moment: the trainer finds the same log-probs."""
    process = start(tmp_path, "--trainer.max_steps", "32", "--trainer.val_check_interval", "32")
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    found = re.fullmatch(LAST_LINE, out.strip().splitlines()[-1].strip())
    assert found is not None
    assert float(found[1]) <= 0.62
    assert float(found[2]) >= 0.78
    events = EventAccumulator(str(tmp_path / "run" / "version_0"))
    events.Reload()
    gaps = [e.value for e in events.Scalars("mismatch/logprob_max")]
    assert len(gaps) >= 8
    assert max(gaps[:1]) < EXACT
    # A policy that has grown sharp has tokens of small probability, whose log-probs are worse conditioned.
    assert max(e.value for e in events.Scalars("mismatch/logprob_mean")) < 1e-5
    assert max(e.value for e in events.Scalars("mismatch/kl")) < 1e-8
    assert session_members(process.pid) == []


def test_an_adapter_is_trained_and_sampled_with(tmp_path):
    process = start(tmp_path, "--config", "configs/memory/lora.yaml", *small())
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    assert re.search(LAST_LINE, out)
    events = EventAccumulator(str(tmp_path / "run" / "version_0"))
    events.Reload()
    gaps = [e.value for e in events.Scalars("mismatch/logprob_max")]
    assert len(gaps) >= 2
    assert max(gaps) < EXACT
    assert session_members(process.pid) == []


def test_two_processes_each_with_an_engine_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = start(tmp_path, *small("--trainer.devices", "2", "--trainer.strategy", "ddp"))
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    assert re.search(LAST_LINE, out)
    assert session_members(process.pid) == []


def test_sharded_weights_reach_an_engine_a_rank(random_model, tmp_path):
    """FSDP2 on two processes: gathered name by name, and the trainer's process group outlives the engines."""
    out = tmp_path / "found"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "tests.engines.vllm_engines.sharded_sync", random_model, str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        text = Path(f"{out}.{rank}").read_text()
        found = re.fullmatch(r"rank \d: (\d+) sharded, ([\d.e-]+), group True\n", text)
        assert found, text
        assert int(found[1]) > 20
        assert float(found[2]) < EXACT


def test_after_an_error_nothing_is_left(tmp_path):
    """vLLM has been built and has evaluated when the round finds that its solutions do not fit."""
    process = start(
        tmp_path, *small("--data.sampling.max_new_tokens", "600", "--data.eval_sampling.max_new_tokens", "100")
    )
    _, err = process.communicate()
    assert process.returncode == 1
    assert "together more than the 512 positions" in err.strip().splitlines()[-1]
    assert session_members(process.pid) == []


def test_after_an_interrupt_nothing_is_left_and_a_checkpoint_is(tmp_path):
    process = start(tmp_path, *small("--trainer.max_steps", "400"))
    assert process.stdout is not None
    for line in process.stdout:
        if "round 1 |" in line:
            process.send_signal(signal.SIGINT)
            break
    process.communicate()
    assert process.returncode != 0
    assert session_members(process.pid) == []
    assert list((tmp_path / "run" / "version_0" / "checkpoints").glob("*.ckpt"))
