"""A user's verifier, keep rule and correction: from YAML by import path, in Python as objects; one line for what is wrong."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lit_tpgrpo import cli
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import callable_name, settings_of
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.rollout.correction import Correction
from lit_tpgrpo.rollout.filters import is_kept, keep_all
from lit_tpgrpo.rollout.sampling import verify_solutions
from lit_tpgrpo.text.formats import ThinkTags
from tests.datamodules import user_parts
from tests.datamodules.test_correction import OFFSET, Rounds, data, module, trainer

HERE = "tests.datamodules.user_parts"


def settings(model: str, tmp_path: Path, **rollouts) -> list[str]:
    """The command line of a run of two optimizer steps on a small random model."""
    config = {
        "model": {
            "class_path": "lit_tpgrpo.module.TPGRPOModule",
            "init_args": {
                "model": model,
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {
            "class_path": "lit_tpgrpo.datamodules.MathRolloutDataModule",
            "init_args": {
                "train": {
                    "class_path": "lit_tpgrpo.datamodules.arithmetic.source.ArithmeticProblems",
                    "init_args": {"level": "1", "n": 8},
                },
                "group_size": 4,
                "problems_per_step": 2,
                "steps_per_round": 1,
                "sampling": {"max_new_tokens": 8},
                "prompt_template": "{problem}",
                "store_dir": str(tmp_path / "rounds"),
            }
            | rollouts,
        },
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": str(tmp_path),
            "logger": False,
            "callbacks": [],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
        },
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(path)]


def test_parts_named_by_their_paths_train(random_model, tmp_path, capsys):
    user_parts.ByTurns.seen.clear()
    rollouts = {
        "verifier": {"class_path": f"{HERE}.ByTurns", "init_args": {"every": 2}},
        "engine": {"class_path": "tests.datamodules.test_correction.OffEngine"},
        "keep": {"class_path": f"{HERE}.FirstSamples", "init_args": {"n": 3}},
        "correction": {"method": f"{HERE}.halved", "cap": 1.5},
    }
    cli.main(settings(random_model, tmp_path, **rollouts))
    assert len(user_parts.ByTurns.seen) == 2 * 8  # rounds of two problems with four solutions
    lines = (tmp_path / "rounds" / "round_000001" / "verdicts.0.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == user_parts.ByTurns.seen[8:]
    judging = json.loads((tmp_path / "rounds" / "round_000001" / "judging.json").read_text())
    assert judging["verifier"] == {"class": f"{HERE}.ByTurns", "every": 2}
    printed = capsys.readouterr()
    assert "kept 6/8" in printed.out + printed.err


def test_functions_and_objects_in_python(random_model, tmp_path):
    rounds = Rounds()
    parts = {"keep": user_parts.FirstSamples(3), "correction": user_parts.halved}
    trainer(tmp_path, rounds).fit(module(random_model), datamodule=data(tmp_path, steps_per_epoch=1, **parts))
    (round_,) = rounds.seen
    assert [s.judged.solution.sample for s in round_.kept] == [0, 1, 2] * 4
    for solution in round_.kept:
        weights = torch.full_like(solution.advantages, math.exp(OFFSET) / 2)
        torch.testing.assert_close(solution.importance_weights, weights, atol=1e-4, rtol=0)


# ruff: noqa: E501
WRONG = [
    ({"keep": f"{HERE}.number_of_steps"}, rf"data.keep: {HERE}.number_of_steps#\w+ must return True .* or False, got \d+ \(int\)"),
    ({"correction": {"method": f"{HERE}.one_weight"}}, rf"data.correction.method: {HERE}.one_weight#\w+ must return a tensor of \(\d+,\) finite weights, one for each token, got shape \(\)"),
    ({"correction": {"method": f"{HERE}.infinite"}}, "got values that are not finite"),
    ({"verifier": {"class_path": f"{HERE}.WithoutExtract"}}, rf"data.verifier: {HERE}.WithoutExtract is not a lit_tpgrpo.verify.base.Verifier: it has no method extract\(text\)"),
    ({"keep": f"{HERE}.nothing"}, f"data.keep: there is no class or file {HERE}.nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("rollouts", "said"), WRONG, ids=[str(given) for given, _ in WRONG])
def test_what_is_wrong_with_a_part_is_one_line(random_model, tmp_path, capsys, rollouts, said):
    engine = {"class_path": "tests.datamodules.test_correction.OffEngine"}
    verifier = {"class_path": f"{HERE}.ByTurns"}
    given = {"engine": engine, "verifier": verifier, "keep": "all"} | rollouts
    with pytest.raises(SystemExit) as ended:
        cli.main(settings(random_model, tmp_path, **given))
    error = capsys.readouterr().err + str(ended.value)
    assert re.search(said, error), error
    assert "Traceback" not in error


def test_a_verifier_that_returns_something_else_is_named():
    class Bools(user_parts.ByTurns):
        def verify_all(self, pairs):
            return [True for _ in pairs]

    class Few(user_parts.ByTurns):
        def verify_all(self, pairs):
            return []

    solution = type("S", (), {"text": "abc", "stop": StopReason.EOS})()
    problem = type("P", (), {"answer": "1"})()
    pairs, divisions = [(problem, solution)] * 2, [ThinkTags().divide("abc")] * 2
    with pytest.raises(
        ConfigError, match=r"Bools.verify_all must return one .*Outcome for each of the 2 pairs, got True"
    ):
        verify_solutions(Bools(), pairs, divisions)  # pyright: ignore
    with pytest.raises(ConfigError, match="got 0 outcomes"):
        verify_solutions(Few(), pairs, divisions)  # pyright: ignore


@pytest.mark.parametrize("result", [True, np.bool_(True), torch.tensor(True)])
def test_a_keep_rule_may_return_any_bool(result):
    assert is_kept(lambda solution: result, None) is True  # pyright: ignore


@pytest.mark.parametrize("result", [1, None, "yes", torch.ones(2, dtype=torch.bool)])
def test_a_keep_rule_returns_a_bool(result):
    with pytest.raises(ConfigError, match="must return True"):
        is_kept(lambda solution: result, None)  # pyright: ignore


def shorter_than(limit: int):
    return lambda solution: len(solution.advantages) < limit


def test_a_fingerprint_changes_with_the_function():
    """Names alone would not: two lambdas of one line, closures over other values, arguments bound beforehand."""
    rules = [
        keep_all,
        user_parts.first_sample,
        lambda solution: True,
        lambda solution: False,
        shorter_than(3),
        shorter_than(4),
        functools.partial(user_parts.halved, cap=2),
        functools.partial(user_parts.halved, cap=3),
    ]
    assert len({callable_name(rule) for rule in rules}) == len(rules)
    assert len({str(settings_of(rule)) for rule in rules}) == len(rules)
    assert callable_name(shorter_than(3)) == callable_name(shorter_than(3))
    assert settings_of(user_parts.FirstSamples(1)) != settings_of(user_parts.FirstSamples(2))
    assert settings_of(user_parts.ByTurns(2)) != settings_of(user_parts.ByTurns(3))


def test_a_correction_is_a_name_a_function_or_all_of_it(tmp_path):
    assert data(tmp_path).correction == Correction("token_truncate")
    assert data(tmp_path, correction="token_mask").correction == Correction("token_mask")
    assert data(tmp_path, correction={"method": "token_mask", "cap": 5}).correction == Correction("token_mask", 5.0)
    assert data(tmp_path, correction=user_parts.halved).correction == Correction(user_parts.halved)
    with pytest.raises(ConfigError, match=r"correction_floor is now correction.floor"):
        data(tmp_path, correction_floor=0.5)
