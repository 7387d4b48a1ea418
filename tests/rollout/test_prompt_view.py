"""Prompts of several model families: parts, system prompts, variables of the template, and think blocks that prompts begin.

The templates are cut down to what they do for a system and a user turn.
"""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.prompt_view import inspect_prompt, split_prompt
from lit_tpgrpo.rollout.prompts import RolloutPrompt, prompt_ids
from lit_tpgrpo.text.formats import Harmony, PlainChain, SolutionFormat, ThinkTags

R1 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% else %}<|User|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are SmolLM<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAGISTRAL = (
    "{% for m in messages %}[INST]{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}[THINK]{% endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}<|end|>"
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>user\n{{ messages[0].content }}<end_of_turn>\n<start_of_turn>model\n\n"
)
NO_SYSTEM = "{{ messages[-1].content }}\n{% if add_generation_prompt %}>{% endif %}"
PROBLEM = Problem("p", " 1+1? ", "2")
PLAIN = RolloutPrompt("{problem}")


@pytest.fixture
def tokenizer(random_model: str):
    return AutoTokenizer.from_pretrained(random_model)


def inspect(tokenizer, written: str | None, format: SolutionFormat, template: RolloutPrompt = PLAIN) -> list[str]:
    tokenizer.chat_template = written
    return inspect_prompt(tokenizer, PROBLEM, template, format).split("\n")[1:]


def test_parts_of_r1(tokenizer):
    template = RolloutPrompt("{problem}", "Be brief.")
    assert inspect(tokenizer, R1, ThinkTags(), template) == [
        "  system         0  'Be brief.<|User|> '",
        "  user          18  '1+1? '",
        "  generation    23  '<|Assistant|>'",
        "  think         36  '<think>\\n'",
        "The prompt opens a think block (<think>): solutions begin inside it.",
    ]


def test_a_default_system_prompt_is_shown(tokenizer):
    assert inspect(tokenizer, SMOLLM2, PlainChain()) == [
        "  system         0  '<|im_start|>system\\nYou are SmolLM<|im_end|>\\n<|im_start|>user\\n '",
        "  user          62  '1+1? <|im_end|>\\n'",
        "  generation    78  '<|im_start|>assistant\\n'",
    ]
    assert inspect(tokenizer, SMOLLM2, PlainChain(), RolloutPrompt("{problem}", "Add."))[0] == (
        "  system         0  '<|im_start|>system\\nAdd.<|im_end|>\\n<|im_start|>user\\n '"
    )


def test_long_parts_lose_their_middle(tokenizer):
    tokenizer.chat_template = None
    problem = Problem("p", "x" * 1000, "2")
    _, line = inspect_prompt(tokenizer, problem, PLAIN, ThinkTags()).split("\n")
    assert line == f"  user           0  '{'x' * 200}' … 600 characters … '{'x' * 200}'"


def test_a_template_that_always_writes_the_models_header(tokenizer):
    tokenizer.chat_template = GEMMA
    parts = split_prompt(tokenizer, PROBLEM, PLAIN)
    assert parts.text[parts.generation :] == " <end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(
    ("written", "format", "variables", "note"),
    [
        (QWEN3, ThinkTags(), {}, None),
        (QWEN3, ThinkTags(), {"enable_thinking": True}, None),
        (
            QWEN3,
            PlainChain(),
            {"enable_thinking": False},
            "opens and closes an empty think block (<think>): solutions begin after it",
        ),
        (R1, PlainChain(), {}, "opens a think block (<think>), and PlainChain looks for no tag"),
        (MAGISTRAL, ThinkTags("[THINK]", "[/THINK]"), {}, "opens a think block ([THINK]): solutions begin inside it"),
        (GPT_OSS, Harmony(), {"reasoning_effort": "low"}, None),
        (f"{GPT_OSS}<|channel|>analysis<|message|>", Harmony(), {}, "begins the channel analysis"),
        (None, Harmony(), {}, None),
    ],
)
def test_a_think_block_that_the_prompt_begins_is_said(tokenizer, written, format, variables, note):
    *_, last = inspect(tokenizer, written, format, RolloutPrompt("{problem}", "", variables))
    if note is None:
        assert last.startswith("  ")
    else:
        assert last.startswith("The prompt ")
        assert note in last


@pytest.mark.parametrize(
    ("written", "format", "variables", "said"),
    [
        (
            QWEN3,
            ThinkTags(),
            {"enable_thinking": False},
            r"the prompt opens and closes an empty think block \(<think>\), so they will",
        ),
        (
            MAGISTRAL,
            ThinkTags(),
            {},
            r"the prompt opens a think block \(\[THINK\]\); set data.format to lit_tpgrpo.ThinkTags with",
        ),
        (GPT_OSS, ThinkTags(), {}, "is one of gpt-oss; set data.format to lit_tpgrpo.Harmony"),
        (R1, Harmony(), {}, r"does not end with <\|start\|>assistant"),
        (f"{GPT_OSS}<|channel|>final<|message|>", Harmony(), {}, "the prompt begins it"),
        (R1, ThinkTags(), {"enable_thinking": False}, "does not use 'enable_thinking'"),
        (R1, ThinkTags(), {"messages": []}, "does not use 'messages'"),
        (None, ThinkTags(), {"enable_thinking": False}, "has no chat template for data.system_prompt and"),
    ],
)
def test_what_contradicts_the_format_is_one_line(tokenizer, written, format, variables, said):
    with pytest.raises(ConfigError, match=said):
        inspect(tokenizer, written, format, RolloutPrompt("{problem}", "", variables))


def test_a_system_prompt_that_gets_lost_is_named(tokenizer):
    template = RolloutPrompt("{problem}", "Be brief.")
    with pytest.raises(ConfigError, match=r"leaves out data\.system_prompt"):
        inspect(tokenizer, NO_SYSTEM, ThinkTags(), template)
    with pytest.raises(ConfigError, match="System role not supported; check it, try without system prompt"):
        inspect(tokenizer, GEMMA, ThinkTags(), template)


def test_a_base_models_prompt_may_open_the_think_block(tokenizer):
    template = RolloutPrompt("Reason between <think> and </think>. User: {problem} Assistant: <think>")
    assert inspect(tokenizer, None, ThinkTags(), template)[-1].startswith("The prompt opens a think block (<think>)")


def test_what_is_shown_is_what_is_sampled_from(tokenizer):
    tokenizer.chat_template = QWEN3
    template = RolloutPrompt("{problem}", "Be brief.", {"enable_thinking": False})
    ids = prompt_ids(tokenizer, PROBLEM, template)
    assert tokenizer.decode(ids) == template.render(tokenizer, PROBLEM)
    assert template.render(tokenizer, PROBLEM).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert template.settings == {
        "prompt_template": "{problem}",
        "system_prompt": "Be brief.",
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_a_chat_template_that_is_not_applied_leaves_the_text_alone(tokenizer):
    template = RolloutPrompt("Problem: {problem}\nSolution:", apply_chat_template=False)
    lines = inspect(tokenizer, QWEN3, ThinkTags(), template)
    text = f"Problem: {PROBLEM.prompt}\nSolution:"
    assert prompt_ids(tokenizer, PROBLEM, template) == tuple(tokenizer(text)["input_ids"])
    assert lines == [f"  user           0  {text!r}"]
    assert template.settings["apply_chat_template"] is False
    assert (
        "apply_chat_template" not in RolloutPrompt().settings
    )  # rounds that were stored before are still of these settings


@pytest.mark.parametrize("given", [{"system": "Be brief."}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_what_only_a_chat_template_can_use_is_refused_without_it(tokenizer, given):
    template = RolloutPrompt("{problem}", apply_chat_template=False, **given)
    with pytest.raises(ConfigError, match=r"apply_chat_template false leaves no place for data\.system_prompt"):
        inspect(tokenizer, QWEN3, ThinkTags(), template)
