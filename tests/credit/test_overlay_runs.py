"""Each overlay of configs/credit trains: two optimizer steps by the command line, and the second one again, resumed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_tpgrpo.cli import main
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from tests.credit.overlays import credit_of
from tests.engines import misbehaving_server as bad
from tests.judges.generative.chains import asked_id
from tests.test_metrics_page import undocumented

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
POLICY = "embedded:tiny-qwen2"
JUDGES = ROOT / "configs" / "judge"
SCORER = "{scorer}"  # in options: the folder of another model with the policy's tokenizer
SMALL: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 2,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "callbacks": [
            {
                "class_path": "lit_tpgrpo.callbacks.SafeCheckpoint",
                "init_args": {"every_n_train_steps": 1, "save_top_k": -1},
            }
        ],
    },
    "data": {
        "class_path": "lit_tpgrpo.datamodules.MathRolloutDataModule",
        "init_args": {
            "train": {"init_args": {"n": 8}},
            "group_size": 4,
            "problems_per_step": 1,
            "steps_per_round": 2,
            "progress": False,
        },
    },
}


@dataclass(frozen=True)
class Run:
    """What is special to the runs with an overlay."""

    positive: tuple[str, ...]
    """Metrics that say that the evidence was provided."""
    asked: tuple[str, ...]
    """Metrics that count what a provider or judge was asked now; 0 in a resumed run."""
    options: tuple[str, ...] = ()
    resumed: bool = True
    """Whether the second step is trained again; not where another overlay has the same provider."""
    requests: int = 0
    """Those that a judge behind an endpoint gets about the round's two groups of four."""


CONTINUED = Run(
    ("evidence/prefixes", "evidence/continuations", "evidence/continuation_tokens"),
    ("evidence/prefixes", "evidence/continuations", "evidence/prefixes_lost"),
    ("--data.evidence.samples", "2", "--data.evidence.max_steps", "3"),
)
GRADED = ("evidence/grading_samples", "evidence/requests")
RUNS = {
    "vineppo": CONTINUED,
    "math_shepherd_soft": replace(CONTINUED, resumed=False),
    "math_shepherd_hard": replace(CONTINUED, resumed=False),
    "er_prm": replace(CONTINUED, resumed=False),
    "pure_scores": CONTINUED,
    "dense_rewards": Run(
        ("evidence/prefixes", "evidence/search_boundaries", "evidence/search_probes"),
        ("evidence/prefixes", "evidence/continuations", "evidence/prefixes_lost"),
        ("--data.evidence.samples", "2"),
    ),
    "spae": Run(
        ("evidence/probes", "evidence/probe_tokens"),
        ("evidence/probes", "evidence/probes_lost"),
        ("--data.evidence.samples", "2"),
    ),
    "gdpo": Run((), (), resumed=False),
    "prime": Run(
        ("evidence/scored_solutions", "evidence/scored_tokens", "evidence/implicit_updates", "evidence/implicit_loss"),
        ("evidence/scored_solutions", "evidence/implicit_updates"),
    ),
    "q_rm": Run(
        ("evidence/scored_solutions", "evidence/scored_tokens"),
        ("evidence/scored_solutions",),
        ("--data.evidence.model", SCORER),
    ),
    "capo_votes": Run(
        ("judge/cases", "judge/requests"),
        ("judge/requests",),
        ("--data.judge.judge.store", "null", "--data.judge.votes", "2"),
    ),
    # By a judge behind an endpoint. Without a store of replies every question that is asked twice would be a request.
    "think_rm": Run(  # both orders of six pairs
        ("evidence/comparison_pairs", "evidence/comparison_pairs_consistent"),
        ("evidence/comparison_pairs", "evidence/requests"),
        ("--config", f"{JUDGES}/comparisons.yaml", "--data.evidence.comparison.store", "null"),
        requests=2 * 12,
    ),
    "grades": Run(  # four gradings, and a score of each
        GRADED, GRADED, ("--config", f"{JUDGES}/grades.yaml", "--data.evidence.grader.store", "null"), requests=2 * 8
    ),
    "rlsp": Run(
        GRADED, GRADED, ("--config", f"{JUDGES}/grades.yaml", "--data.evidence.grader.store", "null"), requests=2
    ),
}


def reply(body: dict[str, Any], number: int) -> bad.Behaviour:
    """An honest judge to which the longer text is the better one."""
    prompt = body["messages"][0]["content"]
    answer: dict[str, Any] = {"id": asked_id(prompt)}
    lengths = [len(text) for text in re.findall(r"^SOLUTION \d+\n=+ \w+ =+\n(.*?)^=+ \w+ =+$", prompt, re.M | re.S)]
    name = body["response_format"]["json_schema"]["name"]
    if name == "comparison":
        first, second = lengths
        answer["preference"] = (first > second) - (first < second)
    elif name == "grading":
        ranks = sorted(set(lengths))
        answer |= {"principles": [{"principle": "length", "weight": 1}], "critiques": ["long"] * len(lengths)}
        answer["grades"] = [min(10, 1 + ranks.index(n)) for n in lengths]
    else:
        answer["score"] = 50
    return bad.ok(json.dumps(answer))


@pytest.fixture(scope="module")
def judge() -> Iterator[bad.MisbehavingServer]:
    with bad.MisbehavingServer(lambda body, n: reply(body, n) if "response_format" in body else bad.ok("OK")) as server:
        yield server


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with random weights and the policy's tokenizer, as a Hugging Face folder."""
    from lit_tpgrpo.datamodules.arithmetic.tiny import random_policy, tiny_config

    folder = tmp_path_factory.mktemp("scorer")
    tokenizer = load_tokenizer(POLICY)
    random_policy(tiny_config(tokenizer, hidden_size=32, layers=1, heads=2, key_value_heads=1), seed=1).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def fit(folder: Path, name: str, options: list[str]) -> tuple[Path, dict[str, list[float]]]:
    """Train, and return the run's folder and its metrics."""
    small = folder / "small.yaml"
    small.write_text(yaml.safe_dump(SMALL))
    configs = (ROOT / "configs" / "quickstart.yaml", small, ROOT / "configs" / "credit" / f"{name}.yaml")
    places = ["--trainer.logger.save_dir", str(folder), "--trainer.default_root_dir", str(folder)]
    naming = ["--trainer.logger.name", "run"]
    main(["fit", *(a for c in configs for a in ("--config", str(c))), *places, *naming, *options])
    made = max((folder / "run").iterdir(), key=lambda path: int(path.name.removeprefix("version_")))
    events = EventAccumulator(str(made))
    events.Reload()
    return made, {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def weights_of_policy() -> dict[str, torch.Tensor]:
    policy = load_causal_lm(POLICY, random_init=False, dtype=torch.float32, attention="sdpa")
    return {f"policy.causal_lm.{name}": weight for name, weight in policy.state_dict().items()}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_every_other_overlay_was_trained_by_the_study():
    """Its arms have results, and each overlay that is not trained here is one, or has the credit of one."""
    arms = yaml.safe_load((ROOT / "benchmarks" / "study" / "arms.yaml").read_text())["arms"]
    results = ROOT / "benchmarks" / "results" / "study" / "by_run"
    studied = [arm for arm in arms if list(results.glob(f"{arm['name']}-seed*.json"))]
    files = [ROOT / path for arm in studied for path in arm.get("overlays", ()) if isinstance(path, str)]
    credits = [credit_of(path) for path in (*files, ROOT / "configs" / "quickstart.yaml")]
    others = [path for path in (ROOT / "configs" / "credit").glob("*.yaml") if path.stem not in RUNS]
    assert [path.stem for path in others if path not in files and credit_of(path) not in credits] == []
    assert len(others) >= 19


@pytest.mark.parametrize("name", RUNS)
def test_an_overlay_trains_and_asks_for_its_evidence_once(
    name: str, tmp_path: Path, judge: bad.MisbehavingServer, scorer: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run, before = RUNS[name], judge.requests
    options = [scorer if option == SCORER else option for option in run.options]
    folder, metrics = fit(tmp_path, name, options)
    assert len(metrics["train/loss"]) == 2
    assert [tag for tag, values in metrics.items() if not all(map(math.isfinite, values))] == []
    assert metrics["credit/kept_solutions"][0] > 0
    assert metrics["credit/advantage_variance"][0] > 0
    assert [tag for tag in run.positive if not metrics[tag][0] > 0] == []
    assert undocumented(set(metrics)) == []
    (first,) = folder.glob("checkpoints/*step=1*.ckpt")
    after_one, after_two = weights(first), weights(folder / "checkpoints" / "last.ckpt")
    assert apart(after_one, weights_of_policy()) > 0
    assert apart(after_one, after_two) > 0
    asked = judge.requests - before
    assert asked == run.requests
    if not run.resumed:
        return

    resumed, again = fit(tmp_path, name, [*options, "--ckpt_path", str(first)])
    assert apart(weights(resumed / "checkpoints" / "last.ckpt"), after_two) == 0
    assert [tag for tag in run.asked if again[tag][0]] == []
    assert judge.requests == before + asked
