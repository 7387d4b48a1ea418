"""Label scores of a judge model on the embedded domain with each labelling method, through ``GenerativeJudge``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases
from lit_tpgrpo.judges.generative import (
    DirectLabels,
    GenerativeJudge,
    IntrinsicSignals,
    QueryConfig,
    RequestLimits,
    StepByStep,
)
from lit_tpgrpo.judges.scoring import count_labels
from lit_tpgrpo.records import Problem

PROMPTS = "embedded:judge-prompts"


def tiny_judge(model: str | Path, method: IntrinsicSignals | DirectLabels | StepByStep) -> GenerativeJudge:
    """Build the judge of the quickstart, without a reply store."""
    return GenerativeJudge(
        LocalChat(str(model)),
        method,
        query=QueryConfig(max_tokens=400),
        limits=RequestLimits(concurrency=256),
        prompts=PROMPTS,
        store=None,
    )


def measure_judge(
    model: str | Path, pairs: Sequence[tuple[Problem, str]], step_by_step_solutions: int
) -> dict[str, dict[str, float]]:
    """Return for each method the F1 of each label and the shares of abstained solutions and invalid replies.

    Args:
        model: folder or name of the judge model.
        pairs: problems and solutions; those without known labels are left out.
        step_by_step_solutions: number of solutions for ``StepByStep``, which needs one request per step.
    """
    cases, _ = label_cases(pairs)
    scores: dict[str, dict[str, float]] = {}
    for method in (IntrinsicSignals(), DirectLabels(), StepByStep()):
        chosen = cases[:step_by_step_solutions] if isinstance(method, StepByStep) else cases
        judge = tiny_judge(model, method)
        counts = count_labels(judge, chosen)
        metrics = judge.metrics()
        judge.close()
        scores[method.name] = {
            **{f"f1_{label.value}": round(counts.f1(label), 4) for label in counts.present()},
            "solutions": len(chosen),
            "abstained": round(metrics["abstained_share"], 4),
            "invalid_replies": round(metrics["replies_invalid"] / max(1.0, metrics["requests"]), 4),
            "requests_per_solution": round(metrics["requests_per_case"], 2),
        }
    return scores
