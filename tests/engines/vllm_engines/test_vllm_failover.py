"""Two real vLLM servers of which one is killed, frozen, or started again while they sample."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.vllm import VLLMServer
from lit_tpgrpo.pretrained import resolve_model
from tests.engines.vllm_engines.conftest import build_policy, session_members, spread
from tests.engines.vllm_engines.real_server import KEY, RealServer

ROOT = Path(__file__).parents[3]
MODEL = "embedded:tiny-qwen2"
PROMPTS = [[5 + i, 6 + i, 7] for i in range(24)]
PARAMS = SamplingParams(120)
N = 2
EXACT = 1e-5


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    started = [RealServer(MODEL, tmp_path_factory.mktemp("server")) for _ in range(2)]
    for server in started:
        server.launch()
    for server in started:
        server.await_ready()
    yield started
    for server in started:
        if server.process.poll() is None:
            server.end(signal.SIGTERM)


def start_sampling(engine):
    return engine.sample(PROMPTS, N, PARAMS, spread(0, PROMPTS))


def assert_same(done, reference):
    """The tokens are the same; log-probs differ by no more than what batches of other sizes round differently."""
    assert done.keys() == reference.keys()
    for index, completions in done.items():
        for ours, theirs in zip(completions, reference[index], strict=True):
            assert ours.token_ids.tolist() == theirs.token_ids.tolist()
            assert max(abs(a - b) for a, b in zip(ours.logprobs, theirs.logprobs, strict=True)) < EXACT


def test_servers_that_are_killed_frozen_and_started_again(pair, caplog):
    first, second = pair
    policy = build_policy(str(resolve_model(MODEL)), version=4)
    engine = VLLMServer([first.url, second.url], silence_timeout_s=20.0, probe_interval_s=0.2, absence_timeout_s=600.0)
    engine.load_weights(policy)
    reference = dict(start_sampling(engine))

    stream = start_sampling(engine)
    done = dict([next(stream)])
    second.kill()
    assert_same(done | dict(stream), reference)
    assert any(f"the vLLM server {second.url} is lost" in message for message in caplog.messages)

    second.launch()
    second.await_ready()
    stream = start_sampling(engine)  # it has the weights of its folder: it is looked at, and given those of this round
    done = dict([next(stream)])
    first.kill()
    assert_same(done | dict(stream), reference)
    assert f"the vLLM server {second.url} is back and is used again" in caplog.messages

    first.launch()
    first.await_ready()
    engine.load_weights(policy)
    caplog.clear()
    stream = start_sampling(engine)
    done = dict([next(stream)])
    frozen = first.engine_core()  # the process that answers /health goes on
    frozen.send_signal(signal.SIGSTOP)
    assert_same(done | dict(stream), reference)
    assert any(f"{first.url} did not answer weight_info in 20 s" in message for message in caplog.messages)
    frozen.send_signal(signal.SIGCONT)
    engine.load_weights(policy)  # refused by a server that still works on what was asked of it before
    assert f"the vLLM server {first.url} is back and is used again" in caplog.messages
    assert_same(dict(start_sampling(engine)), reference)
    engine.close()


def test_a_run_whose_servers_are_gone_ends_with_a_checkpoint_and_goes_on_from_it(pair, tmp_path):
    """Killed in mid-round, the only server comes back for the resumed run."""
    server = pair[0]
    process = train(tmp_path, server, "--trainer.max_steps", "400", "--data.engine.init_args.absence_timeout_s", "3")
    assert process.stdout is not None
    for line in process.stdout:
        if "round 1 |" in line:
            server.kill()
            break
    out, err = process.communicate()
    assert process.returncode == 1, err[-3000:]
    last = err.strip().splitlines()[-1]
    assert re.match(
        rf"error: no vLLM server was available for 3 s \({server.url}: .*\)\. All samples are stored", last
    ), last
    checkpoint = re.search(r"resume with --ckpt_path (\S+)", out)
    assert checkpoint is not None, out
    assert session_members(process.pid) == []
    server.launch()
    server.await_ready()
    step = int(re.search(r"step=(\d+)", checkpoint[1])[1]) if "step=" in checkpoint[1] else 4  # pyright: ignore
    process = train(tmp_path, server, "--trainer.max_steps", str(step + 1), "--ckpt_path", checkpoint[1])
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]


def train(folder: Path, server: RealServer, *options: str) -> subprocess.Popen[str]:
    """The quickstart with this server, in a session of its own."""
    command = [
        *(sys.executable, "train.py", "fit", "--config", "configs/quickstart.yaml"),
        *("--config", "configs/engine/vllm_server.yaml", "--data.engine.init_args.urls", server.url),
        *("--data.engine.init_args.silence_timeout_s", "20", "--data.engine.init_args.probe_interval_s", "0.5"),
        *("--trainer.logger.save_dir", str(folder), "--trainer.default_root_dir", str(folder)),
        *("--data.problems_per_step", "2", "--data.steps_per_round", "2", "--data.eval_samples", "1"),
        *("--trainer.limit_val_batches", "2", "--trainer.accelerator", "cpu", *options),
    ]
    pipe, given = subprocess.PIPE, {**os.environ, "VLLM_API_KEY": KEY}
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=given)
