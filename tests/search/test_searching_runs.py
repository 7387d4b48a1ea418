"""Runs whose engine searches: what searches cost is logged and written, and other searches are not read from disk."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Round
from lit_tpgrpo.search import BestOfN, JudgeStepScores, NoScores, SearchingEngine, StepScorer

PROBLEMS, SAMPLES, LIMIT = 3, 2, 4


class Rounds(L.Callback):
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        assert isinstance(batch, Round)
        self.metrics.append(dict(batch.metrics))


def data(n: int, scorer: StepScorer) -> MathRolloutDataModule:
    return MathRolloutDataModule(
        val=ArithmeticProblems("1", n=PROBLEMS, split="heldout"),
        engine=SearchingEngine(HFEngine(), BestOfN(n), scorer),
        sampling=SamplingParams(max_new_tokens=LIMIT),
        eval_samples=SAMPLES,
        group_size=SAMPLES,
        problems_per_step=2,
        prompt_template="{problem}",
        progress=False,
        seed=0,
    )


@pytest.mark.slow
def test_what_searches_cost_is_logged_and_written(random_model, tmp_path):
    kept = Rounds()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(str(tmp_path), name="", version="run"),
        callbacks=[kept],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = TPGRPOModule(random_model)

    def cost(n: int, scorer: StepScorer | None = None) -> dict[str, float]:
        """What a validation logs as eval/search_*."""
        trainer.validate(module, datamodule=data(n, scorer or NoScores()), verbose=False)
        return {k.removeprefix("eval/search_"): float(v) for k, v in trainer.callback_metrics.items() if "search" in k}

    first = cost(2)
    assert first["solutions"] == PROBLEMS * SAMPLES
    assert PROBLEMS * SAMPLES * 2 <= first["tokens"] <= PROBLEMS * SAMPLES * 2 * LIMIT
    assert cost(2) == {"solutions": 0, "tokens": 0}  # read from disk
    other = cost(3, JudgeStepScores(RuleJudge()))
    assert other["solutions"] == PROBLEMS * SAMPLES
    assert other["judge_cases"] == PROBLEMS * SAMPLES * 3
    files = [json.loads(path.read_text()) for path in Path(tmp_path).rglob("scores.json")]
    # The first evaluation's cost is still there after the second, which sampled nothing.
    assert sorted(file["engine"]["search_tokens"] for file in files) == sorted([first["tokens"], other["tokens"]])

    # Killed before the last group: the cost is that of all groups, of whichever process.
    [folder] = [p.parent for p in tmp_path.rglob("scores.json") if json.loads(p.read_text()) in files[:1]]
    whole = json.loads((folder / "scores.json").read_text())["engine"]
    rows = (folder / "groups.0.jsonl").read_text().splitlines(keepends=True)
    (folder / "scores.json").unlink()
    (folder / "groups.0.jsonl").write_text("".join(rows[:-1]) + rows[-1][:-9])
    searched = (2, NoScores()) if whole["search_tokens"] == first["tokens"] else (3, JudgeStepScores(RuleJudge()))
    rest = cost(*searched)
    assert rest["solutions"] == SAMPLES
    again = json.loads((folder / "scores.json").read_text())["engine"]
    assert {k: again[k] for k in ("search_tokens", "search_solutions")} == {
        k: whole[k] for k in ("search_tokens", "search_solutions")
    }
    assert again["search_tokens"] > rest["tokens"] > 0

    trainer.predict(module, datamodule=data(2, NoScores()))
    assert [m["predict/search_solutions"] for m in kept.metrics] == [2 * SAMPLES, SAMPLES]
    assert kept.metrics[0]["rollout/solutions"] == 2 * SAMPLES
    total = sum(m["predict/search_tokens"] for m in kept.metrics)
    assert float(trainer.callback_metrics["predict/search_tokens"]) == total > 0
    assert f"{total}" in (tmp_path / "run" / "metrics.csv").read_text()
