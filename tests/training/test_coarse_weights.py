"""Weights of 16 bits: float32 unless asked otherwise, a warning with its figure where they train, and what an update leaves."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import Adafactor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.optimizers import unchanged_share
from tests.test_module import fit, make_batch, weights

COARSE = "of them would round back to what they were"


@pytest.fixture(scope="module")
def bf16_model(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint as hubs have them: in bfloat16."""
    folder = tmp_path_factory.mktemp("bf16")
    load_causal_lm(random_model, False, torch.bfloat16, "sdpa").save_pretrained(folder)
    load_tokenizer(random_model).save_pretrained(folder)
    return str(folder)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-6)


def changed_share(model: str, tmp_path: Path, **settings) -> float:
    """Of the weights, after four steps of AdamW at 1e-6."""
    start = TPGRPOModule(model, **{k: v for k, v in settings.items() if k != "precision"})
    start.configure_model()
    trainer = {"precision": settings.pop("precision")} if "precision" in settings else {}
    module = TPGRPOModule(model, optimizer=adamw, **settings)
    fit(module, [make_batch(i) for i in range(4)], tmp_path, **trainer)
    return float((weights(module) != weights(start)).float().mean())


def test_float32_weights_move_and_bfloat16_ones_hardly(bf16_model, tmp_path):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert changed_share(bf16_model, tmp_path) > 0.9
        assert changed_share(bf16_model, tmp_path, precision="bf16-mixed") > 0.9
    assert not [w for w in heard if COARSE in str(w.message)]
    with pytest.warns(
        UserWarning, match=rf"are bfloat16, and AdamW at a learning rate of 1\.0e-06 .* 9\d\.\d% {COARSE}"
    ):
        assert changed_share(bf16_model, tmp_path, dtype="auto") < 0.05


def test_an_optimizer_that_sets_its_own_rate_trains_and_is_warned_of(bf16_model, tmp_path):
    """transformers' Adafactor has an lr of None: float(None) ended the run."""
    module = TPGRPOModule(bf16_model, optimizer=Adafactor, dtype="auto")
    with pytest.warns(
        UserWarning, match=r"are bfloat16, and Adafactor loses updates that are smaller than their rounding"
    ):
        run = fit(module, [make_batch()], tmp_path)
    assert "train/loss" in run.callback_metrics
    assert "train/lr" not in run.callback_metrics


def test_the_trainers_own_conversion_is_warned_of_too(random_model, tmp_path):
    """bf16-true makes float32 weights coarse after they were loaded; those of an adapter as well."""
    for adapter in (None, LoRA(4, 8.0)):
        module = TPGRPOModule(random_model, optimizer=adamw, adapter=adapter)
        with pytest.warns(UserWarning, match=COARSE):
            fit(module, [], tmp_path, precision="bf16-true", max_epochs=0)


def test_an_epsilon_that_float16_cannot_hold_is_refused(random_model, tmp_path):
    for settings in ({"precision": "16-true"}, {}):
        module = TPGRPOModule(random_model, optimizer=adamw, dtype=None if settings else "float16")
        with pytest.raises(ConfigError, match=r"eps 1e-08 is 0 in float16.*bf16-mixed"):
            fit(module, [make_batch()], tmp_path, **settings)


def test_which_dtype_weights_have(bf16_model, random_model):
    def dtypes(model: str, **settings) -> set[torch.dtype]:
        module = TPGRPOModule(model, **settings)
        module.configure_model()
        return {p.dtype for n, p in module.policy_model.named_parameters() if ".lora_" not in n}

    assert dtypes(bf16_model) == {torch.float32}
    assert dtypes(bf16_model, dtype="auto") == {torch.bfloat16}
    assert dtypes(bf16_model, adapter=LoRA(4, 8.0)) == {torch.bfloat16}  # they do not train
    assert dtypes(bf16_model, adapter=LoRA(4, 8.0), dtype="float32") == {torch.float32}
    assert dtypes(random_model, dtype="bfloat16") == {torch.bfloat16}


def test_stochastic_rounding_needs_no_warning(random_model):
    class Stochastic(torch.optim.AdamW):
        bf16_stochastic_round = True

    from lit_tpgrpo.training.optimizers import warn_of_coarse_weights

    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_coarse_weights(Stochastic([parameter]), [parameter])


def test_the_share_by_hand():
    """bfloat16 has 8 significant bits: below 1 its spacing is 2^-8, and 1 - 2^-10 rounds back to 1, 0.25 - 2^-10 does not."""
    weights = torch.tensor([1.0, 0.25, 2.0, 0.0], dtype=torch.bfloat16)
    assert unchanged_share([weights], 2.0**-10) == 0.5
    assert unchanged_share([weights.float()], 2.0**-10) == 0.0


def test_without_a_trainer_the_policy_computes_in_its_own_dtype(random_model):
    module = TPGRPOModule(random_model, dtype="bfloat16")
    module.configure_model()
    assert module.compute_dtype == torch.bfloat16
