"""Evaluate the rule judge on real chains: python -m benchmarks.rule_judge corrections | adoption | speed --data-dir DIR

corrections: INCORRECT labels on all chains of MR-Ben's maths (mrben_math.json) and PRMBench's QwQ solutions
    (prmbench_qwq_solutions.jsonl), each judged as if its answer were correct, compared with
    tests/data/rule_judge_chains.jsonl: the steps that we annotated by hand as corrected by a later step. Chains without
    annotation on which the judge labels a step are listed and counted, since the truth of these labels is unknown.
adoption: MATCHED labels where the answer repeats a value: for each gold of MATH-500 (math500_test.jsonl), chains that announce
    it in five wordings and box it; and each gold solution without its box, before an answer block with the box.
speed: time of the judge on PRMBench's QwQ solutions, as right and as wrong ones, and on written ones of the embedded domain.
    Of each solution the best of four passes counts, so that other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, writer_samples
from lit_tpgrpo.judges.audit_sets import read_mrben, read_prmbench
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.records import Outcome, Problem, Solution, StepLabel, StopReason
from lit_tpgrpo.text.steps import segment_steps

ANNOTATIONS = Path(__file__).parent.parent / "tests" / "data" / "rule_judge_chains.jsonl"
PASSES = 4
CHARACTERS_A_TOKEN, CHARACTERS_A_TOKEN_EMBEDDED = 2.66, 1.72
"""Of SmolLM2's tokenizer on QwQ's solutions, of the embedded domain's on its own."""
WORDINGS = (
    "Therefore, the answer is ${}$.",
    "So the answer is {}.",
    "The answer must be ${}$.",
    "Thus we get ${}$.",
    "Hence $x = {}$.",
)


def read_annotations() -> dict[str, dict[str, Any]]:
    """Load the annotations by chain."""
    rows = (json.loads(line) for line in ANNOTATIONS.read_text(encoding="utf-8").splitlines())
    return {row["uid"]: row for row in rows}


def make_case(problem: Problem, text: str, outcome: Outcome) -> JudgeCase:
    """Build a case from a text, with one token per character, which does not affect the judge."""
    starts = tuple(range(len(text)))
    solution = Solution(problem.uid, 0, (), starts, (0.0,) * len(starts), StopReason.EOS, 0, text, starts)
    return JudgeCase(problem, solution, outcome, segment_steps(text, starts, len(starts)))


def labelled(case: JudgeCase, label: StepLabel) -> list[int]:
    """Return the numbers, from 1, of the think steps to which the judge gives a label."""
    ((_, verdict),) = RuleJudge().judge([case])
    return [n for n, given in enumerate(verdict.labels[:-1], start=1) if given is label]


def real_chains(folder: Path) -> Iterator[tuple[JudgeCase, bool]]:
    """Yield all chains as if their answers were correct, and whether they are."""
    for report in (read_prmbench(folder / "prmbench_qwq_solutions.jsonl"), read_mrben(folder / "mrben_math.json")):
        for case in report.cases:
            yield replace(case, outcome=Outcome.CORRECT), case.outcome is Outcome.CORRECT


def corrections(folder: Path) -> None:
    """Print precision and recall of INCORRECT labels on the annotated chains."""
    annotations = read_annotations()
    chains: Counter[bool] = Counter()
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    unannotated: list[str] = []
    for case, correct in real_chains(folder):
        chains[correct] += 1
        uid = case.problem.uid
        steps = labelled(case, StepLabel.INCORRECT)
        row = annotations.get(uid)
        if row is None:
            counts[correct]["unknown"] += len(steps)
            unannotated += [f"{uid} {steps}"] if steps else []
            continue
        counts[correct]["true"] += len(row["incorrect"])
        for step in steps:
            kind = "hit" if step in row["incorrect"] else "arguable" if step in row["arguable"] else "false"
            counts[correct][kind] += 1
    rows = (
        ("answer right", chains[True], counts[True]),
        ("answer wrong", chains[False], counts[False]),
        ("all", chains.total(), counts[True] + counts[False]),
    )
    print(f"{'':<13} chains  labelled  right  arguable  wrong  unknown  precision  recall")
    for name, n, c in rows:
        known = c["hit"] + c["arguable"] + c["false"]
        precision = f"{c['hit'] / known:9.3f}" if known else f"{'-':>9}"
        recall = f"{c['hit'] / c['true']:.3f} of {c['true']}" if c["true"] else "-"
        print(
            f"{name:<13} {n:6}  {known + c['unknown']:8}  {c['hit']:5}  {c['arguable']:8}  {c['false']:5}  "
            f"{c['unknown']:7}  {precision}  {recall}"
        )
    for line in unannotated:
        print(f"not annotated: {line}")


def unboxed(text: str) -> str:
    r"""Replace each ``\boxed{x}`` by x."""
    while box := re.search(r"\\boxed\s*\{", text):
        depth, end = 1, box.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        text = text[: box.start()] + text[box.end() : end - 1] + text[end:]
    return re.sub(r"\\boxed\s*", "", text)


def adoption(folder: Path) -> None:
    """Print how many values that the answer repeats are not matched."""
    rows = [json.loads(line) for line in (folder / "math500_test.jsonl").read_text(encoding="utf-8").splitlines()]
    missed: Counter[str] = Counter()
    without_match = last_unmatched = false_matches = 0
    for number, row in enumerate(rows):
        problem = Problem(f"math500/{number}", row["problem"], row["answer"], "math500")
        gold, other = row["answer"], rows[(number + 7) % len(rows)]["answer"]
        for wording in WORDINGS:
            think = f"Let me think.\n\n{wording.replace('{}', gold)}\n\nNow I write it up."
            case = make_case(problem, f"{think}\n</think>\n\n\\boxed{{{gold}}}", Outcome.INCORRECT)
            missed[wording] += labelled(case, StepLabel.MATCHED) != [2]
        if other != gold:
            think = f"Let me think.\n\n{WORDINGS[0].replace('{}', gold)}"
            case = make_case(problem, f"{think}\n</think>\n\n\\boxed{{{other}}}", Outcome.INCORRECT)
            false_matches += labelled(case, StepLabel.MATCHED) != []
        text = f"{unboxed(row['solution']).strip()}\n</think>\n\nThe final answer is $\\boxed{{{gold}}}$."
        case = make_case(problem, text, Outcome.INCORRECT)
        matched = labelled(case, StepLabel.MATCHED)
        without_match += not matched
        last_unmatched += len(case.steps) - 1 not in matched
    for wording in WORDINGS:
        print(f"golds announced as {wording!r:<36} and not matched: {missed[wording]:4} of {len(rows)}")
    print(f"golds matched to the box of another answer: {false_matches}")
    print(
        f"gold solutions: {without_match} of {len(rows)} without a matched step, "
        f"{last_unmatched} whose last step is not matched"
    )


def speed(folder: Path) -> None:
    """Print the time per character and million tokens of one process."""
    warnings.simplefilter("ignore")  # of the judge's scope
    qwq = read_prmbench(folder / "prmbench_qwq_solutions.jsonl").cases
    written = [case for level in ("1", "2", "3") for case, _ in label_cases(writer_samples(level, 100, 0))[0]]
    sets = {
        outcome.value: [replace(c, outcome=outcome) for c in qwq] for outcome in (Outcome.CORRECT, Outcome.INCORRECT)
    }
    for name, cases in (sets | {"embedded": written}).items():
        best = [math.inf] * len(cases)
        for _ in range(PASSES):
            for i, case in enumerate(cases):
                start = time.perf_counter()
                list(RuleJudge().judge([case]))
                best[i] = min(best[i], time.perf_counter() - start)
        characters = sum(len(case.solution.text) for case in cases)
        tokens = characters / (CHARACTERS_A_TOKEN_EMBEDDED if name == "embedded" else CHARACTERS_A_TOKEN)
        print(
            f"{name:<10} {len(cases):4} solutions, {characters:7} characters: {1e9 * sum(best) / characters:6.0f} ns a "
            f"character, {sum(best) / tokens * 1e6:5.2f} s a million tokens"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("corrections", "adoption", "speed"))
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with these files")
    args = parser.parse_args()
    {"corrections": corrections, "adoption": adoption, "speed": speed}[args.what](args.data_dir)


if __name__ == "__main__":
    main()
