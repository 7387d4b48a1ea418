"""``VLLMServer`` over servers that come and go: real HTTP and real processes, with the weights' way through vLLM replaced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_tpgrpo.engines.base import AdapterWeights, Interruptible, SamplingParams
from lit_tpgrpo.engines.vllm import VLLMServer, server
from lit_tpgrpo.engines.vllm.weight_forms import WeightUpdate
from lit_tpgrpo.engines.vllm.weights import WeightSender
from lit_tpgrpo.errors import ConfigError, EngineError, raised_on_all_ranks
from tests.engines.rollout_stand_in import completions
from tests.engines.test_rollout_servers import KEY, StandIn

ROOT = Path(__file__).parents[2]
PROMPTS = [[index, index + 1] for index in range(8)]
SEEDS = [7 * index for index in range(8)]
QUICK = {"silence_timeout_s": 2.0, "probe_interval_s": 0.05, "absence_timeout_s": 0.3}


class Transfer:
    """Tells the stand-in that it has the weights now."""

    def __init__(self, client: Any, log: list[str]) -> None:
        self.server, self.log = client, log
        self.client = SimpleNamespace(version="")
        self.source = SimpleNamespace(select=self.select, drain=lambda: None)

    def select(self, update: WeightUpdate) -> None:
        if update.rank:
            self.log.append(update.key)

    def send_weights(self) -> None:
        self.server.ask("POST", "test", json={"version": self.client.version})
        self.log.append(self.client.version.split(" of run ")[0])

    def shutdown(self) -> None:
        self.log.append("shutdown")


class Sender(WeightSender):
    log: list[str]

    def _open(self, server: Any) -> None:
        self.log.append("open")
        self._transfers[server] = Transfer(server.client, self.log)


class Policy:
    def __init__(self, version: int = 0) -> None:
        self.policy_version = version
        eos = SimpleNamespace(eos_token_id=1)
        self.policy_model: Any = torch.nn.Linear(1, 1)
        self.policy_model.generation_config, self.policy_model.device = eos, torch.device("cpu")
        self.tokenizer: Any = eos

    def named_tensors(self) -> list[Any]:
        return []


class LoRAPolicy(Policy):
    def adapter_weights(self) -> AdapterWeights:
        return AdapterWeights(8, "fingerprint", list, list)


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch) -> list[str]:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setattr(server, "import_vllm", lambda: None)
    monkeypatch.setattr(server, "WeightSender", Sender)
    Sender.log = []
    return Sender.log


@pytest.fixture
def pair() -> Iterator[list[StandIn]]:
    started = [StandIn(), StandIn()]
    for stand_in in started:
        stand_in.set(version="default")
    yield started
    for stand_in in started:
        stand_in.close()


@pytest.fixture
def engine(pair) -> Iterator[VLLMServer]:
    engine = VLLMServer([s.url for s in pair], **QUICK)
    yield engine
    engine.close()


def sample(engine: VLLMServer) -> None:
    """All prompts, whose completions are those that follow from prompt and seed."""
    done = dict(engine.sample(PROMPTS, 2, SamplingParams(8), SEEDS))
    assert {i: [(list(c.token_ids), list(c.logprobs)) for c in made] for i, made in done.items()} == {
        i: completions(PROMPTS[i], SEEDS[i], 2) for i in range(len(PROMPTS))
    }


def test_each_round_all_servers_get_the_weights(engine, pair, without_vllm):
    for step in (0, 4):
        engine.load_weights(Policy(step))
        sample(engine)
    engine.close()
    assert without_vllm == [
        *("open", "step 0, update 1", "open", "step 0, update 1", "step 4, update 2", "step 4, update 2"),
        *("shutdown", "shutdown"),
    ]
    assert [s.state()["goodbyes"] for s in pair] == [1, 1]
    assert all(s.state()["answered"] > 0 for s in pair)


def test_a_round_begins_without_a_server_that_is_gone_and_takes_it_back_later(engine, pair, caplog):
    pair[1].kill()
    engine.load_weights(Policy())
    sample(engine)
    assert any(f"{pair[1].url} is not used: the vLLM server" in message for message in caplog.messages)
    pair[1].start(version="default")
    engine.load_weights(Policy(1))
    assert f"the vLLM server {pair[1].url} is back and is used again" in caplog.messages
    pair[0].kill()
    sample(engine)
    assert pair[1].state()["version"].startswith("step 1, update 2 of run ")


def test_in_mid_round_it_is_given_the_weights_of_that_round(engine, pair, without_vllm):
    engine.load_weights(Policy(6))
    pair[1].kill()
    pair[1].start(version="default")  # where nothing was sent
    pair[0].kill()
    engine.limits = server.PoolLimits(silence_s=2.0, probe_s=0.05, absence_s=3600.0)
    sample(engine)
    assert without_vllm[-3:] == ["shutdown", "open", "step 6, update 1"]  # a new transfer to a new process


def sent(log: list[str]) -> list[str]:
    """What was sent, in order, since the last look."""
    found = [word for word in log if "adapter" in word]
    log.clear()
    return found


def test_the_weights_beneath_an_adapter_are_sent_once_and_again_to_servers_that_lost_them(engine, pair, without_vllm):
    for stand_in in pair:
        stand_in.set(rank=8)
    engine.load_weights(LoRAPolicy(1))
    assert sent(without_vllm) == ["base and adapter"] * 2
    engine.load_weights(LoRAPolicy(2))
    assert sent(without_vllm) == ["adapter"] * 2
    pair[1].kill()
    pair[1].start(version="default", rank=8)
    engine.load_weights(LoRAPolicy(3))
    assert sent(without_vllm) == ["adapter", "base and adapter"]
    pair[0].kill()
    pair[0].start(version="default", rank=8)
    pair[1].kill()
    engine.limits = server.PoolLimits(silence_s=2.0, probe_s=0.05, absence_s=3600.0)
    sample(engine)  # in mid-round
    assert sent(without_vllm) == ["base and adapter"]
    pair[1].start(version="default", rank=8)
    engine.load_weights(Policy(4))  # all weights, without an adapter
    engine.load_weights(LoRAPolicy(5))
    assert sent(without_vllm) == ["base and adapter"] * 2


def test_servers_without_adapters_are_refused_and_merged_weights_need_none(engine, pair, without_vllm):
    message = r"takes no adapters of rank 8; start it with `python -m lit_tpgrpo.serve MODEL --adapter-rank 8`, or set"
    pair[0].set(rank=8)
    pair[1].set(rank=4)
    with pytest.raises(EngineError, match=message):
        engine.load_weights(LoRAPolicy())
    merged = VLLMServer(pair[0].url, **QUICK, adapter="merged")
    without_vllm.clear()
    merged.load_weights(LoRAPolicy())
    assert sent(without_vllm) == []
    merged.close()


def test_one_that_comes_back_with_another_model_is_left_out(engine, pair, caplog):
    engine.load_weights(Policy())
    pair[1].kill()
    pair[1].model = "another-model"
    pair[1].start(version="default")
    sample(engine)
    before = pair[1].state()["answered"]  # not taken, for they said which weights they were of
    engine.load_weights(Policy(1))
    sample(engine)
    assert pair[1].state()["answered"] == before
    assert any("serves another-model with 512 positions, and before it was a-model" in m for m in caplog.messages)


def test_without_servers_the_run_waits_and_ends_with_one_line(engine, pair, caplog):
    for stand_in in pair:
        stand_in.kill()
    with pytest.raises(EngineError) as ending:
        engine.load_weights(Policy())
    assert str(ending.value).startswith("no vLLM server was available for 0.3 s (")
    assert raised_on_all_ranks(ending.value)  # so that a checkpoint is saved
    assert caplog.messages.count("no vLLM server can be used: waiting up to 0.3 s for one") == 1


def test_a_run_waits_for_the_first_server(engine, pair):
    for stand_in in pair:
        stand_in.kill()
    looked = []

    def start() -> None:
        if not looked:
            pair[1].start(version="default")
        looked.append(1)

    assert isinstance(engine, Interruptible)
    engine.while_waiting = start
    engine.limits = server.PoolLimits(silence_s=2.0, probe_s=0.05, absence_s=3600.0)
    engine.load_weights(Policy())
    sample(engine)
    assert looked


def test_a_stop_is_heard_while_no_server_is_there(engine, pair):
    for stand_in in pair:
        stand_in.kill()

    def stop() -> None:
        raise KeyboardInterrupt

    engine.while_waiting = stop
    with pytest.raises(KeyboardInterrupt):
        engine.load_weights(Policy())


def test_setups_that_cannot_work_end_the_run_at_once(pair, monkeypatch):
    other = VLLMServer(pair[0].url)  # with the waits of a real run
    monkeypatch.setenv("VLLM_API_KEY", "another-key-of-some-length")
    with pytest.raises(
        EngineError, match=r"\(401\): .*; it was started with another key than the one in VLLM_API_KEY here"
    ):
        other.load_weights(Policy())
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    pair[0].set(config={"logprobs_mode": "raw_logprobs"})
    with pytest.raises(EngineError, match="returns raw_logprobs"):
        other.load_weights(Policy())
    pair[0].set(key="")
    with pytest.raises(
        EngineError, match="answers without a key, so that anyone who can reach it could replace its weights"
    ):
        other.load_weights(Policy())
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(ConfigError, match="VLLM_API_KEY is not set; set it to the same value for server and training"):
        other.load_weights(Policy())


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ([], "needs an address"),
        ("127.0.0.1:8000", "must look like http://127.0.0.1:8000"),
        ("http://user:secret@host:1", "got one with some of these"),
        (["http://a:1", "http://a:1/"], "urls must be different servers"),
        ("http://a:1?key=x", "without user, password or query"),
    ],
)
def test_addresses_are_checked(urls, said):
    with pytest.raises(ConfigError, match=said) as refused:
        VLLMServer(urls)
    assert "secret" not in str(refused.value)


def test_another_variable_is_sent_where_the_user_allows_it(monkeypatch):
    with pytest.raises(
        ConfigError, match="VLLMServer: api_key_env is AWS_SECRET_ACCESS_KEY, so the value of that variable"
    ):
        VLLMServer("http://a:1", api_key_env="AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("LIT_TPGRPO_API_KEY_ENVS", "CLUSTER_KEY@a")
    assert VLLMServer("http://a:1", api_key_env="CLUSTER_KEY").urls == ["http://a:1"]


def test_a_key_that_a_server_repeats_is_not_in_the_message(engine, pair):
    engine.load_weights(Policy())
    for stand_in in pair:
        stand_in.set(status=400, error=f"you sent {KEY}")
    with pytest.raises(EngineError, match=r"refused inference/v1/generate \(400\): .*you sent \[key\]"):
        sample(engine)


def test_waits_must_be_positive():
    with pytest.raises(ConfigError, match="absence_timeout_s must be a positive number of seconds, got 0"):
        VLLMServer("http://a:1", absence_timeout_s=0)
    with pytest.raises(ConfigError, match="bucket_mib must be a positive number of MiB, got 0"):
        VLLMServer("http://a:1", bucket_mib=0.0)


@pytest.mark.slow
def test_a_frozen_server_does_not_hold_up_the_end_of_the_process():
    """A thread that reads from it would be joined when Python ends, up to an hour later."""
    program = """
import sys
from lit_tpgrpo.engines.vllm.client import EventLoopThread, ServerClient
loop = EventLoopThread()
client = ServerClient(sys.argv[1], sys.argv[2], "VLLM_API_KEY", loop, 3600.0, 3600.0)
loop.submit(client.ask_async("GET", "weight_info"))
print("asked", flush=True)
"""
    stand_in = StandIn()
    stand_in.freeze()
    command = [sys.executable, "-c", program, stand_in.url, KEY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    stand_in.close()
    assert (done.returncode, done.stdout) == (0, "asked\n"), done.stderr


@pytest.mark.slow
def test_two_processes_agree_on_which_servers_are_there(tmp_path):
    out = tmp_path / "found"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "tests.engines.two_ranks", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert (
            Path(f"{out}.{rank}")
            .read_text()
            .startswith("True no vLLM server was available for 0.3 s (http://127.0.0.1:")
        )
