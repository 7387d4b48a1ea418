"""A small byte-level BPE tokenizer in the style of Qwen2 and a chat template in that of DeepSeek-R1-Distill."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_tpgrpo.datamodules.arithmetic.chains import Noise, write_chain
from lit_tpgrpo.datamodules.arithmetic.phrases import THINK_END
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, draw_task

EOS, PAD, USER, ASSISTANT = "<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>"
THINK_TAGS = ("<think>", THINK_END)

# Qwen2's pattern with one change: a number of up to two digits is one piece and takes the space before it, so that an
# operand or a residue is a single token and an equation five of them.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# As in DeepSeek-R1-Distill: the generation prompt opens the think block, and the thinking of earlier turns is dropped.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% else %}{{ '<|assistant|>' + message['content'].split('</think>')[-1] + '<|endoftext|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)


def corpus(n: int, seed: int) -> list[str]:
    """Problems and chains of every level in equal parts, to learn merges from."""
    rng = random.Random(f"corpus/{seed}")
    texts = []
    for i in range(n):
        task = draw_task(list(LEVELS.values())[i % len(LEVELS)], rng)
        # The tag is a token of its own: no merge may be spent on its letters.
        texts += [task.prompt, *write_chain(task, Noise(), rng).text.split(THINK_END)]
    return texts


def build_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of at most ``vocab_size`` (the 256 bytes and the added tokens included)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 4 - len(THINK_TAGS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (EOS, PAD, USER, ASSISTANT)])
    # Not special: decoding with skip_special_tokens must keep the tags, the judge and the verifier read them.
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK_TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
