"""A small byte-level BPE tokenizer like Qwen2's, with a chat template like DeepSeek-R1-Distill's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, Qwen2Tokenizer

from lit_tpgrpo.datamodules.arithmetic.chains import NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.phrases import THINK_END
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, TINY_LEVELS, draw_task

EOS, PAD, USER, ASSISTANT = "<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>"
THINK_TAGS = ("<think>", THINK_END)
NAMED_TOKENS = (EOS, PAD, USER, ASSISTANT, *THINK_TAGS)

# Fixed, so that a change of the writer's default rates does not change the packaged vocabulary.
_CORPUS_NOISE = NoiseRates(
    error=0.12,
    error_multiply=0.12,
    notice_now=0.3,
    notice_late=0.25,
    botched=0.08,
    false_alarm=0.01,
    check=0.07,
    filler=0.03,
    variety=1.0,
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
    """Return problems and chains of every level in equal parts, from which merges are learnt."""
    rng = random.Random(f"corpus/{seed}")
    texts = []
    for i in range(n):
        task = draw_task(LEVELS[TINY_LEVELS[i % len(TINY_LEVELS)]], rng)
        # The tag is an added token: no merge should be spent on its letters.
        texts += [task.prompt, *write_chain(task, _CORPUS_NOISE, rng).text.split(THINK_END)]
    return texts


def build_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> Qwen2Tokenizer:
    """Learn a vocabulary of at most ``vocab_size`` tokens (the 256 bytes and the added tokens included).

    It must be a ``Qwen2Tokenizer``: ``AutoTokenizer`` uses that class for every Qwen2 model, whatever the folder says, with
    Qwen2's pre-tokenizer (each digit is a token) and NFC normalisation.
    """
    blank = Qwen2Tokenizer()._tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(NAMED_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],  # pyright: ignore[reportArgumentType]
        eos_token=EOS,
        pad_token=PAD,
        unk_token=None,  # pyright: ignore[reportArgumentType]
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    # Not special: decoding with skip_special_tokens must keep the tags, which judge and verifier need.
    tokenizer.add_tokens(added_tokens(THINK_TAGS))
    return tokenizer


def added_tokens(texts: Iterable[str]) -> list[str | AddedToken]:
    """Return tokens that are matched before the text is cut otherwise, the longest first; none is special."""
    return [AddedToken(text, special=False, normalized=False) for text in texts]


def equation_tokens(numbers: int) -> list[str | AddedToken]:
    """Return tokens for ``6+9`` and ``=3``: an equation has one of each. Left numbers and results are below ``numbers``."""
    operands = [(symbol, n) for symbol in "+-*" for n in range(2 if symbol == "*" else 1, 10)]
    terms = [f"{left}{symbol}{n}" for left in range(numbers) for symbol, n in operands]
    return added_tokens((*terms, *(f"={n}" for n in range(numbers))))
