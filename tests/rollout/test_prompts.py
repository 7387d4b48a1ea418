"""Prompts in the chat template, and those that are too long."""

from __future__ import annotations

import logging

import pytest
from transformers import AutoTokenizer

from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.prompts import RolloutPrompt, filter_long_prompts, prompt_ids

SHORT = Problem("s", "1+1?", "2")
LONG = Problem("l", "very " * 200, "2")


@pytest.fixture(scope="module")
def tokenizer(random_model: str):
    return AutoTokenizer.from_pretrained(random_model)


def test_the_template_opens_the_think_block(tokenizer):
    text = tokenizer.decode(prompt_ids(tokenizer, SHORT))
    assert text == (
        "<|user|>1+1?\nPlease reason step by step, and put your final answer within \\boxed{}.<|assistant|><think>\n"
    )


def test_without_a_chat_template_the_text_is_the_prompt(random_model):
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    tokenizer.chat_template = None
    assert tokenizer.decode(prompt_ids(tokenizer, SHORT, RolloutPrompt("Q: {problem}\nA:"))) == "Q: 1+1?\nA:"


def test_rows_that_are_no_problems_are_named(tokenizer):
    with pytest.raises(
        InputError, match=r"return lit_tpgrpo\.records\.Problem objects, got dict: {'problem': '1\+1'}; Mem"
    ):
        filter_long_prompts([{"problem": "1+1"}], tokenizer, RolloutPrompt(), 100, "skip")


def test_long_prompts_are_skipped_with_a_count_or_refused(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        fitting, skipped = filter_long_prompts([SHORT, LONG], tokenizer, RolloutPrompt(), 100, "skip")
    assert (fitting, skipped) == ([SHORT], 1)
    assert "1 of 2 prompts are over 100 tokens and are skipped" in caplog.text
    with pytest.raises(InputError, match=r"prompt of problem 'l' has \d+ tokens, over max_prompt_tokens 100"):
        filter_long_prompts([SHORT, LONG], tokenizer, RolloutPrompt(), 100, "stop")
    with pytest.raises(InputError, match="all 1 prompts are over"):
        filter_long_prompts([LONG], tokenizer, RolloutPrompt(), 100, "skip")


@pytest.mark.parametrize(
    "template",
    [
        "no place for it",
        "{problem} in \\boxed{}",
        "{question}",
        "{problem} {problem:>999999999}",
        "{problem} {problem.__class__}",
        "{problem} {problem[0]!r}",
        "{problem} {problem:{problem}}",
        "{problem} {",
    ],
)
def test_a_template_that_cannot_be_filled_is_named(tokenizer, template):
    with pytest.raises(ConfigError, match=r"prompt_template must hold \{problem\}"):
        filter_long_prompts([SHORT], tokenizer, RolloutPrompt(template), 100, "skip")


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
        "{{ messages.append(messages) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].content",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ],
)
def test_a_chat_template_runs_in_a_sandbox(random_model, tmp_path, monkeypatch, template: str):
    """transformers' own; what it forbids ends in one line."""
    monkeypatch.chdir(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=r"the chat template of the tokenizer .* cannot be filled in"):
        prompt_ids(tokenizer, SHORT)
    assert list(tmp_path.iterdir()) == []


def test_braces_in_a_problem_are_left_alone(tokenizer):
    problem = Problem("b", r"What is \frac{1}{2} of {x}?", "x/2")
    assert r"\frac{1}{2} of {x}?" in tokenizer.decode(prompt_ids(tokenizer, problem, RolloutPrompt("{problem}")))
