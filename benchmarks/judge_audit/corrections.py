"""The real chains whose corrections were annotated by hand, as rows that ``read_labelled`` reads."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.rule_judge import read_annotations, real_chains
from lit_tpgrpo.text.formats.think_tags import THINK_END


def write_corrections(data_dir: Path, path: Path) -> int:
    """Write the annotated chains with their labels, as if every answer were right; return how many.

    ``incorrect`` steps are INCORRECT, ``arguable`` ones have no label, all others are CORRECT: a judge that labels another
    step as corrected is wrong.

    Args:
        data_dir: folder with ``mrben_math.json`` and ``prmbench_qwq_solutions.jsonl``, whole.
        path: the file to write.
    """
    annotations = read_annotations()
    lines = []
    for case, _ in real_chains(data_dir):
        row = annotations.get(case.problem.uid)
        if row is None:
            continue
        text = case.solution.text
        thinks = [step for step in case.steps if not step.is_answer]
        # Steps without text have no number here and in the annotations alike: there is none in these chains.
        labels = [
            None if n in row["arguable"] else "incorrect" if n in row["incorrect"] else "correct"
            for n in range(1, len(thinks) + 1)
        ]
        steps = [text[step.start : step.end].strip() for step in thinks]
        lines.append(
            {
                "uid": case.problem.uid,
                "problem": case.problem.prompt,
                "gold": case.problem.answer,
                "outcome": "correct",
                "steps": steps,
                "answer": text.rpartition(THINK_END)[2].strip(),
                "labels": labels,
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return len(lines)
