"""Measure what a round costs besides its engine and its judge's model: python -m benchmarks.round_overhead

    python -m benchmarks.round_overhead                                        # 64 solutions of 8,000 tokens, groups of 8
    python -m benchmarks.round_overhead --solutions 2000 --schedules serial    # the paper's round: 16 million tokens
    python -m benchmarks.round_overhead --tokenizer FOLDER                     # with the tokenizer of your model

Engine and judge give recorded answers at once: token ids with log-probs, and one label for each step. All else is a round's:
decoding with offsets, the store on disk, segmentation, verification with its worker processes, verdicts, credit, metrics, and
the tensors of the optimizer steps. Printed are the seconds of each stage for a million tokens: medians over the repeats, each
with its lowest and highest, of the serial schedule and the streamed one in alternation. "other" is the whole less the stages:
the engine's copies, threads, the loop; where stages overlap it is what they overlap by, negative. Then the most memory that the
process held in a round above what it held before, without its worker processes. Solutions are made up: calculations in
paragraphs, one reflection in four; further ones than ``--distinct`` repeat them, but no two share an array. Disks are not
measured: the files lie in the page cache. Last line: seconds for a million tokens of the first schedule.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.memory import resident_bytes, restart_peak
from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules.schedules import SCHEDULES, ScheduleName
from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Outcome, Problem, StepLabel, StopReason, Verdict
from lit_tpgrpo.rollout import rounds, sampling, verifying
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.rollout.training_sequences import training_sequence
from lit_tpgrpo.verify.verifier import MathVerifier

STAGES = ("decoding", "storing", "verifying", "segmenting", "storing verdicts", "credit and metrics", "tensors")


def made_text(rng: random.Random, answer: int) -> Iterator[str]:
    """Yield the paragraphs of an endless chain, and never its answer block."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        yield f"The next part is {a} + {b} = {a + b}, which is needed for {answer}.\n\n"
        if rng.random() < 0.25:
            yield f"Wait, let me check {a} + {b} again. It is {a + b}, so this holds.\n\n"


class Recorded:
    """An engine that has its answers already: G completions a problem, half of them right."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, count: int, tokens: int) -> None:
        rng, numbers = random.Random(0), np.random.default_rng(0)
        self.completions = []
        for sample in range(count):
            block = f"</think>\n\nThe answer is \\boxed{{{1 + sample % 2}}}."
            end = tokenizer(block, add_special_tokens=False)["input_ids"]
            ids: list[int] = []
            paragraphs = made_text(rng, sample)
            while len(ids) < tokens:
                ids += tokenizer(next(paragraphs), add_special_tokens=False)["input_ids"]
            whole = np.array([*ids[: tokens - len(end)], *end], np.int32)
            likely = numbers.random(tokens) < 0.5
            logprobs = (-numbers.exponential(np.where(likely, 0.003, 0.8))).astype(np.float32)
            self.completions.append(Completion(whole, logprobs, StopReason.EOS))

    def sample(self, prompts, n: int, params, seeds) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        for i in range(len(prompts)):
            yield i, tuple(self.completion(i * n + k) for k in range(n))

    def completion(self, index: int) -> Completion:
        """Return a completion that shares no memory with another: a real engine's do not either."""
        recorded = self.completions[index % len(self.completions)]
        return Completion(recorded.token_ids.copy(), recorded.logprobs.copy(), recorded.stop)

    def load_weights(self, policy) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class AtOnce:
    """A judge that labels every eighth step wrong, without reading it."""

    name = "at_once"

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        return self.judge_arriving(cases)

    def judge_arriving(self, cases) -> Iterator[tuple[int, Verdict]]:
        for index, case in enumerate(cases):
            right = case.outcome is Outcome.CORRECT
            labels = (StepLabel.CORRECT, StepLabel.INCORRECT) if right else (StepLabel.UNMATCHED, StepLabel.MATCHED)
            given = [labels[i % 8 == 3] for i in range(len(case.steps) - 1)]
            yield index, Verdict(case.steps, (*given, StepLabel.CORRECT if right else StepLabel.MATCHED))

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


class StageClock:
    """Seconds by stage, of functions that it replaces while it is entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._patches = ExitStack()

    def __enter__(self) -> StageClock:
        places: list[tuple[object, str, str]] = [
            (sampling, "decode_with_offsets", "decoding"),
            (RoundFile, "add_solutions", "storing"),
            (verifying, "verify_solutions", "verifying"),
            (verifying, "segment_steps", "segmenting"),
            (RoundFile, "add_verdict", "storing verdicts"),
            (rounds.RoundMaker, "credit_share", "credit and metrics"),
        ]
        for owner, name, stage in places:
            self._patches.enter_context(patch.object(owner, name, self.timed(getattr(owner, name), stage)))
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[stage] += time.perf_counter() - started

        return run


def one_round(schedule: ScheduleName, args: argparse.Namespace, engine: Recorded, tokenizer: Any) -> dict[str, float]:
    """Make one round; return seconds by stage, ``other`` and ``whole``, and ``peak`` bytes."""
    maker = SCHEDULES[schedule].maker(
        engine=engine,
        verifier=MathVerifier(),
        judge=AtOnce(),
        credit=ThoughtCredit(),
        keep=keep_all,
        tokenizer=tokenizer,
        sampling=SamplingParams(args.tokens),
        group_size=args.group_size,
        template=RolloutPrompt("{problem}"),
        show_progress=False,
    )
    problems = [Problem(f"p/{g}", f"What is {g} + 1?", "1") for g in range(args.solutions // args.group_size)]
    assignments = [Assignment(g, problem, g) for g, problem in enumerate(problems)]
    held = restart_peak()
    with tempfile.TemporaryDirectory() as folder, StageClock() as clock:
        file = RoundStore(Path(folder)).open(0, {})
        started = time.perf_counter()
        made, _ = maker.make(0, assignments, file, GroupAccuracy(), policy_version=0)
        sequences = clock.timed(lambda: [training_sequence(s) for s in made.kept], "tensors")()
        whole = time.perf_counter() - started
        assert len(sequences) == args.solutions
    maker.verifier.close()
    other = whole - sum(clock.seconds.values())
    return clock.seconds | {"other": other, "whole": whole, "peak": float(resident_bytes("VmHWM") - held)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="embedded:tiny-qwen2", help="folder or hub name")
    parser.add_argument("--solutions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8000, help="of each solution")
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--distinct", type=int, default=64, help="most different solutions; further ones repeat them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--schedules", nargs="+", default=["serial", "streamed"], choices=get_args(ScheduleName))
    add_out(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = opening("What a round costs besides engine and judge", "round_overhead", arguments, args, threads=1)
    tokenizer = load_tokenizer(args.tokenizer)
    engine = Recorded(tokenizer, min(args.distinct, args.solutions), args.tokens)
    found: dict[ScheduleName, list[dict[str, float]]] = {schedule: [] for schedule in args.schedules}
    for repeat in range(args.repeats + 1):
        for schedule in args.schedules:
            seconds = one_round(schedule, args, engine, tokenizer)
            if repeat:  # the first round of each warms up
                found[schedule].append(seconds)
    characters = sum(len(tokenizer.decode(c.token_ids)) for c in engine.completions) / len(engine.completions)
    lines.append(f"- {characters / args.tokens:.2f} characters a token; seconds for a million tokens")
    publish([*lines, *report(found, args.solutions * args.tokens)], args.out)


def report(found: dict[ScheduleName, list[dict[str, float]]], tokens: int) -> list[str]:
    """Return the table of stages, whose seconds add up to the whole in each round, and the line of the overhead."""
    millions = tokens / 1e6
    rows = [
        (stage, *(spread([run[stage] / millions for run in runs]) for runs in found.values()))
        for stage in (*STAGES, "other", "whole")
    ]
    rows.append(
        ("peak, bytes a token", *(spread([run["peak"] / tokens for run in runs], 1) for runs in found.values()))
    )
    first = [run["whole"] / millions for run in next(iter(found.values()))]
    return [
        *table(("stage", *found), rows),
        "",
        f"overhead per million tokens: {statistics.median(first):.2f} s",
    ]


if __name__ == "__main__":
    main()
