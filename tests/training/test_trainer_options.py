"""Lightning's own switches: those that cannot work are refused in one line before anything is sampled."""

from __future__ import annotations

import lightning.pytorch.callbacks as callbacks
import pytest
import torch

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapters import LoRA
from tests.test_module import fit, make_batch


class Unread(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        raise AssertionError("a batch was asked for")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            lambda: callbacks.StochasticWeightAveraging(1e-3),
            r"StochasticWeightAveraging does not work .*callbacks\.WeightAveraging",
        ),
        (lambda: callbacks.GradientAccumulationScheduler({0: 2}), r"accumulates its micro-batches itself"),
        (callbacks.BatchSizeFinder, r"model\.tokens_per_microbatch"),
        (callbacks.LearningRateFinder, r"set model\.optimizer's lr"),
        (lambda: callbacks.ModelPruning("l1_unstructured"), "before the policy is built"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(random_model, tmp_path, callback, message):
    with pytest.raises(ConfigError, match=message) as refused:
        fit(TPGRPOModule(random_model), Unread(), tmp_path, callbacks=[callback()])  # pyright: ignore
    assert "\n" not in str(refused.value)


def test_a_module_compiled_as_a_whole_is_refused(random_model, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot go through torch\.compile as a whole"):
        fit(torch.compile(TPGRPOModule(random_model)), Unread(), tmp_path)  # pyright: ignore


def test_averaged_weights_are_those_of_the_steps(random_model, tmp_path):
    """What takes StochasticWeightAveraging's place: the mean of the weights after each of two steps."""

    class Keep(callbacks.Callback):
        def __init__(self) -> None:
            self.steps: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.steps.append(flat(pl_module))

    def flat(module) -> torch.Tensor:
        return torch.cat([p.detach().flatten().clone() for p in module.parameters()])

    keep = Keep()
    module = TPGRPOModule(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    fit(module, [make_batch(0), make_batch(1)], tmp_path, callbacks=[keep, callbacks.WeightAveraging()])
    assert not torch.equal(keep.steps[0], keep.steps[1])
    torch.testing.assert_close(flat(module), (keep.steps[0] + keep.steps[1]) / 2, rtol=0, atol=1e-6)


def test_averaging_goes_on_with_an_adapter(random_model, tmp_path):
    """A checkpoint then holds all weights, not the adapter alone, for Lightning loads the averaged ones by all their names."""

    def run(steps: int, batches: list, **settings) -> TPGRPOModule:
        module = TPGRPOModule(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), adapter=LoRA(4, 8.0))
        saving = callbacks.ModelCheckpoint(
            dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}"
        )
        both = [callbacks.WeightAveraging(), saving]
        fit(module, batches, tmp_path, callbacks=both, enable_checkpointing=True, max_steps=steps, **settings)
        return module

    batches = [make_batch(0), make_batch(1)]
    whole = run(2, batches)
    resumed = run(2, batches[::-1], ckpt_path=tmp_path / "ckpt" / "step=1.ckpt")
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
