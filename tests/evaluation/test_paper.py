"""configs/eval/paper.yaml on real problems: the five sets, their table and the paper's efficiency."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import yaml

from lit_tpgrpo.callbacks import EvaluationTable, MathEvaluation
from lit_tpgrpo.datamodules.sources import EvaluationSet, FileProblems
from lit_tpgrpo.engines.base import Completion, Engine
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.evaluation.suite_program import data, module, trainer
from tests.real_data import RealData

CONFIG = Path(__file__).parents[2] / "configs" / "eval" / "paper.yaml"
FILES = {
    "aime24": "aime24_qwq.jsonl",
    "aime25": "aime25_qwq.jsonl",
    "amc23": "amc23_test.jsonl",
    "math500": "math500_test.jsonl",
    "olympiadbench": "olympiadbench_test.jsonl",
}


class KnowsSome(Engine):
    """Answers every problem of a known set right in the first sample of four, and wrong in the others, without a model."""

    def __init__(self, golds: dict[str, str]) -> None:
        self.golds = golds

    def load_weights(self, policy):
        self.tokenizer = policy.tokenizer

    def sample(self, prompts, n, params, seeds):
        for i, prompt in enumerate(prompts):
            text = self.tokenizer.decode(prompt)
            gold = next(gold for statement, gold in self.golds.items() if statement in text)
            yield i, tuple(self._completion(gold if k % 4 == 0 else "-987654321") for k in range(n))

    @functools.lru_cache  # noqa: B019
    def _completion(self, answer: str) -> Completion:
        ids = tuple(self.tokenizer.encode(rf"so </think> \boxed{{{answer}}}", add_special_tokens=False))
        return Completion(ids, (0.0,) * len(ids), StopReason.LENGTH)


def sets(folder: Path) -> dict[str, EvaluationSet]:
    """The config's sets with the files in place of the Hub's data; no problem is over the tiny model's positions."""
    given = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]["val"]
    presets = {name: s["init_args"]["source"]["init_args"]["preset"] for name, s in given.items()}
    assert presets == {name: name for name in FILES}  # the config names the five by their presets
    return {
        name: EvaluationSet(FileProblems(folder / FILES[name], preset=preset), given[name]["init_args"]["samples"])
        for name, preset in presets.items()
    }


@pytest.mark.slow
def test_the_papers_sets_on_real_problems(random_model, tmp_path, capsys, real_data: RealData):
    val = sets(real_data.folder)
    golds = {p.prompt: p.answer for s in val.values() for p in s.load()}
    dm = data(val=val, engine=KnowsSome(golds), verifier=MathVerifier(), max_prompt_tokens=100_000)
    run = trainer(tmp_path, MathEvaluation(), EvaluationTable(base=10.0, solutions=500))
    (scores,) = run.test(module(random_model), datamodule=dm, verbose=False)
    counts = [int(scores[f"test/{name}/problems"]) for name in FILES]
    assert counts == ([30, 30, 40, 500, 675] if real_data.kind == "whole" else [len(s.load()) for s in val.values()])
    assert [s.samples for s in val.values()] == [32, 32, 32, 4, 4]
    for name, samples in zip(FILES, (32, 32, 32, 4, 4), strict=True):
        assert scores[f"test/{name}/avg@{samples}"] == pytest.approx(0.25, abs=0.01)  # a few golds nobody can verify
        assert scores[f"test/{name}/truncated_share"] == 1.0
    printed = capsys.readouterr().out
    average = 100 * scores["test/average"]
    row = next(line for line in printed.splitlines() if line.startswith("| average"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == [f"{sum(counts):,}", "", f"{average:.2f}"]
    # gain / solutions x 1e5 = 15 / 500 x 1e5 = 3,000 where all is verified
    assert re.search(rf"\| +10.00 \| +{average:.2f} \| +{average - 10:.2f} \| +500 \|", printed)
    assert re.search(rf"{(average - 10) / 500 * 1e5:.2f} \|$", printed, re.MULTILINE)
    assert re.search(r"^\| math500 +\| (Algebra|Geometry)", printed, re.MULTILINE)


# ---- where the efficiency's numbers come from ----


def fitted(model: str, folder: Path) -> Path:
    from lit_tpgrpo.callbacks import SafeCheckpoint

    saver = SafeCheckpoint(folder / "run" / "checkpoints", every_n_train_steps=1)
    run = trainer(folder, MathEvaluation(), saver, enable_checkpointing=True, max_steps=2)
    run.fit(module(model), datamodule=data())
    return folder / "run" / "checkpoints" / "last.ckpt"


def table_of(model: str, folder: Path, capsys, path: Path | None, **kwargs) -> str:
    given = {name: kwargs.pop(name) for name in ("base", "solutions") if name in kwargs}
    run = trainer(folder, MathEvaluation(), EvaluationTable(**given))
    run.test(module(model), datamodule=data(**kwargs), ckpt_path=path, weights_only=True, verbose=False)
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_checkpoint_says_what_the_training_cost_and_started_from(random_model, tmp_path, capsys):
    """Two steps of one problem with two solutions; LuckyByGold's accuracy does not depend on the weights."""
    path = fitted(random_model, tmp_path)
    printed = table_of(random_model, tmp_path / "t", capsys, path)
    assert re.search(r"\| +50.00 \| +50.00 \| +0.00 \| +4 \| +0.00 \|", printed)
    folder = Path(re.search(r"^evaluation: (.*) \(table.md", printed, re.MULTILINE)[1])  # pyright: ignore
    assert folder.name.startswith("test-step_000002-")
    assert (folder / "table.md").read_text() in printed
    assert "efficiency,,,,,,,,,,,,,,,,50.0" in (folder / "table.csv").read_text()
    other = table_of(random_model, tmp_path / "u", capsys, path, eval_samples=3, val=data().sources["val"]["short"])  # pyright: ignore
    assert "efficiency: unknown, the accuracy before training is of other problems, samples or settings; give" in other
    given = table_of(random_model, tmp_path / "t", capsys, path, base=40.0, solutions=1000)
    assert re.search(r"\| +40.00 \| +50.00 \| +10.00 \| +1,000 \| +1000.00 \|", given)
    # An evaluation of the initial policy is a base, too: of these sets, not of others.
    initial = Path(
        re.search(r"^evaluation: (\S+)", table_of(random_model, tmp_path / "i", capsys, None), re.MULTILINE)[1]
    )  # pyright: ignore
    stored = table_of(random_model, tmp_path / "t", capsys, path, base=str(initial))
    assert re.search(r"\| +50.00 \| +50.00 \| +0.00 \| +4 \|", stored)
    changed = json.loads((initial / "scores.json").read_text()) | {"measured": "other"}
    (initial / "scores.json").write_text(json.dumps(changed))
    assert "was measured on other problems, samples or settings" in table_of(
        random_model, tmp_path / "t", capsys, path, base=str(initial)
    )


def test_an_untrained_policy_has_no_efficiency(random_model, tmp_path, capsys):
    assert "efficiency: none, nothing was trained" in table_of(random_model, tmp_path, capsys, None)


def test_what_is_no_base_is_refused_before_anything_is_sampled(random_model, tmp_path):
    dm = data()
    with pytest.raises(
        InputError, match=r"expected a number, or a folder with the scores.json of an evaluation, got FileNot"
    ):
        trainer(tmp_path, EvaluationTable(base=str(tmp_path))).test(module(random_model), datamodule=dm)
    assert dm.engine.calls == []  # pyright: ignore
    with pytest.raises(ConfigError, match="from 0 to 100, got 101"):
        EvaluationTable(base=101)
    with pytest.raises(ConfigError, match="solutions must be at least 1, got 0"):
        EvaluationTable(solutions=0)
