"""Losses that a user writes without annotations or with a mistake."""

from __future__ import annotations

import pytest
import torch

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses.base import LossOutput
from lit_tpgrpo.module import TPGRPOModule
from tests.losses.test_interface import one_step


class Unannotated:
    def __init__(self, scale=2.0):
        self.scale = scale

    def needs_reference(self):
        return False

    def __call__(self, x):
        return LossOutput(-(x.weights * x.advantages * x.logprobs).sum() * self.scale)


class Bare(Unannotated):
    def __call__(self, x):
        return torch.zeros((), requires_grad=True)


def test_a_loss_without_annotations_comes_back_with_the_checkpoint(random_model, tmp_path):
    trainer = one_step(TPGRPOModule(random_model, loss=Unannotated(3.0)), tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    restored = TPGRPOModule.load_from_checkpoint(tmp_path / "a.ckpt").token_loss
    assert isinstance(restored, Unannotated)
    assert restored.scale == 3.0


def test_a_loss_that_returns_a_tensor_is_named(random_model, tmp_path):
    with pytest.raises(ConfigError, match=r"the loss Bare returned .*; expected lit_tpgrpo\.LossOutput\(loss=\.\.\.\)"):
        one_step(TPGRPOModule(random_model, loss=Bare()), tmp_path)
