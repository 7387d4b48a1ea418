"""JudgedSolutionWriter: ``predict`` as JSON lines, one judged solution a line, written as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.records import CreditedSolution, Round


@checked_arguments()
class JudgedSolutionWriter(L.Callback):
    """Writes what ``predict`` sampled, verified and judged.

    Args:
        path: the file, made anew by each run; by default ``judged_solutions.jsonl`` in the trainer's log folder. With
            several processes each writes its own, with the rank before the suffix.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path
        self.written = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._file = self._target(trainer)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("")
        self.written = 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, Round):
            prompts = {g.problem.uid: g.problem for g in batch.groups}
            # Half a surrogate pair (in an error that a judge quotes) is written as JSON's escape, which reads back the same.
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for solution in batch.credited:
                    problem = prompts[solution.judged.solution.problem_uid]
                    row = {"problem": problem.uid, "prompt": problem.prompt, "gold": problem.answer}
                    file.write(json.dumps(row | judged_row(solution), ensure_ascii=False) + "\n")
            self.written += len(batch.credited)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        print(f"{self.written} judged solutions in {self._file}")

    def _target(self, trainer: L.Trainer) -> Path:
        folder = trainer.log_dir or trainer.default_root_dir
        path = Path(self.path) if self.path is not None else Path(folder) / "judged_solutions.jsonl"
        return path if trainer.world_size == 1 else path.with_suffix(f".{trainer.global_rank}{path.suffix}")


def judged_row(solution: CreditedSolution) -> dict[str, Any]:
    """A judged solution in plain values; spans are characters of ``text``."""
    judged = solution.judged
    steps = judged.verdict.steps
    return {
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
