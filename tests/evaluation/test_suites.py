"""Several evaluation sets in one validation: names, samples, seeds, limits, ranks, files, interruption."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_tpgrpo.callbacks import MathEvaluation
from lit_tpgrpo.datamodules.sources import EvaluationSet
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from tests.evaluation.suite_program import Counting, LuckyByGold, data, heldout, module, sets, trainer

PROGRAM = Path(__file__).with_name("suite_program.py")


def shares(n: int, seed: int, samples: int) -> float:
    """The accuracy that LuckyByGold gives: gold modulo 3 of the samples, as many as there are."""
    golds = [int(p.answer) % 3 for p in heldout(n, seed).load()]
    return sum(min(g, samples) / samples for g in golds) / n


def validate(model: str, folder: Path, dm=None, **options) -> dict[str, float]:
    (scores,) = trainer(folder, **options).validate(module(model), datamodule=dm or data(), verbose=False)
    return dict(scores)


def test_sets_are_sampled_in_one_pass_and_scored_by_name(random_model, tmp_path, capsys):
    dm = data()
    scores = validate(random_model, tmp_path, dm)
    assert dm.engine.loaded == 1
    assert dm.engine.calls == [(5, 3, 5), (3, 2, 3)]
    long, short = shares(5, 0, 3), shares(3, 1, 2)
    assert (scores["eval/long/avg@3"], scores["eval/short/avg@2"]) == pytest.approx((long, short))
    assert scores["eval/average"] == pytest.approx((long + short) / 2)
    assert (scores["eval/long/problems"], scores["eval/short/problems"], scores["eval/problems"]) == (5, 3, 8)
    assert scores["eval/short/length_p95"] <= 3
    assert "eval | step 0 | average" in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    shown = {tag for tag in events.Tags()["scalars"] if tag.startswith("eval/")}
    assert shown == set(scores)
    assert "eval/long/avg@3_low" in shown


def test_a_set_is_sampled_alike_whatever_is_beside_it(random_model, tmp_path):
    beside, alone = data(), data(val={"short": sets()["short"]})
    validate(random_model, tmp_path / "a", beside)
    validate(random_model, tmp_path / "b", alone)
    assert len(alone.engine.texts) == 3
    assert alone.engine.texts.items() <= beside.engine.texts.items()


@pytest.mark.parametrize(
    ("limit", "calls", "problems"),
    [(1, [(1, 3, 5), (1, 2, 3)], (1, 1)), (2, [(2, 3, 5), (2, 2, 3)], (2, 2)), (0.5, [(2, 3, 5), (1, 2, 3)], (2, 1))],
)
def test_limits_hold_for_each_set(random_model, tmp_path, limit, calls, problems):
    dm = data()
    scores = validate(random_model, tmp_path, dm, limit_val_batches=limit)
    assert dm.engine.calls == calls
    assert (scores["eval/long/problems"], scores["eval/short/problems"]) == problems


def test_test_and_validate_sample_the_same_problems_independently(random_model, tmp_path):
    """A checkpoint that was chosen by a lucky validation is not tested on the same luck."""
    dm = data(val={"short": heldout(3, 1)}, eval_samples=2)
    run = trainer(tmp_path)
    (validated,) = run.validate(module(random_model), datamodule=dm, verbose=False)
    seeds = set(dm.engine.texts)
    (tested,) = run.test(module(random_model), datamodule=dm, verbose=False)
    assert len(dm.engine.texts) == 6
    assert len(set(dm.engine.texts) - seeds) == 3
    assert tested["test/short/problems"] == validated["eval/short/problems"] == 3


def test_a_checkpoint_monitors_any_set(random_model, tmp_path):
    saver = ModelCheckpoint(tmp_path / "c", monitor="eval/average", mode="max", save_top_k=-1)
    other = ModelCheckpoint(tmp_path / "d", monitor="eval/short/avg@2", mode="max")
    run = trainer(tmp_path, MathEvaluation(pass_at=(1, 3)), saver, other, enable_checkpointing=True)
    run.fit(module(random_model), datamodule=data())
    assert len(saver.best_k_models) == len(other.best_k_models) == 1
    assert float(saver.best_model_score) == pytest.approx((shares(5, 0, 3) + shares(3, 1, 2)) / 2)  # pyright: ignore
    assert float(other.best_model_score) == pytest.approx(shares(3, 1, 2))  # pyright: ignore


def test_pass_at_more_than_any_set_has_is_refused(random_model, tmp_path):
    with pytest.raises(ConfigError, match=r"pass_at holds \[4\], and the most that any set has is 3"):
        trainer(tmp_path, MathEvaluation(pass_at=(2, 4))).validate(module(random_model), datamodule=data())


def test_predict_takes_the_problems_of_all_sets_once(random_model, tmp_path):
    both = data(val={"a": heldout(3), "b": heldout(4)})  # the three are among the four
    rows = [row for rows in trainer(tmp_path).predict(module(random_model), datamodule=both) or [] for row in rows]
    assert len(rows) == 4 * 2  # of group_size


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ({}, "expected at least one evaluation set"),
        ({"a/b": heldout(2)}, r"expected letters, digits, _, - and \., .* got 'a/b'"),
        ({"average": heldout(2)}, "and not average or problems; got 'average'"),
        ({"prompt": ["1+1"], "answer": ["2"]}, "a dict whose 'prompt' is a list of str; give one dict a problem"),
        ({"a": None}, r"val\['a'\]: expected a problem source, got None"),
        ({"a": "file.jsonl"}, r"val\['a'\]: expected problems, got 'file.jsonl' .*FileProblems"),
    ],
)
def test_what_is_no_suite_is_refused_in_one_line(val, message):
    with pytest.raises(ConfigError, match=message):
        data(val=val)


def test_a_single_set_may_have_its_own_samples(random_model, tmp_path):
    dm = data(val=EvaluationSet(heldout(3, 1), 2, SamplingParams(3)))
    scores = validate(random_model, tmp_path, dm)
    assert dm.engine.calls == [(3, 2, 3)]
    assert scores["eval/avg@2"] == pytest.approx(shares(3, 1, 2))
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0"):
        EvaluationSet(heldout(3), 0)


# ---- files ----


class Dies(LuckyByGold):
    """The process ends in the verification of a group."""

    left = 6

    def verify_all(self, pairs):
        self.left -= 1
        if self.left < 0:
            raise OSError("the machine is gone")
        return super().verify_all(pairs)


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line) for file in sorted(folder.glob("groups.*.jsonl")) for line in file.read_text().splitlines()
    ]


def test_an_interrupted_validation_goes_on_where_it_was(random_model, tmp_path):
    """Six of eight groups are complete; a torn line is that of a seventh."""
    uninterrupted = validate(random_model, tmp_path / "whole")
    with pytest.raises(OSError, match="the machine is gone"):
        validate(random_model, tmp_path, data(verifier=Dies()))
    (folder,) = (tmp_path / "run" / "evaluation").iterdir()
    assert folder.name.startswith("val-step_000000-")
    assert len(lines(folder)) == 6
    assert not (folder / "scores.json").exists()
    with (folder / "groups.0.jsonl").open("a") as file:
        file.write('{"key": "torn')
    dm = data()
    assert validate(random_model, tmp_path, dm) == uninterrupted
    assert dm.engine.calls == [(2, 2, 3)]
    again = data()
    assert validate(random_model, tmp_path, again) == uninterrupted
    assert again.engine.calls == []
    rows = lines_of_whole_rows(folder)
    assert {(row["set"], row["index"]) for row in rows} == {
        *(("long", i) for i in range(5)),
        *(("short", i) for i in range(3)),
    }
    first = rows[0]["solutions"][0]
    assert {"sample", "outcome", "answer", "stop", "tokens", "text"} <= first.keys()
    assert first["tokens"] == len(first["completion_ids"])
    stored = json.loads((folder / "scores.json").read_text())
    assert {f"eval/{name}": value for name, value in stored["scores"].items()} == pytest.approx(uninterrupted)
    with (folder / "table.csv").open() as file:
        table = [row for row in csv.DictReader(file) if row["table"] == "sets"]
    assert [row["set"] for row in table] == ["long", "short", "average"]
    assert float(table[0]["avg"]) == pytest.approx(100 * shares(5, 0, 3), abs=1e-4)


def lines_of_whole_rows(folder: Path) -> list[dict]:
    whole = []
    for line in (folder / "groups.0.jsonl").read_text().splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            assert line == '{"key": "torn'
    return whole


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        ({"seed": 5}, [(5, 3, 5), (3, 2, 3)]),
        ({"prompt_template": "{problem} Hm."}, [(5, 3, 5), (3, 2, 3)]),
        # Sets that stay the same are not sampled again.
        ({"val": {"long": EvaluationSet(heldout(5), 2), "short": sets()["short"]}}, [(5, 2, 5)]),
        ({"val": sets() | {"third": EvaluationSet(heldout(2, 7), 1)}}, [(2, 1, 5)]),
        (
            {"val": {"renamed": sets()["long"], "short": sets()["short"]}},
            [(5, 3, 5)],
        ),  # a set's name is part of its seeds
        ({"verifier": LuckyByGold(workers=1)}, []),  # verified again in any case
    ],
    ids=["seed", "template", "samples of one set", "another set", "another name", "verifier"],
)
def test_what_changes_solutions_samples_them_again(random_model, tmp_path, change, calls):
    validate(random_model, tmp_path, data(engine=Counting()))
    dm = data(**change)
    validate(random_model, tmp_path, dm)
    assert dm.engine.calls == calls


def other_chat_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|assistant|>", "Hm.<|assistant|>"))


def another_end_token(folder: Path) -> None:
    file = folder / "generation_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"eos_token_id": [config["eos_token_id"], 7]}))


@pytest.mark.parametrize("edit", [other_chat_template, another_end_token])
def test_an_edited_model_folder_with_the_same_weights_is_sampled_again(random_model, tmp_path, edit):
    folder = shutil.copytree(random_model, tmp_path / "model")
    validate(str(folder), tmp_path)
    edit(folder)
    dm = data()
    validate(str(folder), tmp_path, dm)
    assert dm.engine.calls == [(5, 3, 5), (3, 2, 3)]
    again = data()
    validate(str(folder), tmp_path, again)
    assert again.engine.calls == []
    stored = (tmp_path / "run" / "evaluation").glob("*/scores.json")
    measured = {json.loads(file.read_text())["measured"] for file in stored}
    assert len(measured) == (2 if edit is other_chat_template else 1)  # another prompt: accuracies do not compare


def test_an_engine_with_other_options_samples_again_and_they_are_not_written_down(random_model, tmp_path):
    validate(random_model, tmp_path)
    dm = data(engine=Counting())
    dm.engine.options = {"quantization": "fp8", "hf_token": "hf_secret"}
    validate(random_model, tmp_path, dm)
    assert dm.engine.calls == [(5, 3, 5), (3, 2, 3)]
    assert not [f for f in (tmp_path / "run").rglob("*.json*") if "hf_secret" in f.read_text()]


def test_other_weights_are_sampled_again(random_model, tmp_path):
    dm = data(val={"short": sets()["short"]})
    policy = module(random_model)
    trainer(tmp_path, MathEvaluation(), max_steps=1).fit(policy, datamodule=dm)
    assert [call for call in dm.engine.calls if call[2] == 3] == [(3, 2, 3), (3, 2, 3)]
    names = sorted(p.name.rpartition("-")[0] for p in (tmp_path / "run" / "evaluation").iterdir())
    assert names == ["val-step_000000", "val-step_000001"]
    dm.engine.calls.clear()
    trainer(tmp_path).validate(policy, datamodule=dm, verbose=False)
    assert dm.engine.calls == []  # those of the end of the fit


def test_held_out_accuracies_on_other_problems_are_not_compared(random_model, tmp_path, capsys):
    def fit(steps: int, path=None, **kwargs) -> str:
        saver = ModelCheckpoint(tmp_path / f"c{steps}", every_n_train_steps=1, save_last=True, save_top_k=-1)
        run = trainer(tmp_path / str(steps), MathEvaluation(), saver, enable_checkpointing=True, max_steps=steps)
        run.fit(module(random_model), datamodule=data(**kwargs), ckpt_path=path, weights_only=False)
        return capsys.readouterr().out.strip().splitlines()[-1]

    three, two = {"val": heldout(3, 1), "eval_samples": 2}, {"val": heldout(2, 1), "eval_samples": 2}
    assert fit(1, **three) == f"held-out accuracy {shares(3, 1, 2):.3f} -> {shares(3, 1, 2):.3f}"
    last = tmp_path / "c1" / "last.ckpt"
    assert fit(2, last, **three) == f"held-out accuracy {shares(3, 1, 2):.3f} -> {shares(3, 1, 2):.3f}"
    assert fit(2, last, **two) == (
        f"held-out accuracy {shares(2, 1, 2):.3f}; {shares(3, 1, 2):.3f} before training was measured on other problems, "
        "samples or settings and does not compare"
    )


@pytest.mark.slow
def test_two_processes_measure_what_one_does(random_model, tmp_path):
    """All but the length statistics' rounding; a limit holds for each rank, as Lightning's does."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[2])}
    ended = subprocess.run(
        [*launcher, str(PROGRAM), random_model, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    alone = validate(random_model, tmp_path / "alone")
    assert json.loads((tmp_path / "all.json").read_text()) == pytest.approx(alone)
    limited = json.loads((tmp_path / "limited.json").read_text())
    assert (limited["eval/long/problems"], limited["eval/short/problems"]) == (2, 2)
    assert limited == pytest.approx(validate(random_model, tmp_path / "two", limit_val_batches=2))
    (folder,) = (tmp_path / "all" / "run" / "evaluation").iterdir()
    assert sorted(p.name for p in folder.glob("groups.*")) == ["groups.0.jsonl", "groups.1.jsonl"]
    # One process reads what two have sampled.
    dm = data()
    assert validate(random_model, tmp_path / "all", dm) == pytest.approx(alone)
    assert dm.engine.calls == []
