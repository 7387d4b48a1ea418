"""Every YAML under configs/ parses and instantiates; what it says is what is built."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule

import train
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.step import StepCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.module import TPGRPOModule

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def build(*args: str) -> train.TPGRPOCLI:
    """Everything that the command line builds, without running it."""
    settings = train.SETTINGS | {"parser_kwargs": {"allow_abbrev": False}}
    return train.TPGRPOCLI(TPGRPOModule, LightningDataModule, run=False, args=list(args), **settings)


def arguments(config: Path) -> list[str]:
    own = ["--config", str(config)]
    return own if "experiment" not in config.parts else ["--config", QUICKSTART, *own]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_instantiates(config: Path, random_model: str, monkeypatch: pytest.MonkeyPatch):
    args = arguments(config)
    if "deepseek" in config.name:  # no network, no GPU: the weights and the device stay here
        args += ["--model.model", random_model, "--trainer.accelerator", "cpu"]
    cli = build(*args)
    assert isinstance(cli.model, TPGRPOModule)
    assert cli.trainer.max_epochs == 1


def test_there_are_the_configs_that_the_readme_names():
    names = {str(p.relative_to(ROOT / "configs")) for p in CONFIGS}
    assert {
        "quickstart.yaml",
        "files.yaml",
        "experiment/outcome_only.yaml",
        "experiment/step_rewards.yaml",
        "paper/deepseek_r1_distill_qwen_1.5b.yaml",
    } <= names


def test_overrides_reach_their_parts():
    args = ["--data.credit.alpha", "0.5", "--data.group_size", "16", "--model.optimizer.lr", "1e-5"]
    cli = build("--config", QUICKSTART, *args, "--trainer.max_epochs", "3", "--data.sampling.temperature", "0.6")
    assert isinstance(cli.datamodule.credit, ThoughtCredit)
    assert cli.datamodule.credit.alpha == 0.5
    assert cli.datamodule.group_size == 16
    assert cli.datamodule.sampling.temperature == 0.6
    assert cli.datamodule.sampling.max_new_tokens == 176
    assert cli.trainer.max_epochs == 3
    optimizer = cli.model._make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.param_groups[0]["lr"] == 1e-5


@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c.parent.name != "experiment"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_base_config_names_the_parts_that_the_readme_overrides(config: Path):
    """An option below a part that no config names ends in a parser error."""
    own = ["--model.model", "embedded:tiny-qwen2", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    parts = ["--data.credit.alpha", "0.5", "--data.engine.batch_size", "8", "--data.judge.init_args", "{}"]
    data = build("--config", str(config), *own, *parts).datamodule
    assert type(data.credit) is ThoughtCredit
    assert data.credit.alpha == 0.5
    assert type(data.engine) is HFEngine
    assert data.engine.batch_size == 8
    assert type(data.judge) is RuleJudge


@pytest.mark.parametrize(
    ("experiment", "credit"), [("outcome_only", OutcomeCredit), ("step_rewards", StepCredit)], ids=str
)
def test_an_experiment_changes_what_it_names_and_nothing_else(experiment: str, credit: type):
    base = build("--config", QUICKSTART)
    cli = build("--config", QUICKSTART, "--config", str(ROOT / "configs" / "experiment" / f"{experiment}.yaml"))
    assert type(base.datamodule.credit) is ThoughtCredit
    assert type(cli.datamodule.credit) is credit
    a, b = vars(base.datamodule), vars(cli.datamodule)
    plain = {k for k, v in a.items() if isinstance(v, (int, str, float))}
    assert {k: a[k] for k in plain} == {k: b[k] for k in plain}


def test_the_papers_numbers():
    config = str(ROOT / "configs" / "paper" / "deepseek_r1_distill_qwen_1.5b.yaml")
    cli = build("--config", config, "--model.model", "embedded:tiny-qwen2", "--trainer.accelerator", "cpu")
    assert cli.trainer.precision == "bf16-mixed"
    assert cli.model.hparams["dtype"] == "float32"
    data = cli.datamodule
    assert data.problems_per_step * data.group_size == 40
    assert data.steps_per_round == 50
    assert data.keep.__name__ == "keep_nonzero_process_reward"
    assert cli.model._make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 1e-6


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--data.group_sice", "16"], "group_sice"),
        (["--data.group_size", "many"], "group_size"),
        (["--data.keep", "everything"], "keep"),
        (["--data.credit.alhpa", "1"], "alhpa"),
        (["--model.optimizer.lr", "fast"], "lr"),
        (["--model.kl_estimator", "k4"], "kl_estimator"),
        (["--trainer.max_step", "3"], "max_step"),
        (["--data.judge", "lit_tpgrpo.judges.rule.RulesJudge"], "RulesJudge"),
        (["--config", "configs/no_such.yaml"], "no_such.yaml"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_a_misspelt_key_or_a_bad_value_is_named(args: list[str], named: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        build("--config", QUICKSTART, *args)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_a_users_mistake_ends_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit, match="error: group_size must be at least 2, got 1: an advantage is a reward"):
        train.main(["fit", "--config", QUICKSTART, "--data.group_size", "1"])
