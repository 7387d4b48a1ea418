"""Loading a policy: what cannot be loaded is named in one line, and the tokenizer is checked on the way."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import httpx

from lit_tpgrpo import pretrained
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.export import export_checkpoint
from lit_tpgrpo.module import TPGRPOModule

SHIPPED = Path(pretrained.resolve_model("embedded:tiny-qwen2"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that is switched on, but no way to it; the addresses that were asked for."""
    asked: list[str] = []

    def refuse(self: object, request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        raise httpx.ConnectError("Name or service not known", request=request)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", refuse)
    return asked


def copy_without(folder: Path, token: str) -> str:
    """The shipped model's folder, whose tokenizer has no such special token."""
    shutil.copytree(SHIPPED, folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    assert settings[token]
    # An absent key would bring back the default of the tokenizer's class.
    file.write_text(json.dumps(settings | {token: None}))
    return str(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not even for whoever would say yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, ran = Path(shutil.copytree(SHIPPED, tmp_path / "model")), tmp_path / "ran"
    names = {
        "AutoConfig": "code.Config",
        "AutoModelForCausalLM": "code.Model",
        "AutoTokenizer": ["code.Tokenizer", None],
    }
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text()) | {"auto_map": names, "model_type": "other"}
        (folder / name).write_text(json.dumps(settings | {"tokenizer_class": "Tokenizer"}))
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    for load in (pretrained.load_tokenizer, lambda name: pretrained.load_causal_lm(name, False, None, "sdpa")):
        with pytest.raises(ConfigError, match="could be loaded from the folder"):
            load(str(folder))
    assert not ran.exists()


def with_code(folder: Path, ran: Path) -> Path:
    """The shipped model as one of its own class, whose module leaves a file behind when it is imported."""
    shutil.copytree(SHIPPED, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, "model_type": "other"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        f"open({str(ran)!r}, 'w').close()\n"
        "class Config(Qwen2Config):\n    model_type = 'other'\n"
        "class Model(Qwen2ForCausalLM):\n    config_class = Config\n"
    )
    return folder


def test_code_that_comes_with_a_model_runs_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [*sys.path])
    ran = tmp_path / "ran"
    folder = str(with_code(tmp_path / "model", ran))
    with pytest.warns(UserWarning, match="code that comes with .* runs with your rights"):
        module = TPGRPOModule(folder, trust_remote_code=True)
    module.configure_model()
    assert ran.exists()
    assert type(module.policy_model).__name__ == "Model"
    assert "trust_remote_code" not in module.hparams


def test_no_checkpoint_makes_code_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    ran, file = tmp_path / "ran", tmp_path / "last.ckpt"
    folder = str(with_code(tmp_path / "model", ran))
    contents = {"hyper_parameters": {"model": folder, "trust_remote_code": True}, "state_dict": {}, "global_step": 1}
    torch.save(contents | {"pytorch-lightning_version": "2.6.0", "loops": {}}, file)
    for load in (TPGRPOModule.load_from_checkpoint, lambda path: export_checkpoint(path, tmp_path / "out")):
        with pytest.raises((ConfigError, InputError)):
            load(file).configure_model()  # pyright: ignore[reportAttributeAccessIssue]
    assert not ran.exists()


@pytest.mark.filterwarnings("ignore:trust_remote_code is on")
def test_a_model_with_code_of_its_own_is_exported_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The written folder loads as any model with code does, and has the checkpoint's weights."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = str(with_code(tmp_path / "model", tmp_path / "ran"))
    module = TPGRPOModule(folder, trust_remote_code=True)
    module.configure_model()
    with torch.no_grad():
        next(module.parameters()).add_(1)
    contents = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict(), "global_step": 1}
    torch.save(contents | {"pytorch-lightning_version": "2.6.0", "loops": {}}, tmp_path / "last.ckpt")
    written = str(export_checkpoint(tmp_path / "last.ckpt", tmp_path / "out", trust_remote_code=True))
    model = pretrained.load_causal_lm(written, False, None, "sdpa", None, pretrained.HubOptions(None, True))
    assert type(model).__name__ == "Model"
    trained = dict(module.named_tensors())
    assert {name for name, weight in model.named_parameters() if not torch.equal(weight, trained[name])} == set()
    with pytest.raises(ConfigError, match="could be loaded from the folder"):
        pretrained.load_causal_lm(written, False, None, "sdpa")


def test_a_revision_is_that_of_model_and_tokenizer(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, str]] = []

    def refuse(name: str, revision: str, **_: object) -> None:
        asked.append((name, revision))
        raise OSError("not here")

    monkeypatch.setattr(pretrained, "_check_hub_reachable", lambda name, revision: None)
    for auto in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(f"lit_tpgrpo.pretrained.{auto}.from_pretrained", refuse)
    options = pretrained.HubOptions("abc123")
    for load in (pretrained.load_tokenizer, lambda n, o: pretrained.load_causal_lm(n, False, None, "sdpa", None, o)):
        with pytest.raises(ConfigError, match="not here"):
            load("owner/name", options)
    assert asked == [("owner/name", "abc123")] * 2
    with pytest.raises(ConfigError, match="is a folder and has no revision 'abc123'"):
        TPGRPOModule(str(SHIPPED), revision="abc123")


def test_a_tokenizer_without_pad_pads_with_eos_and_says_so_once(tmp_path: Path):
    folder = copy_without(tmp_path / "model", "pad_token")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = TPGRPOModule(folder)
    said = [str(w.message) for w in caught if "no pad token" in str(w.message)]
    assert len(said) == 1
    assert folder in said[0]
    assert "Padding is masked, so it does not affect training" in said[0]
    assert module.tokenizer.pad_token_id == module.tokenizer.eos_token_id is not None


def test_a_tokenizer_with_pad_keeps_it_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = pretrained.load_tokenizer(str(SHIPPED))
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_a_model_whose_tokenizer_has_no_eos_is_refused(tmp_path: Path):
    folder = copy_without(tmp_path / "model", "eos_token")
    with pytest.raises(ConfigError, match=f"{folder}.* has no EOS token.*set eos_token"):
        TPGRPOModule(folder)


@pytest.mark.parametrize("name", ["models/nope", "nope"])
def test_a_relative_folder_that_does_not_exist_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"the folder {tmp_path / name} does not exist, and no hub model") as stop:
        TPGRPOModule(name)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize("name", ["models/-nope", "my model", "models/a--b", "runs/final.git"])
def test_what_cannot_be_a_hub_name_is_never_asked_for(name: str, no_network: list[str]):
    with pytest.raises(ConfigError, match=f"{Path(name).absolute()} does not exist, and '{name}' cannot be a hub name"):
        pretrained.resolve_model(name)
    assert not no_network


def test_without_a_network_the_hub_is_given_up_soon(no_network: list[str], monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(
        ConfigError, match=r"models/nope does not exist.*no connection to http.*: Name or service"
    ) as stop:
        pretrained.load_tokenizer("models/nope")
    assert sum(slept) < 20  # transformers alone: two times 23 seconds of waiting
    assert len(no_network) == 2
    assert "\n" not in str(stop.value)


def test_a_hub_that_answers_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def answer(self: object, request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(404, headers={"X-Error-Code": "RepoNotFound"}, request=request)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with pytest.raises(ConfigError, match=r"models/nope does not exist.*not a valid model identifier") as stop:
        pretrained.load_tokenizer("models/nope")
    assert len(asked) > 1
    assert "\n" not in str(stop.value)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="the package is there")
def test_an_attention_without_its_package_is_named(random_model: str):
    module = TPGRPOModule(random_model, attention="flash_attention_2")
    with pytest.raises(ConfigError, match=r"attention 'flash_attention_2': .*installed; .*sdpa or eager") as stop:
        module.configure_model()
    assert "\n" not in str(stop.value)


def test_a_folder_without_weights_is_called_a_folder(tmp_path: Path):
    shutil.copytree(SHIPPED, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    module = TPGRPOModule(str(tmp_path / "model"))
    with pytest.raises(ConfigError, match="no causal language model could be loaded from the folder") as stop:
        module.configure_model()
    assert "\n" not in str(stop.value)
