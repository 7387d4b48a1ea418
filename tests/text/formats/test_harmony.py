"""Division of gpt-oss's channels, and of their special tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_tpgrpo.text.formats import Harmony
from lit_tpgrpo.text.spans import decode_with_offsets
from lit_tpgrpo.text.steps import segment_steps

HARMONY = Harmony()
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
CALL = "<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        (f"{ANALYSIS}2+2.{FINAL}4", "2+2.", "4"),
        (f"{ANALYSIS}2+2.{FINAL}4<|return|>", "2+2.", "4"),
        (f"{ANALYSIS}2+2.{FINAL}3{FINAL}4<|end|>", f"2+2.{FINAL}3", "4"),
        (f"{ANALYSIS}2+2.{CALL}<|start|>assistant<|channel|>final<|message|>4", f"2+2.{CALL}", "4"),
        (f"{ANALYSIS}2+2.<|end|>\n<|start|>assistant<|channel|>final <|constrain|>json<|message|>4", "2+2.", "4"),
        ("<|channel|>final<|message|>4", "", "4"),
        (f"2+2.{FINAL}4", "2+2.", "4"),
        (f"{ANALYSIS}2+2.", "2+2.", None),
        (f"{ANALYSIS}2+2.<|end|><|start|>assistant<|channel|>finally<|message|>4", None, None),
        ("", "", None),
    ],
)
def test_parts(text: str, thinking: str | None, answer: str | None):
    division = HARMONY.divide(text)
    assert division.answer_text(text) == answer
    assert division.thinking_text(text) == (text.removeprefix(ANALYSIS) if thinking is None else thinking)


@settings(deadline=None)
@given(
    text=st.lists(st.sampled_from(["a", "\n\n", " ", ANALYSIS, FINAL, CALL, "<|end|>", "final", *HARMONY.tags()])).map(
        "".join
    )
)
def test_the_parts_tile_the_text(text: str):
    division = HARMONY.divide(text)
    ends = [0, *division.thinking, *(division.answer or ()), len(text)]
    assert ends == sorted(ends)
    steps = segment_steps(text, range(len(text)), len(text), division)
    assert "".join(text[s.start : s.end] for s in steps) == text
    assert steps[-1].is_answer == (division.answer is not None)


def test_special_tokens_are_kept_and_aligned():
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(tag, special=True) for tag in HARMONY.tags()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|return|>")
    text = f"{ANALYSIS}One.\n\nYes.{FINAL}4"
    ids = [*fast(text, add_special_tokens=False)["input_ids"]]
    assert decode_with_offsets(fast, ids)[0] == "analysisOne.\n\nYes.assistantfinal4"  # kept are only think tags
    decoded, starts = decode_with_offsets(fast, ids, HARMONY.tags())
    assert decoded == text
    steps = segment_steps(decoded, starts, len(starts), HARMONY.divide(decoded))
    assert [decoded[s.start : s.end] for s in steps] == [f"{ANALYSIS}One.\n\n", "Yes.", f"{FINAL}4"]
    # <|channel|>, 8 letters, <|message|>, "One." and two line breaks; "Yes."; 2 tags, 9 letters, 1 tag, 5 letters, 1 tag, "4"
    assert [s.token_end - s.token_start for s in steps] == [1 + 8 + 1 + 6, 4, 2 + 9 + 1 + 5 + 1 + 1]
