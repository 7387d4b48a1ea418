"""What is exported loads elsewhere and is the policy: from files, shards and running training, whole or not there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lit_tpgrpo import export
from lit_tpgrpo.callbacks import ExportHF, SafeCheckpoint
from lit_tpgrpo.errors import ConfigError, InputError, StorageError
from lit_tpgrpo.export import export_checkpoint
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapter_tensors import plain_parameters
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.huggingface import push_folder, write_folder
from lit_tpgrpo.training.model_card import RunCard
from tests.datamodules.test_rollout_datamodule import data, trainer

ROOT = Path(__file__).parents[1]
IDS = torch.arange(3, 30)[None]


def train(model: str, folder: Path, *callbacks, **kwargs) -> TPGRPOModule:
    torch.manual_seed(0)
    module = TPGRPOModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), **kwargs)
    trainer(folder, *callbacks, enable_checkpointing=True, max_steps=3).fit(module, datamodule=data())
    return module


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def load(folder: Path):
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return model


@pytest.fixture(scope="module")
def untied_model(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As the random model, with a head of its own."""
    folder = tmp_path_factory.mktemp("untied")
    shutil.copytree(random_model, folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(random_model)
    model.config.tie_word_embeddings = False
    untied = type(model)(model.config)
    untied.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_the_callback_writes_the_policy_of_the_moment(random_model, untied_model, tmp_path, tied):
    module = train(random_model if tied else untied_model, tmp_path, ExportHF(str(tmp_path / "hf"), every_n_steps=2))
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == ["step_2", "step_3"]
    early, late = (load(tmp_path / "hf" / f"step_{n}") for n in (2, 3))
    assert torch.equal(logits(late), logits(module.policy_model))
    assert not torch.equal(logits(early), logits(late))
    assert late.config.tie_word_embeddings is tied
    folder = tmp_path / "hf" / "step_3"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == module.tokenizer.get_vocab()
    assert late.generation_config.eos_token_id == tokenizer.eos_token_id
    made = late.generate(IDS, max_new_tokens=4, do_sample=False)
    assert made.shape[1] <= IDS.shape[1] + 4
    assert tokenizer.decode(made[0])
    assert list(folder.glob("*.safetensors"))


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
ONE_GROUP = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_routed_experts": 4}
OTHERS = {
    "qwen3_moe": {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, **EXPERTS},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "deepseek_v3": {"num_key_value_heads": 4, **LATENT, **EXPERTS, **ONE_GROUP},
    "gemma4_text": {"num_key_value_heads": 2, "head_dim": 8},
}
BUFFERS = {  # of the weights, beside the parameters
    "qwen3_moe": [],
    "mixtral": [],
    "deepseek_v3": ["model.layers.1.mlp.gate.e_score_correction_bias"],
    "gemma4_text": ["model.layers.0.layer_scalar", "model.layers.1.layer_scalar"],
}


def other_model(kind: str, vocabulary: int):
    """A tiny model of another architecture, with buffers that are not those it begins with."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, max_position_embeddings=128, **SIZES, **OTHERS[kind])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, buffer in model.named_buffers():
        if name in BUFFERS[kind]:
            buffer.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("adapter", [None, LoRA(4, 8.0, ["q_proj", "q_a_proj", "o_proj"])], ids=str)
@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_are_exported_whole(random_model, tmp_path, kind, adapter):
    """Experts whose weights have other names and shapes in files than in memory, and weights that no optimizer changes."""
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    module = TPGRPOModule(other_model(kind, len(tokenizer)), tokenizer=tokenizer, adapter=adapter)
    module.configure_model()
    model = module.policy_model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    assert [name for name, _ in plain_parameters(model)] == [
        n for n, _ in module.named_tensors() if n not in BUFFERS[kind]
    ]
    named = dict(module.named_tensors())
    assert list(named)[len(named) - len(BUFFERS[kind]) :] == BUFFERS[kind]
    out = write_folder(tmp_path / "out", model, module.tokenizer, module.named_tensors(), RunCard(kind, 1))
    torch.testing.assert_close(logits(load(out)), logits(model), rtol=0, atol=0.0 if adapter is None else 1e-5)


def test_adapters_on_experts_are_refused(random_model, tmp_path):
    """peft puts them on parameters of three dimensions, which are not merged: the experts would be missing in the files."""
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    module = TPGRPOModule(other_model("qwen3_moe", len(tokenizer)), tokenizer=tokenizer, adapter=LoRA(4, 8.0))
    module.configure_model()
    with pytest.raises(ConfigError, match=r"adapters on model\.layers\.0\.mlp\.experts cannot be merged"):
        write_folder(tmp_path / "o", module.policy_model, tokenizer, module.named_tensors(), RunCard("x", 1))
    assert list(tmp_path.iterdir()) == []


def test_buffers_are_written_as_precise_as_they_are(random_model, tmp_path):
    """A router chooses experts by sums with them; transformers keeps them in float32, too."""
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    model, (name,) = other_model("deepseek_v3", len(tokenizer)), BUFFERS["deepseek_v3"]
    tensors = {**dict(model.named_parameters()), name: model.get_buffer(name)}
    out = write_folder(tmp_path / "out", model, tokenizer, tensors.items(), RunCard("x", 1), torch.bfloat16)
    assert torch.equal(load(out).get_buffer(name), model.get_buffer(name))


def test_weights_that_an_architecture_does_not_write_are_missed(random_model, tmp_path, monkeypatch):
    written = PreTrainedModel.save_pretrained

    def without_norm(self, folder, state_dict):
        del state_dict["model.norm.weight"]
        written(self, folder, state_dict=state_dict)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", without_norm)
    model = AutoModelForCausalLM.from_pretrained(random_model)
    expected = sum(p.numel() for p in model.parameters())
    with pytest.raises(StorageError, match=f"hold {expected - 64:,} of {expected:,} numbers.*; take another version"):
        rewritten(random_model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_callback_that_is_used_again_writes_again(random_model, tmp_path):
    callback = ExportHF(every_n_steps=3)
    for name in "ab":
        train(random_model, tmp_path / name, callback)
    written = sorted(tmp_path.rglob("step_3"))
    assert [path.relative_to(tmp_path).parts[0] for path in written] == ["a", "b"]
    for folder in written:
        load(folder)


def test_an_export_changes_nothing_of_the_training(random_model, tmp_path):
    plain = train(random_model, tmp_path / "a")
    exported = train(random_model, tmp_path / "b", ExportHF(every_n_steps=1))
    for (name, a), b in zip(plain.named_tensors(), dict(exported.named_tensors()).values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    "settings", [{}, {"adapter": LoRA(4, 8.0)}, {"adapter": LoRA(4), "quantization": "nf4"}], ids=str
)
@pytest.mark.slow
def test_a_checkpoint_is_exported_with_its_adapter_merged(random_model, tmp_path, settings):
    module = train(random_model, tmp_path, SafeCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1), **settings)
    out = export_checkpoint(tmp_path / "ckpt", tmp_path / "out")
    model = load(out)
    exact = "adapter" not in settings
    torch.testing.assert_close(logits(model), logits(module.policy_model), rtol=0, atol=0.0 if exact else 1e-4)
    base = AutoModelForCausalLM.from_pretrained(random_model)
    assert float((logits(model) - logits(base)).abs().max()) > 1e-3
    assert not hasattr(model.config, "quantization_config")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    half = load(export_checkpoint(tmp_path / "ckpt", tmp_path / "half", dtype="bfloat16"))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("settings", [{}, {"adapter": LoRA(4, 8.0)}], ids=str)
def test_a_run_from_random_weights_needs_no_weights_of_the_model(random_model, tmp_path, settings):
    """The weights under an adapter are those of the run's seed, which the export does not know: it refuses other ones."""
    bare = tmp_path / "bare"
    shutil.copytree(random_model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    saved = SafeCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=3)
    module = train(str(bare), tmp_path, saved, random_init=True, **settings)
    if settings:
        with pytest.raises(ConfigError, match="was trained on other weights"):
            export_checkpoint(tmp_path / "ckpt", tmp_path / "out")
        return
    model = load(export_checkpoint(tmp_path / "ckpt", tmp_path / "out"))
    assert torch.equal(logits(model), logits(module.policy_model))


@pytest.mark.slow
def test_the_command_and_a_model_that_moved(random_model, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(random_model, home)
    module = train(str(home), tmp_path, SafeCheckpoint(dirpath=tmp_path / "run" / "checkpoints", every_n_train_steps=3))
    home.rename(tmp_path / "moved")
    (tmp_path / "run" / "config.yaml").write_text(
        "seed_everything: 0\nmodel:\n  model: /home/somebody/model\n  kl_beta: 0.1\n"
    )

    moved = [str(tmp_path / "run"), str(tmp_path / "out"), "--model", str(tmp_path / "moved")]
    with pytest.raises(SystemExit, match=r"^error: model path"):
        export.main(moved[:2])
    done = subprocess.run(
        [sys.executable, "-m", "lit_tpgrpo.export", *moved],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"written: {tmp_path / 'out'}"
    assert torch.equal(logits(load(tmp_path / "out")), logits(module.policy_model))
    (stale := tmp_path / "out" / "stale").touch()
    full = f"error: {tmp_path / 'out'} is not empty; give another folder, or --overwrite true to replace it"
    with pytest.raises(SystemExit, match=f"^{re.escape(full)}$"):
        export.main(moved)
    assert stale.exists()
    export.main([*moved, "--overwrite", "true"])
    assert not stale.exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "for 3 optimizer steps" in card
    assert "library_name: transformers" in card
    assert "| loss.clip_low | 0.2 |" in card
    assert "kl_beta: 0.1" in card
    assert "somebody" not in card
    assert str(tmp_path) not in card


def test_a_failed_write_leaves_what_was_there(random_model, tmp_path):
    train(random_model, tmp_path, SafeCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=3))
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="could not be written to"):
        export_checkpoint(tmp_path / "ckpt", tmp_path / "file" / "out")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="is not empty"):
        export_checkpoint(tmp_path / "ckpt", out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    assert not (tmp_path / "out.partial").exists()


def rewritten(model: str, out: Path) -> Path:
    policy = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    return write_folder(out, policy, tokenizer, policy.named_parameters(), RunCard(model, 1), overwrite=True)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else "" for p in sorted(folder.rglob("*"))}


def refused(monkeypatch: pytest.MonkeyPatch, refuse: Callable[[Path, Path], bool]) -> None:
    """Let renames fail as those of a mount point do."""
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def renamed(a, b, real=real) -> None:
            if refuse(Path(a), Path(b)):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            real(a, b)

        monkeypatch.setattr(os, name, renamed)


HELD = {"mine.txt": "kept", "sub": "", "sub/more.txt": "kept, too"}


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A folder that holds something."""
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "mine.txt").write_text("kept")
    (tmp_path / "out" / "sub" / "more.txt").write_text("kept, too")
    return tmp_path / "out"


def test_what_cannot_be_renamed_leaves_what_was_there(random_model, held, monkeypatch):
    refused(monkeypatch, lambda a, b: a.name == "out.partial")
    with pytest.raises(StorageError, match=r"could not be written to .*out \(Device or resource busy\)"):
        rewritten(random_model, held)
    assert contents(held) == HELD
    assert [p.name for p in held.parent.iterdir()] == ["out"]


def test_what_cannot_be_put_back_is_named(random_model, held, monkeypatch):
    refused(monkeypatch, lambda a, b: b == held)
    with pytest.raises(StorageError, match=r"before is in (\S*), the model in (\S*); rename") as caught:
        rewritten(random_model, held)
    found = re.search(r"before is in (\S*), the model in (\S*); rename", str(caught.value))
    assert found is not None
    assert contents(Path(found[1])) == HELD
    load(Path(found[2]))


@pytest.mark.parametrize("empty", [True, False])
def test_a_mount_point_is_filled(random_model, held, monkeypatch, empty):
    if empty:
        shutil.rmtree(held)
        held.mkdir()
    inode = held.stat().st_ino
    refused(monkeypatch, lambda a, b: held in (a, b))
    load(rewritten(random_model, held))
    assert held.stat().st_ino == inode
    assert not {path.name for path in held.iterdir() if path.name.startswith((".", "mine", "sub"))}
    assert [p.name for p in held.parent.iterdir()] == ["out"]


def test_a_mount_point_that_is_full_keeps_what_it_held(random_model, held, monkeypatch):
    refused(monkeypatch, lambda a, b: held in (a, b))
    real = shutil.copy2

    def full(a, b, **options):
        if Path(a).name == "tokenizer.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(a, b, **options)

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(StorageError, match="No space left on device"):
        rewritten(random_model, held)
    assert contents(held) == HELD
    assert [p.name for p in held.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("there", ["empty", "full", "missing"])
def test_a_link_leads_to_the_folder_that_is_written(random_model, held, tmp_path, there):
    if there != "full":
        shutil.rmtree(held)
    if there == "empty":
        held.mkdir()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link"
    link.symlink_to("../out")
    assert rewritten(random_model, link) == link
    assert link.is_symlink()
    load(held)
    assert not (held / "mine.txt").exists()
    assert sorted(p.name for p in (*tmp_path.iterdir(), *link.parent.iterdir())) == ["link", "links", "out"]


def test_a_file_is_replaced(random_model, tmp_path):
    (tmp_path / "out").write_text("a file")
    load(rewritten(random_model, tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        export_checkpoint(tmp_path / "no.ckpt", tmp_path / "out")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="is not a checkpoint of TPGRPOModule"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "out")


def test_the_card_names_a_hub_model_and_no_folder_of_this_machine():
    card = RunCard("Qwen/Qwen3-0.6B", 5, {"kl_beta": 0.1, "store": "/data/x"}, metrics={"eval/avg@4": 0.5}).text()
    assert "base_model: Qwen/Qwen3-0.6B" in card
    assert "| eval/avg@4 | 0.5000 |" in card
    assert "/data/x" not in card
    assert "base_model" not in RunCard("/data/model", 5).text().split("---")[1]


CONFIG = """# lightning.pytorch==2.6
seed_everything: 0
trainer:
  logger:
  - class_path: lightning.pytorch.loggers.CometLogger
    init_args:
      api_key: SECRET-KEY-123
      workspace: team
      offline: false
  - class_path: mine.Gateway
    init_args:
      headers: {Authorization: Bearer SECRET-1, X-Api-Key: SECRET-2, Cookie: sid=SECRET-3, Accept: json}
      auth: [alice, SECRET-4]
      client_secret: SECRET-5
      password: 12345678
      hubToken: SECRET-6
      APIKey: SECRET-9
      credentials: {user: SECRET-7}
      url: https://SECRET-8@host/v1
data:
  files:
  - /home/alice/secret/x.jsonl
  - ../alice/y.jsonl
  by_file: {/home/alice/z.jsonl: 3, gsm8k/main: 4}
  nested: [[{deep: {deeper: ["~/alice"]}}]]
  block: |
    text
    /home/alice/w
  betas: [0.9, 0.99]
  nothing: []
  judge:
    api_key_env: OPENAI_API_KEY
    max_tokens: 400
    eos_token: </s>
    pad_token: 0
    stop_tokens: ["###"]
    per_token: true
    token_values: {high: 0.5}
    tokens_per_microbatch: 1024
    normalisation: token
    key: null
    keyword: authored
"""
SHOWN = """seed_everything: 0
trainer:
  logger:
  - class_path: lightning.pytorch.loggers.CometLogger
    init_args:
      workspace: team
      offline: false
  - class_path: mine.Gateway
    init_args:
      headers:
        Accept: json
data:
  by_file:
    gsm8k/main: 4
  betas:
  - 0.9
  - 0.99
  nothing: []
  judge:
    api_key_env: OPENAI_API_KEY
    max_tokens: 400
    eos_token: </s>
    pad_token: 0
    stop_tokens:
    - '###'
    per_token: true
    token_values:
      high: 0.5
    tokens_per_microbatch: 1024
    normalisation: token
    key: null
    keyword: authored
"""


def test_the_card_shows_of_the_configuration_neither_keys_nor_paths():
    card = RunCard("Qwen/Qwen3-0.6B", 5, run=CONFIG).text()
    assert card.partition("```yaml\n")[2].partition("```")[0] == SHOWN


@pytest.mark.parametrize("run", ["", "- a: b: /home/alice\n", "/home/alice", "a: &a [*a]", "[" * 100], ids=str)
def test_a_configuration_that_cannot_be_read_is_not_shown(run):
    card = RunCard("Qwen/Qwen3-0.6B", 5, run=run).text()
    assert "configuration" not in card
    assert "alice" not in card


def test_the_card_shows_no_secret_setting_and_no_registered_key(monkeypatch):
    monkeypatch.setattr("lit_tpgrpo.redaction._spellings", ["a1B2c3d4"])
    loss = {"class_path": "mine.Loss", "init_args": {"api_key": "SECRET-1", "scale": 2}}
    settings = {"loss": loss, "token": "SECRET-2", "label": "of a1B2c3d4"}
    card = RunCard("Qwen/a1B2c3d4", 5, settings, run="label: of a1B2c3d4").text()
    assert "SECRET" not in card
    assert "a1B2c3d4" not in card
    assert "| loss.scale | 2 |" in card
    assert "| label | of [key] |" in card
    assert "label: of [key]" in card


def test_an_upload_that_cannot_be_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with pytest.raises(InputError, match="not a name/of/three could not be uploaded"):
        push_folder(tmp_path, "not a name/of/three")
