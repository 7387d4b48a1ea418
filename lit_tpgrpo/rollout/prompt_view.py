"""Show the first prompt of a run part by part, and check it against the solution format."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.prompts import RolloutPrompt, filled, prompt_ids
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.formats.prefill import find_prefill

MAX_SHOWN = 400
"""Most characters of a part that are shown."""


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A rendered prompt and where its parts begin, as characters of ``text``.

    What precedes the user's message (from 0) holds the system prompt and the headers of turns; ``generation`` is where the
    model's turn begins, ``len(text)`` without a chat template.
    """

    text: str
    user: int
    generation: int
    ending: int
    """Where the user's message ends: what follows may open a think block."""


def split_prompt(tokenizer: PreTrainedTokenizerBase, problem: Problem, template: RolloutPrompt) -> PromptParts:
    """Render the prompt of a problem and find its parts."""
    text = template.render(tokenizer, problem)
    if not template.is_chat(tokenizer):
        return PromptParts(text, 0, len(text), text.rfind(problem.prompt) + len(problem.prompt))
    turns = template.render(tokenizer, problem, generation_prompt=False)
    message = filled(template.user, problem.prompt).strip()
    user = text.rfind(message)  # templates may strip it
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, turns, strict=False)))
    if user < 0:
        return PromptParts(text, common, common, common)
    ending = user + len(message)
    # A template that always writes the model's header has no other place where the turn could begin.
    return PromptParts(text, user, ending if text == turns else max(ending, common), ending)


def inspect_prompt(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, template: RolloutPrompt, format: SolutionFormat
) -> str:
    """Return the prompt of a problem part by part, and what the format notes about its end, as lines to print.

    Raises:
        ConfigError: prompt, chat template and format contradict each other.
    """
    template.check(tokenizer)
    parts = split_prompt(tokenizer, problem, template)
    if template.system.strip() not in parts.text:
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} leaves out data.system_prompt; write it into data.prompt_template"
        )
    ending = parts.text[parts.ending :]
    note = format.read_prompt(ending)
    prefill = find_prefill(ending, next(iter(format.tags()), ""))
    think = len(parts.text) if prefill is None else parts.ending + prefill.start
    generation = min(parts.generation, think)
    starts = {"system": 0, "user": parts.user, "generation": generation, "think": think}
    ends = [*list(starts.values())[1:], len(parts.text)]
    lines = [
        f"First prompt ({len(prompt_ids(tokenizer, problem, template))} tokens), its parts with their first characters:"
    ]
    lines += [
        f"  {name:<10} {start:>5}  {_shown(parts.text[start:end])}"
        for (name, start), end in zip(starts.items(), ends, strict=True)
        if start < end
    ]
    return "\n".join([*lines, *([note] if note else [])])


class FirstPrompt:
    """Inspect the first prompt of a run, once, and print it if it is to be shown."""

    def __init__(self, template: RolloutPrompt) -> None:
        self._template = template
        self._inspected = False

    def __call__(
        self, tokenizer: PreTrainedTokenizerBase, problem: Problem, format: SolutionFormat, show: bool
    ) -> None:
        """Check the prompt of a problem, see ``inspect_prompt``; nothing after the first call."""
        if not self._inspected:
            self._inspected = True
            lines = inspect_prompt(tokenizer, problem, self._template, format)
            if show:
                tqdm.write(lines)


def _shown(text: str) -> str:
    """Return the text in one line, without its middle if it is long."""
    half = MAX_SHOWN // 2
    if len(text) <= MAX_SHOWN:
        return repr(text)
    return f"{text[:half]!r} … {len(text) - 2 * half} characters … {text[-half:]!r}"
