"""Check the verifier against labelled data: ``python -m lit_tpgrpo.verify --data-dir DIR [--cases FILE]``.

Each check runs twice, once with worker processes only and once with the shortcuts that training uses; the outcomes must be
the same:

- the correctness labels of GSM8K's example model solutions (4 for each of 1,319 problems), answers on a line ``A: n``;
- MATH-500's golds against themselves, and against the box in their own solutions;
- the golds of every file present (AIME, AMC, GSM8K, MATH-500, MR-Ben, OlympiadBench, PRMBench, MATH) against themselves;
- wrong answers derived from 3,000 of them by changing one digit, sign, base, unit or order: none may be accepted;
- with ``--cases``, a JSONL file of single cases with ``kind``, ``gold``, ``text`` and ``expected``.

Workers are kept between checks, so their caches already hold golds in the later checks; the answers/s include that.
The exit code is 1 if any outcome disagrees.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.base import Verifier
from lit_tpgrpo.verify.checks import CHECKS, GSM8K_FILE, MATH500_FILE, Labelled, cases
from lit_tpgrpo.verify.verifier import MathVerifier


def check(labelled: Labelled, verifier: Verifier) -> tuple[list[int], dict[str, float], float]:
    """Verify labelled answers; return the indices that disagree with their label, the counters, and the time in seconds."""
    verifier.verify_all([("x+1", "1+x"), ("x+2", "2+x")])  # start the workers before the timing
    verifier.metrics()
    start = time.perf_counter()
    outcomes = verifier.verify_all((gold, answer) for gold, answer, _ in labelled)
    seconds = time.perf_counter() - start
    compared = zip(outcomes, labelled, strict=True)
    wrong = [i for i, (outcome, (_, _, label)) in enumerate(compared) if (outcome is Outcome.CORRECT) != label]
    return wrong, verifier.metrics(), seconds


def report(data_dir: Path, workers: int, timeout_s: float) -> Iterator[tuple[str, bool]]:
    """Run all checks; yield a line of text for each, and whether all its outcomes agree."""
    verifiers = {
        mode: MathVerifier(workers, timeout_s, cache_size=0, shortcuts=shortcuts)
        for mode, shortcuts in {"workers only": False, "shortcuts on": True}.items()
    }
    try:
        for name, load in CHECKS.items():
            labelled = load(data_dir)
            for mode, verifier in verifiers.items():
                wrong, counts, seconds = check(labelled, verifier)
                yield (
                    (
                        f"{name} ({mode}): "
                        f"{len(labelled) - len(wrong)}/{len(labelled)} agree, {counts['unverifiable']:.0f} unverifiable "
                        f"({counts['unparsed']:.0f} unparsed, {counts['timeout']:.0f} timeouts), "
                        f"{seconds:.2f} s, {len(labelled) / seconds:,.0f} answers/s"
                        + "".join(f"\n  disagrees, gold and answer: {labelled[i][:2]}" for i in wrong)
                    ),
                    not wrong,
                )
    finally:
        for verifier in verifiers.values():
            verifier.close()


def report_cases(path: Path, workers: int, timeout_s: float) -> tuple[str, bool]:
    """Verify the single cases of a file; return a line of text with those that differ, and whether all are as expected."""
    expected = cases(path)
    verifier = MathVerifier(workers, timeout_s)
    try:
        outcomes = verifier.verify_all((gold, answer) for gold, answer, _ in expected)
    finally:
        verifier.close()
    wrong = [(case, outcome) for case, outcome in zip(expected, outcomes, strict=True) if outcome.value != case[2]]
    line = f"cases about answers: {len(expected) - len(wrong)}/{len(expected)} as expected"
    return line + "".join(f"\n  (gold, answer, expected) {case}: {outcome.value}" for case, outcome in wrong), not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help=f"folder with {GSM8K_FILE} and {MATH500_FILE}")
    parser.add_argument("--cases", type=Path, help="a JSONL file of single cases")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=5.0)
    args = parser.parse_args()
    all_agree = True
    try:
        for line, agreed in report(args.data_dir, args.workers, args.timeout_s):
            print(line, flush=True)
            all_agree &= agreed
        if args.cases:
            line, agreed = report_cases(args.cases, args.workers, args.timeout_s)
            print(line, flush=True)
            all_agree &= agreed
    except InputError as error:
        parser.error(str(error))
    return 0 if all_agree else 1


if __name__ == "__main__":
    sys.exit(main())
