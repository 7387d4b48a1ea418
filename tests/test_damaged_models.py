"""Model folders that are cut, edited, or hold pickles end in one line that names the folder; nothing of them runs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_tpgrpo import export
from lit_tpgrpo.checksums import CHECKSUMS
from lit_tpgrpo.errors import ConfigError, StorageError
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.training import huggingface
from lit_tpgrpo.training.huggingface import write_folder
from lit_tpgrpo.training.model_card import RunCard

WEIGHTS = "model.safetensors"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def config(**values: Any) -> Callable[[Path], object]:
    return changed("config.json", lambda content: json.dumps(json.loads(content) | values).encode())


def as_bin(content: Callable[[Path], bytes]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(content(folder))

    return damage


def saved_payload(folder: Path) -> bytes:
    path = folder / "made"
    torch.save({"model.embed_tokens.weight": Payload(folder / "ran")}, path)
    return path.read_bytes()


def with_adapter(folder: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.bin").write_bytes(saved_payload(folder))


MODELS = {
    "cut": changed(WEIGHTS, lambda b: b[:-1000]),
    "cut in its header": changed(WEIGHTS, lambda b: b[:50]),
    "empty": changed(WEIGHTS, lambda b: b""),
    "header changed": changed(WEIGHTS, lambda b: b[:20] + b"\xff" + b[21:]),
    "header's length changed": changed(WEIGHTS, lambda b: b"\xff" * 8 + b[8:]),
    "payload": as_bin(saved_payload),
    "bare payload": as_bin(lambda folder: pickle.dumps(Payload(folder / "ran"))),
    "cut archive": as_bin(lambda folder: saved_payload(folder)[:-100]),
    "payload in an adapter": with_adapter,
    "config cut": changed("config.json", lambda b: b[:30]),
    "config a list": changed("config.json", lambda b: b"[]"),
    "config deep": changed("config.json", lambda b: b"[" * 100_000),
    "config of another type": config(hidden_size="x"),
    "config of other weights": config(hidden_size=128),
    "config without heads": config(num_attention_heads=0),
    "index without a map": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / f"{WEIGHTS}.index.json").write_text("{}"),
    ),
    "generation config a list": changed("generation_config.json", lambda b: b"[1]"),
}
TOKENIZERS = {
    "cut": changed("tokenizer.json", lambda b: b[:500]),
    "a list": changed("tokenizer.json", lambda b: b"[]"),
    "an empty object": changed("tokenizer.json", lambda b: b"{}"),
    "deep": changed("tokenizer.json", lambda b: b"[" * 100_000),
    "settings a list": changed("tokenizer_config.json", lambda b: b"[]"),
    "EOS a number": changed("tokenizer_config.json", lambda b: b'{"eos_token": 5}'),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_damaged_model_is_one_line(random_model: str, tmp_path: Path, case: str):
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    MODELS[case](folder)
    with pytest.raises(ConfigError, match=str(folder)) as told:
        load_causal_lm(str(folder), False, None, "sdpa")
    assert "\n" not in str(told.value)
    assert ("could run code" in str(told.value)) is (case in ("payload", "bare payload"))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_damaged_tokenizer_is_one_line(random_model: str, tmp_path: Path, case: str):
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    TOKENIZERS[case](folder)
    with pytest.raises(ConfigError, match=f"no tokenizer could be loaded from the folder '{folder}'") as told:
        load_tokenizer(str(folder))
    assert "\n" not in str(told.value)


def exported(model: str, out: Path) -> Path:
    policy = load_causal_lm(model, False, None, "sdpa")
    return write_folder(out, policy, load_tokenizer(model), policy.named_parameters(), RunCard(model, 1))


def test_the_weights_of_an_export_are_checked_when_they_are_loaded(random_model: str, tmp_path: Path):
    """safetensors has no checksums: a changed byte gives other weights, silently."""
    out = exported(random_model, tmp_path / "out")
    changed(WEIGHTS, lambda b: b[:-500] + bytes([b[-500] ^ 1]) + b[-499:])(out)
    with pytest.raises(ConfigError, match=rf"the weights in the folder '{out}' are damaged \({WEIGHTS}: its checksum"):
        load_causal_lm(str(out), False, None, "sdpa")
    assert load_causal_lm(str(out), True, None, "sdpa")  # its architecture alone
    (out / CHECKSUMS).unlink()
    assert load_causal_lm(str(out), False, None, "sdpa")


def test_an_export_that_reads_back_otherwise_is_not_there(random_model: str, tmp_path: Path, monkeypatch):
    written = huggingface._check_written

    def altered(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        tensors = load_file(folder / WEIGHTS)
        name = next(iter(tensors))
        save_file(tensors | {name: tensors[name] + 1}, folder / WEIGHTS)
        written(folder, weights)

    monkeypatch.setattr(huggingface, "_check_written", altered)
    with pytest.raises(StorageError, match="reads back otherwise than it was written: "):
        exported(random_model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        {"hyper_parameters": {"model": "m"}, "state_dict": {}, "global_step": 1},
        {"hyper_parameters": {"model": "m"}, "state_dict": [], "global_step": 1},
        {"hyper_parameters": {"model": "m"}, "state_dict": {"w": torch.zeros(1)}},
        {"hyper_parameters": {"model": 5}, "state_dict": {"w": torch.zeros(1)}, "global_step": 1},
        {
            "hyper_parameters": {"model": "embedded:tiny-qwen2"},
            "state_dict": {"w": torch.zeros(1)},
            "global_step": 1,
        },
    ],
)
def test_the_export_of_other_contents_is_one_line(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match=r"^error: .+"):
        export.main([str(tmp_path / "other.ckpt"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
