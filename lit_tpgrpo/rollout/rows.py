"""Judged solutions as plain values, as ``predict`` writes them."""

from __future__ import annotations

from typing import Any

from lit_tpgrpo.records import CreditedSolution, Round


def judged_rows(round_: Round) -> list[dict[str, Any]]:
    """Return one row per solution of a round: the problem's ``problem`` (uid), ``prompt`` and ``gold``, then ``judged_row``."""
    problems = {g.problem.uid: g.problem for g in round_.groups}
    rows = []
    for solution in round_.credited:
        problem = problems[solution.judged.solution.problem_uid]
        rows.append({"problem": problem.uid, "prompt": problem.prompt, "gold": problem.answer} | judged_row(solution))
    return rows


def judged_row(solution: CreditedSolution) -> dict[str, Any]:
    """Return a judged solution as plain values; spans are characters of ``text``. With ``data.rewards`` it has ``reward``."""
    judged = solution.judged
    steps = judged.verdict.steps
    reward = {} if judged.reward is None else {"reward": {"total": judged.reward.total} | dict(judged.reward.terms)}
    row = {
        "sample": judged.solution.sample,
        "text": judged.solution.text,
        "stop": judged.solution.stop.value,
        "answer": judged.answer,
        "outcome": judged.outcome.value,
        "outcome_advantage": solution.outcome_advantage,
        "judge_note": judged.verdict.note,
        "steps": [
            {"start": s.start, "end": s.end, "label": label.value}
            for s, label in zip(steps, judged.verdict.labels, strict=True)
        ],
        "thoughts": [
            {
                "start": steps[t.first_step].start,
                "end": steps[t.end_step - 1].end,
                "label": t.label.value,
                "process_reward": reward,
                "advantage": float(solution.advantages[t.token_start]) if t.token_end > t.token_start else 0.0,
            }
            for t, reward in zip(solution.thoughts, solution.process_rewards, strict=True)
        ],
    }
    return row | reward
