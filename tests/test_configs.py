"""Every YAML under configs/ parses and instantiates; what it says is what is built."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule

from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.cli import SETTINGS, TPGRPOCLI, main
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.step import StepCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.judges.generative import DirectLabels, GenerativeJudge, IntrinsicSignals, QueryConfig, StepByStep, Vote
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.protocol_check import accept_by_methods
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.sharding import Sharding

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
GENERATIVE = ["--config", QUICKSTART, "--config", str(ROOT / "configs" / "quickstart" / "generative.yaml")]
BASES = {
    ".": [],
    "paper": [],
    "judge": GENERATIVE,
    "judge/qwen3_32b.yaml": ["--config", QUICKSTART],
    "judge/noisy.yaml": ["--config", QUICKSTART],
    "judge/capo.yaml": ["--config", QUICKSTART],
    "judge/comparisons.yaml": ["--config", QUICKSTART, "--config", str(ROOT / "configs" / "credit" / "think_rm.yaml")],
    "judge/grades.yaml": ["--config", QUICKSTART, "--config", str(ROOT / "configs" / "credit" / "grades.yaml")],
    # What the quickstart has already: it changes something after a config with another credit only.
    "credit/thought.yaml": ["--config", QUICKSTART, "--config", str(ROOT / "configs" / "credit" / "outcome.yaml")],
}  # else the quickstart


@pytest.fixture(autouse=True)
def endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that configs with a remote judge take from the environment; nothing is sent to it here."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")


def build(*args: str) -> TPGRPOCLI:
    """Everything that the command line builds, without running it."""
    accept_by_methods()
    settings = SETTINGS | {"parser_kwargs": {"allow_abbrev": False}}
    return TPGRPOCLI(TPGRPOModule, LightningDataModule, run=False, args=list(args), **settings)


def arguments(config: Path) -> list[str]:
    """The options that use a config as it is meant: after the one that it changes."""
    return [*base(config), "--config", str(config)]


def base(config: Path) -> list[str]:
    """The options with what a config changes, none for one that is whole."""
    name = config.relative_to(ROOT / "configs")
    return BASES.get(str(name), BASES.get(str(name.parent), ["--config", QUICKSTART]))


OVERLAYS = [config for config in CONFIGS if base(config)]


@functools.cache
def settings_of_base(*args: str) -> dict[str, Any]:
    return flat(build(*args))


def flat(cli: TPGRPOCLI) -> dict[str, Any]:
    """All settings that result, by dotted key."""
    return {key: value for key, value in cli.config.items() if key != "config"}


def keys(content: Any, path: str = "") -> Iterable[str]:
    """The dotted keys of a YAML file's values; a list is one value."""
    if not isinstance(content, dict):
        return [path]
    return [key for name, value in content.items() for key in keys(value, f"{path}.{name}".strip("."))]


def changed_by_an_overlay(before: dict[str, Any], after: dict[str, Any], config: Path) -> tuple[set[str], set[str]]:
    """The settings that differ, and those of them that the overlay names.

    A class comes with all of its arguments, and so do settings that belong together where the base has none of them. A class in
    whose place the overlay puts several by name goes with all of its arguments.
    """
    named = set(keys(yaml.safe_load(config.read_text())))
    whole = [k.removesuffix("class_path") for k in named if k.endswith(".class_path") and before.get(k) != after.get(k)]
    gone = [k.removesuffix("class_path") for k in before.keys() - after.keys() if k.endswith(".class_path")]
    whole += [key for key in gone if any(name.startswith(key) for name in named)]
    differ = {key for key in before | after if before.get(key) != after.get(key)}

    def is_named(key: str) -> bool:
        absent = (f"{key}.", f"{key.rpartition('.')[0]}.") if key not in before else (f"{key}.",)
        return key in named or key.startswith(tuple(whole)) or any(k.startswith(absent) for k in named)

    return differ, {key for key in differ if is_named(key)}


def slow_but_the_quickstart(configs: Iterable[Path]) -> list[Any]:
    """Parameters: seconds each, so the quick tests take one of them."""
    return [
        pytest.param(c, id=str(c.relative_to(ROOT)), marks=[] if str(c) == QUICKSTART else pytest.mark.slow)
        for c in configs
    ]


@pytest.mark.parametrize("config", slow_but_the_quickstart(CONFIGS))
def test_every_config_instantiates(config: Path, random_model: str, monkeypatch: pytest.MonkeyPatch):
    args = arguments(config)
    if (
        "deepseek" in config.name or "smollm2" in config.name
    ):  # no network, no GPU: the weights and the device stay here
        args += ["--model.model", random_model, "--trainer.accelerator", "cpu"]
    if config.parent.name == "strategy":
        args += ["--trainer.devices", "1"]
    cli = build(*args)
    if config in OVERLAYS:
        differ, named = changed_by_an_overlay(settings_of_base(*base(config)), flat(cli), config)
        assert differ == named != set()
    assert isinstance(cli.model, TPGRPOModule)
    assert cli.trainer.max_epochs is cli.trainer.check_val_every_n_epoch is None  # steps are what is counted
    assert cli.trainer.max_steps > 0


def test_there_are_the_configs_that_the_readmes_name():
    """The list of configs names all of them and no other, with commands that use files which are there."""
    page = (ROOT / "configs" / "README.md").read_text()
    names = {str(p.relative_to(ROOT / "configs")) for p in CONFIGS}
    assert set(re.findall(r"^\| `([\w./]+)` \|", page, re.MULTILINE)) == names
    assert set(re.findall(r"configs/([\w./]+\.yaml)", page)) == names
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("[!l]*.md"), *CONFIGS)
    used = {p: re.findall(r"configs/([\w./]+\.yaml)", p.read_text()) for p in pages}
    assert [(str(p), name) for p, found in used.items() for name in found if name not in names] == []


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
    "config",
    slow_but_the_quickstart(c for c in CONFIGS if c not in OVERLAYS or c.parent.name == "quickstart"),
)
def test_every_base_config_names_the_parts_that_the_readme_overrides(config: Path):
    """An option below a part that no config names ends in a parser error."""
    own = ["--model.model", "embedded:tiny-qwen2", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    size = "max_num_seqs" if "vllm.VLLMEngine" in config.read_text() else "batch_size"
    parts = ["--data.credit.alpha", "0.5", f"--data.engine.{size}", "8", "--data.judge.init_args", "{}"]
    data = build(*arguments(config), *own, *parts).datamodule
    assert type(data.credit) is ThoughtCredit
    assert data.credit.alpha == 0.5
    assert isinstance(data.engine, HFEngine | VLLMEngine)
    assert getattr(data.engine, size) == 8
    assert isinstance(data.judge, RuleJudge | GenerativeJudge)


@pytest.mark.parametrize(
    ("experiment", "credit"), [("outcome_only", OutcomeCredit), ("step_rewards", StepCredit)], ids=str
)
@pytest.mark.slow
def test_an_experiment_changes_what_it_names_and_nothing_else(experiment: str, credit: type):
    base = build("--config", QUICKSTART)
    cli = build("--config", QUICKSTART, "--config", str(ROOT / "configs" / "experiment" / f"{experiment}.yaml"))
    assert type(base.datamodule.credit) is ThoughtCredit
    assert type(cli.datamodule.credit) is credit
    a, b = vars(base.datamodule), vars(cli.datamodule)
    plain = {k for k, v in a.items() if isinstance(v, (int, str, float))}
    assert {k: a[k] for k in plain} == {k: b[k] for k in plain}


def kl_term(config: Path) -> dict[str, Any]:
    """The arguments of a config's KL term: those of the loss that all others wrap."""
    loss = yaml.safe_load(config.read_text()).get("model", {}).get("init_args", {}).get("loss", {})
    while isinstance(loss.get("init_args", {}).get("loss"), dict):
        loss = loss["init_args"]["loss"]
    return {name: value for name, value in loss.get("init_args", {}).items() if name.startswith("kl_")}


def test_a_loss_keeps_the_kl_term_of_the_quickstart():
    """As configs/README.md says; a config that names none leaves the quickstart's loss in place."""
    quickstart = kl_term(Path(QUICKSTART))
    assert quickstart.keys() == {"kl_beta", "kl_estimator"}
    terms = {path.stem: kl_term(path) for path in (ROOT / "configs" / "loss").glob("*.yaml")}
    assert terms.pop("dapo") == {"kl_beta": 0.0}
    assert terms.pop("kl_unbiased") == {**quickstart, "kl_estimator": "k3_unbiased"}
    others = {name: term for name, term in terms.items() if term}
    assert len(others) >= 12
    assert [name for name, term in others.items() if term != quickstart] == []


def test_bars_and_callbacks_of_the_users_go_with_the_configs():
    assert build("--config", QUICKSTART, "--trainer.enable_progress_bar", "false").trainer.progress_bar_callback is None
    stop = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "eval/avg@4"]
    bar = ["--trainer.callbacks+", "RichProgressBar"]
    cli = build("--config", QUICKSTART, *stop, "--trainer.callbacks.mode", "max", *bar)
    assert type(cli.trainer.progress_bar_callback).__name__ == "RichProgressBar"
    assert [c.monitor for c in cli.trainer.early_stopping_callbacks] == ["eval/avg@4"]


@pytest.mark.slow
def test_configs_for_memory_and_strategy_say_what_is_built():
    def built(name: str) -> TPGRPOModule:
        args = ["--config", QUICKSTART, "--config", str(ROOT / "configs" / name), "--trainer.devices", "1"]
        return build(*args).model

    assert built("memory/lora.yaml").adapter == LoRA(16, 32.0)
    assert built("memory/qlora.yaml").hparams["quantization"] == "nf4"
    assert built("strategy/fsdp.yaml")._sharding == Sharding(param_dtype="bfloat16")
    for name in ("AdamW8bit", "PagedAdamW8bit"):
        module = built(f"memory/{name.lower().replace('pagedadamw', 'paged_adamw')}.yaml")
        parameter = torch.nn.Parameter(torch.zeros(4))
        optimizer = module._make_optimizer([parameter])
        assert type(optimizer).__name__ == name
        assert optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.slow
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
        (["--model.loss.kl_estimator", "k4"], "one of k1, k2, k3, k2_unbiased, k3_unbiased, got k4"),
        (["--model.clip_low", "0.1"], "model.clip_low: it is now model.loss.clip_low, an argument of model.loss"),
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
        main(["fit", "--config", QUICKSTART, "--data.group_size", "1"])


@pytest.mark.slow
def test_judge_configs_say_what_is_built():
    def judge(name: str) -> GenerativeJudge:
        found = build(*arguments(ROOT / "configs" / name)).datamodule.judge
        assert isinstance(found, GenerativeJudge)
        return found

    tiny = judge("quickstart/generative.yaml")
    assert isinstance(tiny.chat, LocalChat)
    assert tiny.chat.model == "embedded:tiny-judge"
    assert type(tiny.method) is IntrinsicSignals
    assert tiny.prompts.folder.name == "judge-prompts"
    assert judge("judge/self.yaml").needs_policy
    assert judge("judge/self.yaml").query.max_tokens == 400
    assert type(judge("judge/llm_as_judge.yaml").method) is DirectLabels
    assert type(judge("judge/genprm.yaml").method) is StepByStep
    assert judge("judge/votes.yaml").query == QueryConfig(votes=3, vote=Vote.MAJORITY, temperature=0.6, max_tokens=400)
    remote = judge("judge/qwen3_32b.yaml")
    assert isinstance(remote.chat, OpenAIChat)
    assert remote.query.thinking_tokens == 4096
    assert remote.on_down == "stop"


@pytest.mark.slow
def test_judge_settings_can_be_given_on_the_command_line():
    args = ["--data.judge.query.votes", "3", "--data.judge.query.temperature", "0.8", "--data.judge.on_down", "stop"]
    judge = build(*GENERATIVE, *args, "--data.judge.chat.model", "policy").datamodule.judge
    assert (judge.query.votes, judge.query.temperature, judge.on_down) == (3, 0.8, "stop")
    assert judge.chat.model == "policy"


@pytest.mark.parametrize("name", ["quickstart/generative.yaml", "paper/deepseek_r1_distill_qwen_1.5b.yaml"])
@pytest.mark.slow
def test_the_rule_judge_can_take_the_place_of_a_generative_one(name: str):
    own = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.model", "embedded:tiny-qwen2"]
    judge = build(*arguments(ROOT / "configs" / name), *own, "--data.judge", "lit_tpgrpo.judges.rule.RuleJudge")
    assert type(judge.datamodule.judge) is RuleJudge
