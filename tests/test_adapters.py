"""LoRA and QLoRA: what trains, what others see of the weights, what a checkpoint holds, what the reference is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, get_peft_model

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses import ClippedSurrogate
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import load_causal_lm
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.padding import Padded
from lit_tpgrpo.training.scoring import reference_logprobs
from tests.datamodules.test_rollout_datamodule import data, trainer

A_LAYER = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
PACKED = "__bnb_optimizer_quant_state__"  # how bitsandbytes saves its moments


def adapted(model: str, **kwargs) -> TPGRPOModule:
    torch.manual_seed(0)
    settings = {
        "adapter": LoRA(4, 8.0),
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.5),
        "loss": ClippedSurrogate(kl_beta=0.1),
    }
    return TPGRPOModule(model, **(settings | kwargs))


def perturb(module: TPGRPOModule) -> None:
    """Give the adapters something to say: B starts at 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.policy_model.named_parameters():
            if ".lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def logprobs(module: TPGRPOModule) -> torch.Tensor:
    sequences = [
        TrainingSequence(torch.arange(3, 8), torch.arange(20, 40), torch.zeros(20), torch.zeros(20)),
        TrainingSequence(torch.arange(9, 11), torch.arange(50, 55), torch.zeros(5), torch.zeros(5)),
    ]
    assert module.policy is not None
    with torch.no_grad():
        return module.policy(Padded(0).collate(sequences), 1.0)[0]


def test_only_adapters_train_and_nothing_changes_before(random_model, tmp_path):
    plain, module = TPGRPOModule(random_model), adapted(random_model)
    plain.configure_model()
    module.configure_model()
    assert torch.equal(logprobs(plain), logprobs(module))
    before = {n: p.detach().clone() for n, p in module.policy_model.named_parameters()}
    trainer(tmp_path, max_steps=2).fit(module, datamodule=data())
    changed = {n for n, p in module.policy_model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if ".lora_" in n}
    assert {n for n, p in module.policy_model.named_parameters() if p.requires_grad} == changed
    assert len(changed) == 28  # A and B of 7 linear layers in each of 2 decoder layers


def test_merged_weights_are_pefts_own(random_model):
    module = adapted(random_model)
    module.configure_model()
    perturb(module)
    base = load_causal_lm(random_model, False, None, "sdpa")
    names = [n for n, _ in base.named_parameters()]
    peft = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    peft.load_state_dict(
        {f"base_model.model.{n}": p for n, p in module.policy_model.state_dict().items() if ".lora_" in n}, strict=False
    )
    merged = dict(peft.merge_and_unload().named_parameters())
    found = dict(module.named_tensors())
    assert list(found) == names
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, merged[name].detach(), rtol=0, atol=1e-6)
    whole = TPGRPOModule(random_model)
    whole.configure_model()
    with torch.no_grad():
        for name, parameter in whole.policy_model.named_parameters():
            parameter.copy_(found[name])
    torch.testing.assert_close(logprobs(whole), logprobs(module), rtol=0, atol=1e-5)
    assert float((logprobs(whole) - logprobs_of_base(random_model)).abs().max()) > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_apart_from_its_weights_makes_up_the_merged_ones(random_model, dtype):
    module = adapted(random_model, dtype=dtype, adapter=LoRA(4, 6.0, ["q_proj", "down_proj"]))
    module.configure_model()
    perturb(module)
    weights = module.adapter_weights()
    assert weights is not None
    base, parts = dict(weights.base_tensors()), dict(weights.tensors())
    original = dict(load_causal_lm(random_model, False, getattr(torch, dtype), "sdpa").named_parameters())
    assert list(base) == list(original)
    assert all(torch.equal(tensor, original[name]) for name, tensor in base.items())
    layers = {name.rpartition(".lora_")[0] for name in parts}
    assert len(layers) == 4  # in each of 2 decoder layers
    assert set(parts) == {f"{layer}.lora_{half}.weight" for layer in layers for half in "AB"}
    for name, merged in module.named_tensors():
        layer, expected = name.removesuffix(".weight"), base[name].float()
        if layer in layers:
            a, b = parts[f"{layer}.lora_A.weight"], parts[f"{layer}.lora_B.weight"]
            assert a.dtype == b.dtype == torch.float32
            assert a.shape[0] == b.shape[1] == weights.rank == 4
            expected = expected + b @ a
        torch.testing.assert_close(merged.float(), expected, rtol=0, atol=1e-6)


def test_weights_without_an_adapter_have_no_parts(random_model):
    module = TPGRPOModule(random_model)
    module.configure_model()
    assert module.adapter_weights() is None


def logprobs_of_base(model: str) -> torch.Tensor:
    module = TPGRPOModule(model)
    module.configure_model()
    return logprobs(module)


def test_the_reference_is_the_same_weights_without_the_adapter(random_model):
    module = adapted(random_model)
    module.configure_model()
    perturb(module)
    assert type(module._reference).__name__ == "AdapterOff"
    sequence = TrainingSequence(torch.arange(3, 8), torch.arange(20, 40), torch.zeros(20), torch.zeros(20))
    with_adapter = logprobs(module)
    (found,) = reference_logprobs(module._reference, [Padded(0).collate([sequence])], 1.0, module.device)
    assert torch.equal(found, logprobs_of_base(random_model)[:20])
    assert torch.equal(logprobs(module), with_adapter)  # it is on again
    assert not torch.equal(with_adapter[:20], found)
    assert all(p.requires_grad for n, p in module.policy_model.named_parameters() if ".lora_" in n)


def test_a_frozen_copy_gives_the_same_training_as_the_adapter_off(random_model, tmp_path):
    ends = []
    for name in ("adapter_off", "frozen", "offloaded"):
        module = adapted(random_model, reference=name)
        run = trainer(tmp_path / name, max_steps=4)
        run.fit(module, datamodule=data())
        assert float(run.callback_metrics["train/kl_ref"]) > 0
        ends.append(torch.cat([p.detach().flatten() for p in module.policy_model.parameters() if p.requires_grad]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.slow
def test_a_checkpoint_holds_the_adapter_alone_and_goes_on_bit_for_bit(random_model, tmp_path, quantization):
    whole = adapted(random_model, quantization=quantization)
    trainer(tmp_path / "whole").fit(whole, datamodule=data())
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=3)
    trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True, max_steps=3).fit(
        adapted(random_model, quantization=quantization), datamodule=data()
    )
    (saved,) = (tmp_path / "ckpt").glob("*.ckpt")
    held = torch.load(saved, weights_only=True)["state_dict"]
    assert len(held) == 28
    assert all(".lora_" in name for name in held)
    resumed = adapted(random_model, quantization=quantization)
    trainer(tmp_path / "resumed").fit(resumed, datamodule=data(), ckpt_path=saved, weights_only=True)
    for (name, a), b in zip(whole.named_tensors(), dict(resumed.named_tensors()).values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_a_checkpoint_of_another_adapter_or_model_is_refused(random_model, tmp_path):
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1)
    trainer(tmp_path / "a", checkpoint, enable_checkpointing=True, max_steps=1).fit(
        adapted(random_model), datamodule=data()
    )
    (saved,) = (tmp_path / "ckpt").glob("*.ckpt")

    def resume(module: TPGRPOModule) -> None:
        trainer(tmp_path / "b").fit(module, datamodule=data(), ckpt_path=saved, weights_only=True)

    with pytest.raises(
        ConfigError, match=r"rank of model\.adapter changed since the checkpoint: \[4\] then, \[8\] now"
    ):
        resume(adapted(random_model, adapter=LoRA(8, 8.0)))
    with pytest.raises(ConfigError, match="holds an adapter alone, and this run has none"):
        resume(adapted(random_model, adapter=None))
    with pytest.raises(ConfigError, match="trained on other weights"):
        resume(adapted(random_model, quantization="nf4"))
    other = load_causal_lm(random_model, False, None, "sdpa")
    torch.nn.init.normal_(other.get_input_embeddings().weight)
    folder = copy_of(random_model, tmp_path / "other")
    other.save_pretrained(folder)
    with pytest.raises(ConfigError, match="trained on other weights"):
        resume(adapted(str(folder)))


def copy_of(model: str, folder: Path) -> Path:
    import shutil

    shutil.copytree(model, folder)
    return folder


def test_four_bit_weights_stay_and_adapters_learn(random_model, tmp_path):
    module = adapted(random_model, quantization="nf4")
    run = trainer(tmp_path, max_steps=2)
    run.fit(module, datamodule=data(sampling=SamplingParams(12, temperature=0.7)))
    kinds = {type(p).__name__ for p in module.policy_model.parameters()}
    assert "Params4bit" in kinds
    # Sampler and trainer are the same quantised policy.
    assert float(run.callback_metrics["mismatch/logprob_max"]) < 1e-4
    found = dict(module.named_tensors())
    assert all(t.dtype == torch.float32 for t in found.values())
    exact = dict(load_causal_lm(random_model, False, None, "sdpa").named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    assert found[name].shape == exact[name].shape
    error = float((found[name] - exact[name]).abs().mean() / exact[name].abs().mean())
    assert 0.01 < error < 0.2  # 4 bits are close, not equal


def test_adapters_are_the_same_whatever_was_drawn_before(random_model):
    first, second = adapted(random_model), adapted(random_model)
    first.configure_model()
    torch.rand(7)
    state = torch.random.get_rng_state()
    second.configure_model()
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, a), b in zip(first.policy_model.named_parameters(), second.policy_model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert float(dict(first.policy_model.named_parameters())[A_LAYER].abs().max()) > 0


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_adapters_are_float32_on_coarser_weights(random_model, tmp_path, quantization):
    """And four-bit weights compute in the dtype that they had."""
    coarse = load_causal_lm(random_model, False, torch.bfloat16, "sdpa")
    folder = copy_of(random_model, tmp_path / "coarse")
    coarse.save_pretrained(folder)
    module = adapted(str(folder), quantization=quantization)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data())
    names = dict(module.policy_model.named_parameters())
    assert {p.dtype for n, p in names.items() if ".lora_" in n} == {torch.float32}
    merged = {n.replace(".base_layer.", ".") for n in names if n.endswith(".base_layer.weight")}
    assert {t.dtype for n, t in module.named_tensors() if n in merged} == {torch.float32}
    assert {t.dtype for n, t in module.named_tensors() if n not in merged} == {torch.bfloat16}
    assert not hasattr(module.policy_model.config, "quantization_config")


def test_small_updates_survive_the_merge(random_model):
    """1e-4 on bfloat16 weights N(0, 0.02^2): from 2^-5 on half the spacing of bfloat16 is more than that, and they round back.
    P(|w| >= 2^-5) = 2 (1 - Phi(1.5625)) = 0.118. In float32 all move."""
    module = adapted(random_model, dtype="bfloat16", adapter=LoRA(1, 1.0))
    module.configure_model()
    name = "model.layers.0.mlp.up_proj"
    layer = module.policy_model.get_submodule(name)
    with torch.no_grad():
        layer.base_layer.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))  # pyright: ignore
        layer.lora_A["default"].weight.fill_(1e-4)  # pyright: ignore
        layer.lora_B["default"].weight.fill_(1.0)  # pyright: ignore
    base = layer.base_layer.weight.detach()  # pyright: ignore
    merged = dict(module.named_tensors())[f"{name}.weight"]
    torch.testing.assert_close(merged - base.float(), torch.full_like(merged, 1e-4), rtol=1e-3, atol=0)
    assert float((merged.bfloat16() == base).float().mean()) == pytest.approx(0.118, abs=0.01)


def test_an_export_has_one_dtype(random_model, tmp_path):
    from safetensors.torch import load_file

    from lit_tpgrpo.training.huggingface import write_folder
    from lit_tpgrpo.training.model_card import RunCard

    module = adapted(random_model, dtype="bfloat16")
    module.configure_model()
    for given, expected in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        card = RunCard("x", 0)
        out = write_folder(
            tmp_path / str(expected), module.policy_model, module.tokenizer, module.named_tensors(), card, given
        )
        assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {expected}


def test_the_reference_has_no_dropout(random_model):
    module = adapted(random_model)
    module.configure_model()
    assert module.policy is not None
    for layer in module.policy_model.base_model.layers:  # pyright: ignore
        layer.self_attn.attention_dropout = 0.5
    module.policy.train()
    sequence = TrainingSequence(torch.arange(3, 8), torch.arange(20, 40), torch.zeros(20), torch.zeros(20))
    one, two = (
        reference_logprobs(module._reference, [Padded(0).collate([sequence])], 1.0, module.device)[0] for _ in range(2)
    )
    assert torch.equal(one, two)
    assert module.policy.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": None, "quantization": "nf4"}, "needs a model.adapter"),
        ({"random_init": True, "quantization": "nf4"}, "not random_init"),
    ],
)
def test_settings_that_cannot_work(random_model, settings, message):
    with pytest.raises(ConfigError, match=message):
        adapted(random_model, **settings)


def test_layers_that_cannot_be_adapted(random_model):
    for targets, message in (
        (["lm_head"], "the embedding or the head, which cannot be adapted"),
        (["no_such_layer"], r"LoRA cannot be put into \['no_such_layer'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            adapted(random_model, adapter=LoRA(target_modules=targets)).configure_model()
    with pytest.raises(ConfigError, match=r"needs a model\.adapter: without one"):
        TPGRPOModule(random_model, loss=ClippedSurrogate(kl_beta=0.1), reference="adapter_off").configure_model()
    with pytest.raises(ConfigError, match="rank of at least 1"):
        LoRA(rank=0)


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "PagedAdamW"])
@pytest.mark.slow
def test_bitsandbytes_optimizers_train_and_go_on_bit_for_bit(random_model, tmp_path, name):
    import bitsandbytes as bnb

    def module() -> TPGRPOModule:
        torch.manual_seed(0)
        return TPGRPOModule(random_model, optimizer=lambda p: getattr(bnb.optim, name)(p, lr=1e-2))

    whole = module()
    trainer(tmp_path / "whole").fit(whole, datamodule=data())
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=3)
    run = trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True, max_steps=3)
    run.fit(module(), datamodule=data())
    (saved,) = (tmp_path / "ckpt").glob("*.ckpt")
    state = torch.load(saved, weights_only=True)["optimizer_states"][0]["state"]
    moments = (t for s in state.values() for k, t in s.get(PACKED, s).items() if k in ("state1", "state2"))
    dtypes = {t.dtype for t in moments if t.numel() >= 4096}
    assert dtypes == ({torch.uint8} if "8bit" in name else {torch.float32})
    resumed = module()
    trainer(tmp_path / "resumed").fit(resumed, datamodule=data(), ckpt_path=saved, weights_only=True)
    for (key, a), b in zip(whole.named_tensors(), dict(resumed.named_tensors()).values(), strict=True):
        assert torch.equal(a, b), key
