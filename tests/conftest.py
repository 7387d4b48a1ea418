"""A tiny model with random weights, made in a second, for tests that need a model but no skill."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.real_data import SAMPLE, WHOLE, WHOLE_IS_THERE, RealData

# The suite gives the same verdict on the same code; `pytest --hypothesis-profile explore` looks for new counterexamples.
# Whether examples are drawn fast enough says something of the machine's load alone.
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile("suite")

# Started in the background of a shell, this process ignores SIGINT, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests for two workers: slow ones first, so that neither waits for the other's last long one at the end.

    Stop where pytest-xdist's groups have no effect, as with pytest 9.2.0: their fixtures would train once a worker.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    scattered = [item.nodeid for item in items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
    if scattered:
        raise pytest.UsageError(
            f"pytest {pytest.__version__} ignores the xdist group of {scattered[0]}; install requirements-dev.txt"
        )
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def torchrun_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """torchrun leaves a folder for logs behind each time, in ``/tmp`` unless it is told where (``--log-dir``)."""
    os.environ["PET_LOG_DIR"] = str(tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random-weight policy of the embedded architecture with its tokenizer, whose outputs are near uniform."""
    from transformers import GenerationConfig

    from lit_tpgrpo.datamodules.arithmetic.tiny import random_policy, tiny_config
    from lit_tpgrpo.datamodules.arithmetic.tokenizer import build_tokenizer, corpus

    folder = tmp_path_factory.mktemp("random-model")
    tokenizer = build_tokenizer(corpus(200, seed=0), vocab_size=400, max_length=512)
    model = random_policy(tiny_config(tokenizer, hidden_size=64, layers=2, heads=2, key_value_heads=1), seed=0)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(
    scope="session",
    params=[SAMPLE, *([pytest.param(WHOLE, marks=pytest.mark.slow)] if WHOLE_IS_THERE else [])],
    ids=lambda data: data.kind,
)
def real_data(request: pytest.FixtureRequest) -> RealData:
    """Real problems and solutions: the repository's sample, and the whole files where they are beside the repository."""
    return request.param
