"""Rollouts and verdicts from a real vLLM server in processes of its own, over real sockets and gloo."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request

import pytest

from lit_tpgrpo.chat.base import ChatRequest
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.engines.base import Engine, SamplingParams
from lit_tpgrpo.engines.vllm import VLLMServer
from lit_tpgrpo.engines.vllm.environment import EXTENSION
from lit_tpgrpo.errors import ConfigError, EngineError, InputError
from lit_tpgrpo.judges.generative import verdicts
from lit_tpgrpo.serve import arguments
from lit_tpgrpo.serve import main as serve
from tests.engines.vllm_engines.conftest import PROMPTS, build_policy, gaps, perturb, spread
from tests.engines.vllm_engines.real_server import KEY, LIMIT_S, RealServer

LENGTH = 40
EXACT = 1e-4


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.fixture(scope="module")
def server(random_model, tmp_path_factory):
    """At the end SIGINT, after which none of it may be left."""
    started = RealServer(random_model, tmp_path_factory.mktemp("server"))
    started.launch()
    started.await_ready()
    yield started.url
    started.end()
    assert KEY not in started.log


def sample(engine, params, n=3, seed=0):
    done = dict(engine.sample(PROMPTS, n, params, spread(seed, PROMPTS)))
    assert sorted(done) == list(range(len(PROMPTS)))
    assert all(len(completions) == n for completions in done.values())
    return done


@pytest.fixture
def engine(server):
    made = VLLMServer(server)
    yield made
    made.close()


def test_weights_reach_the_server_and_stale_ones_differ(engine, random_model):
    assert isinstance(engine, Engine)
    policy = build_policy(random_model)
    with pytest.raises(EngineError, match="without weights"):
        sample(engine, SamplingParams(LENGTH))
    engine.load_weights(policy)
    for temperature in (0.6, 1.3):
        assert gaps(policy, sample(engine, SamplingParams(LENGTH, temperature)), temperature).max() < EXACT
    perturb(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).mean() > 0.05
    engine.load_weights(policy)
    done = sample(engine, SamplingParams(LENGTH))
    assert gaps(policy, done, 1.0).max() < EXACT
    assert sample(engine, SamplingParams(LENGTH)) == done
    greedy = sample(engine, SamplingParams(LENGTH, 0.0))
    assert all(len({tuple(c.token_ids) for c in completions}) == 1 for completions in greedy.values())


@pytest.mark.parametrize("kib", [0.001, 40, 200])
def test_weights_arrive_in_buckets_of_any_size(server, random_model, kib):
    """One tensor a message; a few; the embedding larger than a bucket."""
    engine = VLLMServer(server, bucket_mib=kib / 1024)
    policy = build_policy(random_model)
    perturb(policy)
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT
    engine.close()


def test_strangers_and_web_pages_are_refused(server):
    """What once let a web page put the server to sleep, and write its weights to a path."""
    simple, json, key = (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json"},
        {"Authorization": f"Bearer {KEY}"},
    )
    for route in ("sleep", "pause", "collective_rpc", "update_weights", "v1/chat/completions", "inference/v1/generate"):
        assert status(f"{server}/{route}", simple) == 401
        assert status(f"{server}/{route}", json) == 401
    for route in ("sleep", "pause", "collective_rpc"):
        assert status(f"{server}/{route}", json | key) == 403
    assert status(f"{server}/reset_prefix_cache", simple | key) == 415
    assert status(f"{server}/reset_prefix_cache", json | key | {"Host": "evil.example"}) == 403
    assert status(f"{server}/reset_prefix_cache", json | key | {"Origin": "https://evil.example"}) == 403


def status(url: str, headers: dict[str, str]) -> int:
    """Of a POST with an empty object."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=LIMIT_S) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_second_run_takes_over_and_the_first_one_notices(server, random_model):
    first, second = VLLMServer(server), VLLMServer(server)
    policy = build_policy(random_model)
    first.load_weights(policy)
    second.load_weights(build_policy(random_model, version=9))
    with pytest.raises(
        EngineError, match=r"weights of \S*'step 9, update 1 of run \w+'\S*, expected 'step 0, update 1 of run \w+'"
    ):
        sample(first, SamplingParams(LENGTH))
    second.close()


def test_a_weight_that_does_not_come_is_an_error_and_a_restarted_run_repairs_it(server, random_model):
    engine = VLLMServer(server, transfer_timeout_s=20)
    with pytest.raises(
        EngineError,
        match=r"update_weights \(500\).*1 layers did not get all of their weights: model\.layers\.0\.self_attn\.qkv_proj",
    ):
        engine.load_weights(build_policy(random_model, held_back="model.layers.0.self_attn.v_proj.weight"))
    with pytest.raises(EngineError, match="without weights"):
        sample(engine, SamplingParams(LENGTH))
    policy = build_policy(random_model)
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_a_trainer_that_breaks_off_leaves_a_server_that_the_next_run_can_use(server, random_model):
    policy = build_policy(random_model)

    class Broken(type(policy)):
        looks = 0

        def named_tensors(self):
            type(self).looks += 1
            for count, pair in enumerate(super().named_tensors()):
                if self.looks > 1 and count == 5:  # the first look is for names and shapes
                    raise RuntimeError("a rank is gone")
                yield pair

    with pytest.raises(EngineError, match="a rank is gone"):
        VLLMServer(server, transfer_timeout_s=5).load_weights(Broken(policy.policy_model, policy.tokenizer))
    engine = VLLMServer(server)
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT
    engine.close()


def test_an_iterator_that_is_left_ends_its_requests(engine, server, random_model):
    engine.load_weights(build_policy(random_model))
    stream = engine.sample(PROMPTS * 20, 8, SamplingParams(400, 1.0), spread(0, PROMPTS * 20))
    next(stream)
    stream.close()
    engine.load_weights(build_policy(random_model))  # refused while requests are running


def test_requests_that_do_not_fit_are_refused(engine, random_model):
    engine.load_weights(build_policy(random_model))
    with pytest.raises(InputError, match="more than the 4096 positions"):
        list(engine.sample([[5]], 1, SamplingParams(5000), [0]))


def test_a_server_that_takes_weights_otherwise_is_refused(server, random_model):
    with pytest.raises(EngineError, match=r"takes weights by gloo, and the engine would send them by ipc"):
        VLLMServer(server, transfer="ipc").load_weights(build_policy(random_model))


def test_it_judges_as_an_openai_endpoint(server, random_model):
    chat = OpenAIChat(model=random_model, base_url=f"{server}/v1", api_key_env="VLLM_API_KEY")
    schema = verdicts.MatchingVerdict.model_json_schema()

    async def ask():
        async with chat.session():
            return await asyncio.gather(
                *(
                    chat.complete(
                        ChatRequest("shared", f"q{i}", schema=schema, max_tokens=1500, temperature=1.0, seed=i)
                    )
                    for i in range(20)
                )
            )

    for reply in asyncio.run(ask()):
        verdicts.MatchingVerdict.model_validate_json(reply.text)


def test_without_vllm_an_address_is_needed():
    with pytest.raises(ConfigError, match="needs an address"):
        VLLMServer([])


def test_a_port_in_use_is_one_line_without_vllm():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ending:
            serve(["some/model", "--port", str(port)])
    message = str(ending.value)
    assert message.startswith(f"error: no server can be started on 127.0.0.1:{port} (")
    assert message.endswith("); give another --host or --port")
    with pytest.raises(SystemExit, match=r"no server can be started on 127\.0\.0\.1:70000"):
        serve(["some/model", "--port=70000"])


def test_the_arguments_without_vllm():
    words = arguments(["some/model", "--port", "9", "--transfer", "nccl"], cpu=False)
    assert words[:2] == ["--model", "some/model"]
    assert words[-2:] == ["--port", "9"]
    assert words[words.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert '"nccl"' in words[words.index("--weight-transfer-config") + 1]
    assert words[words.index("--worker-extension-cls") + 1] == EXTENSION
    assert "--enforce-eager" not in words
