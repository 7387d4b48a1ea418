"""The shipped tiny judge through the whole generative path: in this process, behind an endpoint, and in a real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, writer_samples
from lit_tpgrpo.judges.generative import GenerativeJudge, QueryConfig, RequestLimits
from lit_tpgrpo.judges.scoring import count_labels
from lit_tpgrpo.records import StepLabel

ROOT = Path(__file__).parents[3]


def tiny_judge(chat) -> GenerativeJudge:
    return GenerativeJudge(
        chat,
        query=QueryConfig(max_tokens=400),
        limits=RequestLimits(concurrency=128),
        prompts="embedded:judge-prompts",
        store=None,
    )


@pytest.mark.slow
def test_labels_of_written_chains_agree_with_the_truth():
    """300 held-out solutions of level 1. The floors leave room for the few wrong steps in so few: .958 on 1,000 of seed 0."""
    judge = tiny_judge(LocalChat("embedded:tiny-judge"))
    counts = count_labels(judge, label_cases(writer_samples("1", 300, seed=5))[0])
    scores = {label: counts.f1(label) for label in counts.present()}
    assert scores[StepLabel.CORRECT] > 0.98
    assert scores[StepLabel.INCORRECT] > 0.85
    assert scores[StepLabel.MATCHED] > 0.97
    assert scores[StepLabel.UNMATCHED] > 0.93
    metrics = judge.metrics()
    assert metrics["abstained"] <= 3
    assert metrics["requests_per_case"] < 4.2


@pytest.mark.slow
def test_the_same_judge_behind_an_endpoint_gives_the_same_labels():
    """Batches differ and with them the last bit of a logit: a single solution may come out otherwise."""
    cases = [case for case, _ in label_cases(writer_samples("1", 40, seed=6))[0]]
    here = dict(tiny_judge(LocalChat("embedded:tiny-judge")).judge(cases))
    command = [sys.executable, "-m", "examples.judge_server", "--model", "embedded:tiny-judge"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("listening on ").strip()
            judge = tiny_judge(OpenAIChat("embedded:tiny-judge", address))
            there = dict(judge.judge(cases))
        finally:
            server.kill()
    assert sorted(there) == list(range(40))
    assert sum(here[i].labels != there[i].labels for i in range(40)) <= 1
    metrics = judge.metrics()
    assert metrics["tokens_prompt"] > 0
    assert metrics["latency_p50_s"] > 0
    assert sum(v for k, v in metrics.items() if k.startswith("faults_")) == 0


@pytest.mark.slow
def test_a_short_run_of_the_generative_quickstart(tmp_path):
    """A real process: one round judged by the tiny judge, trained on, with its metrics logged."""
    command = [
        *(sys.executable, "train.py", "fit", "--config", "configs/quickstart.yaml"),
        *("--config", "configs/quickstart/generative.yaml"),
        *(
            "--trainer.max_steps",
            "2",
            "--data.problems_per_step",
            "2",
            "--data.steps_per_round",
            "2",
            "--data.val.n",
            "4",
        ),
        *("--data.judge.store", str(tmp_path / "replies"), "--trainer.logger.save_dir", str(tmp_path)),
        *("--trainer.default_root_dir", str(tmp_path), "--data.progress", "false"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "held-out accuracy" in done.stdout.splitlines()[-1]
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents*")).parent))
    events.Reload()
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("judge")}
    assert last["judge/cases"] == 32
    assert last["judge/abstained"] < 8
    assert last["judge/requests"] > 50
    assert last["judge/tokens_prompt"] > 500
    assert last["judge_audit/f1_correct"] > 0.95
    assert list((tmp_path / "replies").glob("replies.*.jsonl"))
