"""Training rows of the warm start: chains of thought, and sheets of equations that teach the tables with few tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.datamodules.arithmetic.chains import NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.measure import prompt_text
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, Level, TaskEquation, draw_task

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids, and the positions of those in the loss."""

    ids: list[int]
    predicted: Sequence[int]


def _draw_levels(mix: Mapping[str, float], n: int, rng: random.Random) -> list[Level]:
    return [LEVELS[name] for name in rng.choices(list(mix), list(mix.values()), k=n)]


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, statements: list[str], completions: list[str]
) -> list[tuple[list[int], list[int]]]:
    prompts = [prompt_text(tokenizer, s) for s in statements]
    return list(
        zip(
            tokenizer(prompts, add_special_tokens=False)["input_ids"],
            tokenizer(completions, add_special_tokens=False)["input_ids"],
            strict=True,
        )
    )


def chain_rows(
    n: int, mix: Mapping[str, float], noise: NoiseRates, tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> list[Row]:
    """Draw chains of the training split, EOS included; the loss is on all tokens after the prompt."""
    statements, completions = [], []
    for level in _draw_levels(mix, n, rng):
        task = draw_task(level, rng)
        while task.split != "train":
            task = draw_task(level, rng)
        statements.append(task.prompt)
        completions.append(write_chain(task, noise, rng).text)
    end = [cast(int, tokenizer.eos_token_id)]
    return [
        Row(prompt + completion + end, range(len(prompt), len(prompt) + len(completion) + 1))
        for prompt, completion in _tokenize(tokenizer, statements, completions)
    ]


def sheet_rows(
    n: int, equations: int, mix: Mapping[str, float], tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> list[Row]:
    """Draw rows of unrelated right equations; the loss is on their results only.

    A chain takes about 25 tokens per table entry, a sheet six.
    """
    statements, completions = [], []
    for level in _draw_levels(mix, n, rng):
        operations = draw_task(Level(equations, level.modulus), rng).operations
        lefts = [rng.randrange(level.modulus) for _ in operations]
        numbered = [TaskEquation(a, o, o(a, level.modulus)) for a, o in zip(lefts, operations, strict=True)]
        statements.append(f"Working modulo {level.modulus}.")
        completions.append(" " + ", ".join(map(str, numbered)))
    (equals,) = tokenizer.encode("=", add_special_tokens=False)
    digits = {tokenizer.encode(str(n), add_special_tokens=False)[0] for n in range(10)}
    rows = []
    for prompt, completion in _tokenize(tokenizer, statements, completions):
        ids = prompt + completion
        rows.append(Row(ids, _results(ids, len(prompt), equals, digits)))
    return rows


def _results(ids: list[int], start: int, equals: int, digits: set[int]) -> list[int]:
    """Return the positions from ``start`` on of the digits that follow an equals sign."""
    positions, in_result = [], False
    for i in range(start, len(ids)):
        in_result = ids[i - 1] == equals or (in_result and ids[i] in digits)
        if in_result:
            positions.append(i)
    return positions


def pad_rows(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor]:
    """Pad rows on the right; return ``(input_ids, targets)``. The target at a position is the next token, or IGNORED."""
    width = max(len(row.ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad)
    targets = torch.full((len(rows), width), IGNORED)
    for i, row in enumerate(rows):
        ids, predicted = torch.tensor(row.ids), torch.tensor(row.predicted)
        input_ids[i, : len(row.ids)] = ids
        targets[i, predicted - 1] = ids[predicted]
    return input_ids, targets
