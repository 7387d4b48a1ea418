"""Learning rate schedules: those of torch and transformers from YAML, the rate a step used, and going on after a stop."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
import transformers
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.schedules import SequenceLR, TransformersLR
from tests.test_configs import QUICKSTART, build
from tests.test_module import fit, make_batch, weights

SCHEDULE = "--model.lr_scheduler"
TORCH = "torch.optim.lr_scheduler."


class Rates(L.Callback):
    """The rate that each step used, read while it is taken, and the one that was logged for it."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self.logged: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.used.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append(float(trainer.callback_metrics["train/lr"]))


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def rates(scheduler, steps: int) -> list[float]:
    """The rates of so many steps."""
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def of_yaml(*args: str):
    """The schedule that the command line builds."""
    return build("--config", QUICKSTART, *args).model._make_scheduler(optimizer())


@pytest.mark.slow
def test_torchs_own_schedules_from_the_command_line():
    linear = of_yaml(SCHEDULE, TORCH + "LinearLR", *_init(start_factor=1.0, end_factor=0.0, total_iters=4))
    assert rates(linear, 5) == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])
    cosine = of_yaml(SCHEDULE, TORCH + "CosineAnnealingLR", *_init(T_max=4))
    assert rates(cosine, 4) == pytest.approx([0.5, 0.5 * 0.8535534, 0.25, 0.5 * 0.1464466])


def _init(**arguments: object) -> list[str]:
    return [part for name, value in arguments.items() for part in (f"{SCHEDULE}.{name}", str(value))]


def test_a_sequence_of_schedules_from_yaml(tmp_path: Path):
    overlay = tmp_path / "sequence.yaml"
    overlay.write_text(
        f"""
model:
  class_path: lit_tpgrpo.module.TPGRPOModule
  init_args:
    lr_scheduler:
      class_path: lit_tpgrpo.training.schedules.SequenceLR
      init_args:
        milestones: [2]
        schedulers:
          - class_path: {TORCH}LinearLR
            init_args: {{start_factor: 0.5, total_iters: 2}}
          - class_path: {TORCH}ExponentialLR
            init_args: {{gamma: 0.5}}
"""
    )
    sequence = of_yaml("--config", str(overlay))
    assert isinstance(sequence, SequenceLR)
    assert rates(sequence, 5) == pytest.approx([0.25, 0.375, 0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("cosine", "get_cosine_schedule_with_warmup", {}),
        ("linear", "get_linear_schedule_with_warmup", {}),
        ("cosine_with_min_lr", "get_cosine_with_min_lr_schedule_with_warmup", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", "get_wsd_schedule", {"num_decay_steps": 3}),
    ],
)
def test_transformers_schedules_are_transformers_own(name: str, function: str, options: dict):
    expected = rates(
        getattr(transformers, function)(optimizer(), num_warmup_steps=2, num_training_steps=8, **options), 8
    )
    assert rates(TransformersLR(optimizer(), name, 2, 8, options), 8) == expected
    following = TransformersLR(optimizer(), name, 2, None, options)
    following.set_run_length(8)
    assert rates(following, 8) == expected


@pytest.mark.parametrize(
    ("settings", "steps"), [({"max_epochs": 2}, 8), ({"max_epochs": 5, "max_steps": 6}, 6), ({"max_steps": 8}, 8)]
)
def test_a_schedule_follows_the_length_of_the_run(random_model, tmp_path, settings, steps):
    """And train/lr is the rate of the step, not of the next one."""
    seen, module = Rates(), decaying(random_model)
    fit(module, [make_batch(i) for i in range(4)], tmp_path, callbacks=[seen], **({"max_epochs": -1} | settings))
    assert seen.used == pytest.approx([1.0 - i / steps for i in range(steps)])
    assert seen.logged == pytest.approx(seen.used)


def decaying(model: str, **settings) -> TPGRPOModule:
    return TPGRPOModule(
        model,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: TransformersLR(o, "linear", **settings),
    )


@pytest.mark.parametrize("kind", ["follows", "fixed", "sequence"])
@pytest.mark.slow
def test_a_stopped_run_goes_on_where_its_schedule_was(random_model, tmp_path, kind):
    def module() -> TPGRPOModule:
        if kind != "sequence":
            return decaying(random_model, total_steps=6 if kind == "fixed" else None)
        parts = [lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.5, 1.0, 2)]
        parts.append(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5))
        return TPGRPOModule(
            random_model,
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
            lr_scheduler=lambda o: SequenceLR(o, parts, [2]),
        )

    batches = [make_batch(i) for i in range(6)]
    whole, seen = module(), Rates()
    fit(whole, batches, tmp_path, callbacks=[seen])
    folder = tmp_path / kind
    saving = ModelCheckpoint(dirpath=folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    fit(module(), batches, tmp_path, callbacks=[saving], enable_checkpointing=True)
    rest, resumed = Rates(), module()
    again = batches[3:] + batches[:3]  # a plain list of batches does not know how far it was read
    fit(resumed, again, tmp_path, callbacks=[rest], ckpt_path=folder / "step=3.ckpt")
    assert rest.used == seen.used[3:]
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("kind", ["follows", "fixed", "torch"])
def test_a_resumed_run_takes_the_optimizer_settings_that_are_given(random_model, tmp_path, kind):
    """Weight decay in any case; another rate where the schedule is a factor of it, else a warning says that it is not used."""

    def module(lr: float, weight_decay: float) -> TPGRPOModule:
        def schedule(optimizer):
            if kind == "torch":
                return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return TransformersLR(optimizer, "linear", total_steps=4 if kind == "fixed" else None)

        return TPGRPOModule(
            random_model,
            optimizer=lambda p: torch.optim.SGD(p, lr=lr, weight_decay=weight_decay),
            lr_scheduler=schedule,
        )

    class Decay(Rates):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            self.decay = optimizer.param_groups[0]["weight_decay"]

    batches = [make_batch(i) for i in range(4)]
    saving = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    fit(module(1.0, 0.0), batches, tmp_path, callbacks=[saving], enable_checkpointing=True)
    seen = Decay()
    told = pytest.warns(UserWarning, match="rate 0.4 is not used: ExponentialLR goes on .* began with 1")
    with told if kind == "torch" else nullcontext():
        fit(module(0.4, 0.25), batches, tmp_path, callbacks=[seen], ckpt_path=tmp_path / "step=2.ckpt")
    assert seen.decay == 0.25
    assert seen.used == pytest.approx([0.25, 0.125] if kind == "torch" else [0.2, 0.1])


@pytest.mark.parametrize(
    ("name", "options"),
    [("polynomial", {"lr_end": 0.05, "power": 2.0}), ("polynomial", {}), ("cosine_with_min_lr", {"min_lr": 0.05})],
)
def test_absolute_ends_of_a_schedule_are_absolute(name, options):
    def theirs() -> list[float]:
        made = optimizer()
        return rates(transformers.get_scheduler(name, made, 2, 8, options), 8)

    assert rates(TransformersLR(optimizer(), name, 2, 8, options), 8) == pytest.approx(theirs())


def test_lightnings_monitor_sees_the_rate(random_model, tmp_path):
    logger = CSVLogger(tmp_path)
    fit(
        decaying(random_model), [make_batch(i) for i in range(2)], tmp_path, logger=logger, log_every_n_steps=1,
        callbacks=[LearningRateMonitor()],
    )  # fmt: skip
    rows = csv.DictReader(Path(logger.log_dir, "metrics.csv").read_text().splitlines())
    assert [float(row["lr-SGD"]) for row in rows if row.get("lr-SGD")] == [1.0, 0.5]


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


@pytest.mark.parametrize(
    ("scheduler", "settings", "message"),
    [
        (plateau, {}, "cannot be ReduceLROnPlateau"),
        (lambda o: {"scheduler": plateau(o)}, {}, r"must give a torch\.optim\.lr_scheduler\.LRScheduler, got dict"),
        (TransformersLR, {"max_epochs": -1}, "until the end of a run that has none"),
        (
            lambda o: TransformersLR(o, "cosine_with_min_lr"),
            {},
            "transformers refuses the schedule 'cosine_with_min_lr'",
        ),
        (lambda o: TransformersLR(o, warmup_steps=-1), {}, "warmup_steps of at least 0"),
        (lambda o: SequenceLR(o, [TransformersLR], []), {}, "needs its own total_steps"),
        (lambda o: SequenceLR(o, [torch.optim.lr_scheduler.ConstantLR], [3]), {}, "SequenceLR: .*milestone"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_before_anything_is_sampled(
    random_model, tmp_path, scheduler, settings, message
):
    class Untouched(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int):
            raise AssertionError("a batch was asked for")

    module = TPGRPOModule(random_model, lr_scheduler=scheduler)
    with pytest.raises(ConfigError, match=message):
        fit(module, Untouched(), tmp_path, **settings)  # pyright: ignore[reportArgumentType]
