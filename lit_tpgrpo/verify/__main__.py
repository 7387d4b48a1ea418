"""Check the verifier against labelled data: ``python -m lit_tpgrpo.verify --data-dir DIR``.

Three checks, each with every comparison made by math-verify and again with the shortcuts that training uses:

- the correctness labels of GSM8K's example model solutions (4 for each of 1,319 problems), answers on a line ``A: n``;
- MATH-500's golds against themselves;
- MATH-500's golds against the box in their own solutions.

The exit code is 1 if any outcome disagrees.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import AnswerForm, extract_answer, extract_boxed, normalise_gold
from lit_tpgrpo.verify.verifier import MathVerifier

GSM8K_FILE = "gsm8k_example_model_solutions.jsonl"
MATH500_FILE = "math500_test.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

Labelled = list[tuple[str, str | None, bool]]
"""(gold, answer, whether it is correct)"""


def read_rows(path: Path) -> list[dict]:
    if not path.is_file():
        raise InputError(f"expected the file {path}, it is not there; name the folder that holds it with --data-dir")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gsm8k_labels(data_dir: Path) -> Labelled:
    labelled: Labelled = []
    for row in read_rows(data_dir / GSM8K_FILE):
        gold = normalise_gold(AnswerForm.GSM8K_LINE, row["ground_truth"])
        for solution in (row[model] for model in MODELS):
            answer = extract_answer(solution["solution"], AnswerForm.GSM8K_LINE, thinks=False)
            labelled.append((gold, answer, solution["is_correct"]))
    return labelled


def math500_golds(data_dir: Path) -> Labelled:
    golds = [normalise_gold(AnswerForm.PLAIN, row["answer"]) for row in read_rows(data_dir / MATH500_FILE)]
    return [(gold, gold, True) for gold in golds]


def math500_boxes(data_dir: Path) -> Labelled:
    return [
        (normalise_gold(AnswerForm.PLAIN, row["answer"]), extract_boxed(row["solution"], thinks=False), True)
        for row in read_rows(data_dir / MATH500_FILE)
    ]


CHECKS = {
    "GSM8K solutions against their labels": gsm8k_labels,
    "MATH-500 golds against themselves": math500_golds,
    "MATH-500 golds against the box in their solution": math500_boxes,
}


def check(labelled: Labelled, verifier: MathVerifier) -> tuple[list[int], dict[str, float], float]:
    """The indices that disagree with their label, the verifier's counters, and the seconds it took."""
    verifier.verify_all([("1/2", "0.5")] * 2)  # workers start outside the timing
    verifier.metrics()
    start = time.perf_counter()
    outcomes = verifier.verify_all((gold, answer) for gold, answer, _ in labelled)
    seconds = time.perf_counter() - start
    agreed = zip(outcomes, labelled, strict=True)
    wrong = [i for i, (outcome, (_, _, label)) in enumerate(agreed) if (outcome is Outcome.CORRECT) != label]
    return wrong, verifier.metrics(), seconds


def report(data_dir: Path, workers: int, timeout_s: float) -> Iterator[tuple[str, bool]]:
    """One line for each check, and whether all agreed."""
    for name, load in CHECKS.items():
        labelled = load(data_dir)
        for shortcuts in (False, True):
            verifier = MathVerifier(workers, timeout_s, cache_size=0, shortcuts=shortcuts)
            try:
                wrong, counts, seconds = check(labelled, verifier)
            finally:
                verifier.close()
            yield (
                (
                    f"{name} ({'shortcuts on' if shortcuts else 'math-verify alone'}): "
                    f"{len(labelled) - len(wrong)}/{len(labelled)} agree, {counts['unverifiable']:.0f} unverifiable "
                    f"({counts['unparsed']:.0f} unparsed, {counts['timeout']:.0f} timeouts), "
                    f"{seconds:.2f} s, {len(labelled) / seconds:,.0f} answers/s"
                    + "".join(f"\n  disagrees, gold and answer: {labelled[i][:2]}" for i in wrong)
                ),
                not wrong,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help=f"folder with {GSM8K_FILE} and {MATH500_FILE}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=5.0)
    args = parser.parse_args()
    good = True
    try:
        for line, agreed in report(args.data_dir, args.workers, args.timeout_s):
            print(line, flush=True)
            good &= agreed
    except InputError as error:
        parser.error(str(error))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
