"""Fuzz all readers of untrusted text: ``python -m benchmarks.fuzz --calls 1000000 --seed 0``.

Texts are random combinations of tokens that readers look for (``benchmarks.readers.PIECES``), sometimes changed at random. A
reader may refuse a text with the errors that its caller handles; any other exception is a fault. The table gives for each
reader its calls, exceptions, and the processor time, length and seed of its longest call, which ``--reader NAME --only SEED``
repeats. The exit code is 1 if there was an exception.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from benchmarks.readers import FILES, PIECES, READERS

MAX_PIECES, LONG = 40, 400


def random_text(seed: int) -> str:
    """Return a random text of pieces, mixed, repeated, nested or changed; one in twenty is long."""
    draw = random.Random(seed)
    pieces = [draw.choice(PIECES) for _ in range(draw.randint(0, MAX_PIECES))]
    if draw.random() < 0.05:
        pieces *= draw.randint(1, LONG // (1 + len(pieces)) + 1)
    if draw.random() < 0.2:
        unit = draw.choice(PIECES)
        pieces.insert(draw.randint(0, len(pieces)), unit * draw.randint(1, LONG))
    if draw.random() < 0.2:
        opening, closing = draw.choice(
            (("{", "}"), ("(", ")"), ("[", "]"), ("\\boxed{", "}"), ("(x=", ")"), ('{"a":', "}"))
        )
        depth = draw.randint(1, LONG)
        pieces = [opening * depth, *pieces, closing * depth]
    text = "".join(pieces)
    if text and draw.random() < 0.3:
        index = draw.randrange(len(text))
        character = chr(draw.choice((0, 9, 32, 123, 125, 0x301, 0x200B, 0x2028, 0xD800, 0x1F600)))
        text = text[:index] + character + text[index + 1 :]
    return text


def fuzz(calls: int, seed: int, names: Sequence[str]) -> tuple[list[str], int]:
    """Call the readers; return the lines of the table and the number of calls that raised."""
    lines = [f"{'reader':<26}{'calls':>9}{'exceptions':>12}{'longest call, ms':>18}{'characters':>12}  seed"]
    total = raised = 0
    # Files and comparisons are far slower, so they get a twentieth of the calls.
    shares = {name: 0.05 if name in FILES or name in ("numbered solution", "comparison") else 1.0 for name in names}
    for name in names:
        longest, failures = (0.0, 0, seed), 0
        count = round(calls * shares[name] / sum(shares.values()))
        for number in range(seed, seed + count):
            text = random_text(number)
            start = time.process_time()
            try:
                READERS[name](text)
            except Exception as error:  # any exception is a fault, which the table counts
                failures += 1
                if failures <= 3:
                    print(f"{name}, seed {number}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            longest = max(longest, (time.process_time() - start, len(text), number))
        total, raised = total + count, raised + failures
        lines.append(f"{name:<26}{count:>9,}{failures:>12}{1000 * longest[0]:>18.1f}{longest[1]:>12,}  {longest[2]}")
    lines.append(f"{'all':<26}{total:>9,}{raised:>12}")
    return lines, raised


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="number of calls of all readers together")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first text; later ones have the next seeds")
    parser.add_argument("--reader", choices=READERS, help="only this reader")
    parser.add_argument(
        "--only", type=int, metavar="SEED", help="only this text, which is printed; exceptions are raised"
    )
    args = parser.parse_args()
    names = [args.reader] if args.reader else list(READERS)
    if args.only is not None:
        text = random_text(args.only)
        print(ascii(text))
        for name in names:
            print(f"{name}: {ascii(READERS[name](text))[:500]}")
        return 0
    lines, raised = fuzz(args.calls, args.seed, names)
    print("\n".join(lines))
    return 1 if raised else 0


if __name__ == "__main__":
    sys.exit(main())
