"""Problems to solutions with outcomes: sampling, decoding with exact offsets, verification."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import shown
from lit_tpgrpo.engines.base import Completion, Engine, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, Problem, Solution, StopReason
from lit_tpgrpo.rollout.prompts import RolloutPrompt, prompt_ids
from lit_tpgrpo.text.formats.base import Division, SolutionFormat
from lit_tpgrpo.text.spans import decode_with_offsets
from lit_tpgrpo.token_arrays import TokenInts, token_ints
from lit_tpgrpo.verify.base import Verifier

T = TypeVar("T")


def bar(items: Iterable[T], desc: str, total: int, show: bool, unit: str = "problem") -> Iterable[T]:
    """Show a progress bar that disappears when its stage is done."""
    return tqdm(items, desc=desc, total=total, unit=unit, leave=False, disable=not show, dynamic_ncols=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter."""
    stream = iter(items)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def sample_groups(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    n: int,
    params: SamplingParams,
    *,
    template: RolloutPrompt,
    format: SolutionFormat,
    policy_version: int,
) -> Iterator[tuple[int, tuple[Solution, ...]]]:
    """Yield ``(index of the problem, its n solutions)`` as the engine finishes them; ``seeds`` has one for each problem."""
    prompts = [prompt_ids(tokenizer, problem, template) for problem in problems]
    for i, completions in engine.sample(prompts, n, params, seeds):
        prompt = token_ints(prompts[i], "prompt")  # one array for the whole group
        yield (
            i,
            tuple(
                _solution(tokenizer, format, problems[i], prompt, sample, completion, policy_version)
                for sample, completion in enumerate(completions)
            ),
        )


def _solution(
    tokenizer: PreTrainedTokenizerBase,
    format: SolutionFormat,
    problem: Problem,
    prompt: TokenInts,
    sample: int,
    completion: Completion,
    policy_version: int,
) -> Solution:
    text, starts = decode_with_offsets(tokenizer, completion.token_ids.tolist(), format.tags())
    return Solution(
        problem_uid=problem.uid,
        sample=sample,
        prompt_ids=prompt,
        completion_ids=completion.token_ids,
        logprobs=completion.logprobs,
        stop=completion.stop,
        policy_version=policy_version,
        text=text,
        token_starts=token_ints(starts, "token_starts"),
    )


def divide_solution(format: SolutionFormat, solution: Solution, stop: Sequence[str] = ()) -> Division:
    """Divide a solution's text. A stop string that ended it belongs to no part: it may begin a paragraph or a line.

    Args:
        format: of the run.
        solution: its text keeps the stop string.
        stop: the stop strings that it was sampled with.
    """
    text = solution.text
    if solution.stop is not StopReason.STOP_STRING:
        return format.divide(text)
    end = min((at for string in stop if (at := text.find(string)) >= 0), default=len(text))
    division = format.divide(text[:end])
    return division if division.answer is not None else Division((division.thinking[0], len(text)), None)


def verify_solutions(
    verifier: Verifier, pairs: Sequence[tuple[Problem, Solution]], divisions: Sequence[Division]
) -> list[tuple[Outcome, str | None]]:
    """Return outcome and extracted answer of each solution, in order; a solution without an answer is INCORRECT.

    The verifier receives answer blocks only; a solution without one has no answer.

    Args:
        verifier: extracts answers and compares them with golds.
        pairs: problems and solutions.
        divisions: where each solution's answer block lies, see ``divide_solution``.

    Raises:
        ConfigError: the verifier returned another number of outcomes, or something else than outcomes and answers.
    """
    blocks = [division.answer_text(s.text) for (_, s), division in zip(pairs, divisions, strict=True)]
    answers = [None if block is None else verifier.extract(block) for block in blocks]
    for answer in answers:
        if answer is not None and not isinstance(answer, str):
            raise ConfigError(f"{type(verifier).__name__}.extract must return a text or None, got {shown(answer)}")
    outcomes = list(verifier.verify_all([(p.answer, a) for (p, _), a in zip(pairs, answers, strict=True)]))
    wrong = next((o for o in outcomes if not isinstance(o, Outcome)), None)
    if wrong is not None or len(outcomes) != len(answers):
        got = f"{len(outcomes)} outcomes" if wrong is None else shown(wrong)
        raise ConfigError(
            f"{type(verifier).__name__}.verify_all must return one lit_tpgrpo.records.Outcome for each of the {len(answers)} "
            f"pairs, got {got}"
        )
    return list(zip(outcomes, answers, strict=True))
