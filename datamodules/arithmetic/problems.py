"""Generated problems: start with a number, apply + - * one after the other, all modulo m.

``make_problems("2", 100, seed=0, split="train")`` returns 100 ``Problem`` records; ``Task.from_prompt`` parses the
operations from the statement, so that the record is all that is needed.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from lit_tpgrpo.records import Problem

Split = Literal["train", "heldout"]

_HELDOUT_SHARE = 8
"""One task in eight, by its hash, is held out."""

STATEMENT = "Working modulo {modulus}, start with {start}, {operations}. What is the result?"
_WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}
_SYMBOLS = {word: symbol for symbol, word in _WORDS.items()}
_PROMPT = re.compile(
    r"Working modulo (\d+), start with (\d+), ((?:(?:add|subtract|multiply by) \d+(?:, )?)+)\. What is the result\?"
)
_OPERATION = re.compile(r"(add|subtract|multiply by) (\d+)")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the running value, e.g. ``Operation("+", 5)``."""

    symbol: str
    operand: int

    @property
    def words(self) -> str:
        """As the statement has it, e.g. ``add 5``."""
        return f"{_WORDS[self.symbol]} {self.operand}"

    def __call__(self, value: int, modulus: int) -> int:
        if self.symbol == "+":
            return (value + self.operand) % modulus
        if self.symbol == "-":
            return (value - self.operand) % modulus
        return (value * self.operand) % modulus


@dataclass(frozen=True, slots=True)
class Level:
    """Difficulty: the number of operations, and the modulus (the size of the tables that must be learnt).

    ``distinct``: no operation occurs twice in a problem, so the last one that was written says where in the problem a
    solution is, also after a correction that goes back.
    """

    steps: int
    modulus: int
    distinct: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.modulus < 10:
            raise ValueError(f"modulus must be at least 10 (operands are single digits), got {self.modulus}")
        if self.distinct and self.steps > len(self.operations):
            raise ValueError(
                f"steps must be at most {len(self.operations)}, the number of distinct operations, got {self.steps}"
            )

    @property
    def multipliers(self) -> tuple[int, ...]:
        """The digits from 2 that are coprime with the modulus: multiplying by them is a bijection."""
        return tuple(n for n in range(2, 10) if math.gcd(n, self.modulus) == 1)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All different operations: nine operands for + and -, and the multipliers."""
        additive = [Operation(symbol, n) for symbol in "+-" for n in range(1, 10)]
        return (*additive, *(Operation("*", n) for n in self.multipliers))

    @property
    def tasks(self) -> int:
        """Number of different tasks: starts, times sequences of operations."""
        n = len(self.operations)
        return self.modulus * (math.perm(n, self.steps) if self.distinct else n**self.steps)


LEVELS: dict[str, Level] = {
    "1": Level(steps=4, modulus=10),
    "2": Level(steps=6, modulus=10),
    "3": Level(steps=10, modulus=10),
    "4": Level(steps=6, modulus=13),
    "5": Level(steps=10, modulus=13),
    "6": Level(steps=16, modulus=10, distinct=True),
}
TINY_LEVELS = ("1", "2", "3", "4", "5")
"""The levels of which ``embedded:tiny-qwen2``, its tokenizer and the tiny judge were trained."""
DEFAULT_LEVEL = "2"


@dataclass(frozen=True, slots=True)
class TaskEquation:
    """The equation that a step claims, written ``6+9=3``: five tokens for Qwen2's tokenizer, eight with spaces."""

    left: int
    operation: Operation
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operation.symbol}{self.operation.operand}={self.result}"


@dataclass(frozen=True, slots=True)
class Task:
    """The operation sequence behind a problem."""

    modulus: int
    start: int
    operations: tuple[Operation, ...]

    @property
    def equations(self) -> tuple[TaskEquation, ...]:
        """The true equation of every step, in order."""
        equations, value = [], self.start
        for operation in self.operations:
            result = operation(value, self.modulus)
            equations.append(TaskEquation(value, operation, result))
            value = result
        return tuple(equations)

    @property
    def answer(self) -> int:
        return self.equations[-1].result

    @property
    def prompt(self) -> str:
        operations = ", ".join(o.words for o in self.operations)
        return STATEMENT.format(modulus=self.modulus, start=self.start, operations=operations)

    @property
    def digest(self) -> str:
        """A hash of the operation sequence, the same in every process and release."""
        key = f"{self.modulus}:{self.start}" + "".join(f"{o.symbol}{o.operand}" for o in self.operations)
        return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()

    @property
    def split(self) -> Split:
        return "heldout" if int(self.digest, 16) % _HELDOUT_SHARE == 0 else "train"

    @classmethod
    def from_prompt(cls, prompt: str) -> Task:
        match = _PROMPT.fullmatch(prompt.strip())
        if match is None:
            raise ValueError(f"expected a statement written by Task.prompt, got {prompt!r}")
        operations = tuple(Operation(_SYMBOLS[w], int(n)) for w, n in _OPERATION.findall(match[3]))
        return cls(int(match[1]), int(match[2]), operations)


def draw_task(level: Level, rng: random.Random) -> Task:
    """Draw a task of this level, uniform over starts and, at each step, over + - * and their operands (again, if not new).

    Multipliers are coprime with the modulus: every operation is then a bijection, so a wrong value can only be corrected
    by a reflection (or by a second error), never by the operations that follow.
    """
    multipliers = level.multipliers
    operations: list[Operation] = []
    while len(operations) < level.steps:
        symbol = rng.choice("+-*")
        operation = Operation(symbol, rng.choice(multipliers) if symbol == "*" else rng.randint(1, 9))
        if not level.distinct or operation not in operations:
            operations.append(operation)
    return Task(level.modulus, rng.randrange(level.modulus), tuple(operations))


def as_problem(task: Task, level_name: str) -> Problem:
    return Problem(f"arithmetic/{task.digest}", task.prompt, str(task.answer), "arithmetic", level_name)


def most_problems(level: str, split: Split) -> int:
    """Return the most problems that ``make_problems`` accepts: half of the expected number of tasks in the split.

    A split has more or fewer tasks than its expected share, and drawing the last ones would take very long.
    """
    tasks = LEVELS[level].tasks
    heldout = tasks // _HELDOUT_SHARE
    return (heldout if split == "heldout" else tasks - heldout) // 2


def make_problems(level: str, n: int, seed: int, split: Split) -> tuple[Problem, ...]:
    """Draw n different problems of a named level. The split is a hash of the problem, so no seed can mix the two splits.

    Raises:
        ValueError: an argument is out of range.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    if split not in ("train", "heldout"):
        raise ValueError(f"split must be 'train' or 'heldout', got {split!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    most = most_problems(level, split)
    if n > most:
        raise ValueError(
            f"n must be at most {most} for level {level!r} and split {split!r}, got {n}; take a higher level"
        )
    # Seeding with a string is stable over processes; level and split make equal seeds independent.
    rng = random.Random(f"{level}/{split}/{seed}")
    tasks: dict[str, Task] = {}
    while len(tasks) < n:
        task = draw_task(LEVELS[level], rng)
        if task.split == split:
            tasks.setdefault(task.digest, task)
    return tuple(as_problem(task, level) for task in tasks.values())
