"""Map sampled token ids to characters and back (paper, Stage I to II: steps are text, advantages are per token).

A policy may sample any token sequence: tokenisations that the tokenizer itself would never produce, tokens that hold
half an emoji, invalid UTF-8, special tokens in the middle. Re-encoding the text therefore gives other tokens than the
sampled ones, so the map must be computed while decoding the sampled ids.

``tokenizers.decoders.DecodeStream`` is not used: in 0.23 it never returns an incomplete character at the end, never
returns a genuine U+FFFD, takes quadratic time for a run of invalid bytes, and does not tell at which token a split
character began.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tokenizers import decoders

from lit_tpgrpo.text.formats.think_tags import THINK, THINK_END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lit_tpgrpo.token_arrays import Offsets

REPLACEMENT = "\ufffd"
# A UTF-8 character has at most four bytes, so it is complete after at most four tokens.
MAX_PENDING_TOKENS = 4


def decode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], keep: Collection[str] = (THINK, THINK_END)
) -> tuple[str, tuple[int, ...]]:
    """Decode sampled ids into ``(text, token_starts)``, leaving out special tokens other than those in ``keep``.

    ``token_starts[t]`` is the index of the character of ``text`` that contains the first byte of token t: a token that
    continues a split character has the index of that character; one without text (special, outside the vocabulary) has that
    of the next character, ``len(text)`` at the end. The indices never decrease. Linear in the number of tokens.

    For byte-level tokenizers (GPT-2, Llama 3, Qwen, DeepSeek) the text equals
    ``tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)`` for any ids, except for the tags in
    ``keep`` (``SolutionFormat.tags``). For other tokenizers, ids are decoded in a sliding window, and the text may differ from
    ``tokenizer.decode`` where its decoder rewrites earlier output (WordPiece clean-up, runs of invalid byte-fallback tokens):
    use the returned text, to which the offsets refer.
    """
    skipped, ids = _special_ids(tokenizer, keep), [int(i) for i in token_ids]
    left_out = [t for t, i in enumerate(ids) if i in skipped] if not skipped.isdisjoint(ids) else []
    kept = [i for i in ids if i not in skipped] if left_out else ids
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and isinstance(backend.decoder, decoders.ByteLevel):
        text, kept_starts = _decode_bytes(_pieces(tokenizer, backend, kept), kept)
    elif backend is not None:
        text, kept_starts = _decode_window(lambda ids: backend.decode(ids, skip_special_tokens=False), kept)
    else:
        text, kept_starts = _decode_window(
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)), kept
        )
    starts: list[int] = []
    k = 0
    for t in left_out:  # each begins where the next kept token does
        k, first = k + t - len(starts), k
        starts += kept_starts[first:k]
        starts.append(kept_starts[k] if k < len(kept_starts) else len(text))
    return text, (*starts, *kept_starts[k:])


def token_spans(step_starts: Sequence[int], token_starts: Offsets) -> tuple[tuple[int, int], ...]:
    """Return the half-open token spans of the steps that begin at the characters ``step_starts`` (ascending, from 0).

    A token belongs to the step that contains its first character, so a token that extends over two steps belongs to the
    earlier one. The spans cover all tokens once and in order; EOS and other tokens at ``len(text)`` belong to the last step.
    A step inside a single token has an empty span.

    Raises:
        ValueError: the first step does not start at 0.

    >>> token_spans([0, 6, 11], [0, 2, 4, 7, 12])  # the token at 4 straddles the first two steps
    ((0, 3), (3, 4), (4, 5))
    """
    if not step_starts or step_starts[0] != 0:
        raise ValueError(f"expected step starts that begin with 0, got {list(step_starts[:3])}")
    cuts = [0, *(bisect_left(token_starts, start) for start in step_starts[1:]), len(token_starts)]
    return tuple(pairwise(cuts))


def _special_ids(tokenizer: PreTrainedTokenizerBase, keep: Collection[str]) -> frozenset[int]:
    special = set(tokenizer.all_special_ids)
    tags = set()
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.content in keep:
            tags.add(index)
        elif token.special:
            special.add(index)
    return frozenset(special - tags)


@cache
def _byte_of_letter() -> dict[str, int]:
    """Return the inverse of GPT-2's alphabet, which represents every byte by one printable letter."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _token_bytes(token: str) -> bytes:
    """Return the bytes of a byte-level token; an added token with letters outside the alphabet is encoded as UTF-8."""
    table = _byte_of_letter()
    try:
        return bytes([table[letter] for letter in token])
    except KeyError:
        return token.encode()


Pieces = Mapping[int, tuple[bytes, str | None]]
"""By id the bytes of a byte-level token, and its text if they are whole characters."""
_PIECES: WeakKeyDictionary[Any, tuple[Any, dict[int, tuple[bytes, str | None]]]] = WeakKeyDictionary()


def _pieces(tokenizer: PreTrainedTokenizerBase, backend: Any, ids: Collection[int]) -> Pieces:
    """Return the pieces of the tokens, cached with the tokenizer: an id's token never changes."""
    known, pieces = _PIECES.get(tokenizer, (None, {}))
    if known is not backend:
        pieces = {}
        _PIECES[tokenizer] = backend, pieces
    missing = set(ids).difference(pieces)
    if not missing:
        return pieces
    named = {i: backend.id_to_token(i) for i in missing}
    pieces.update((i, _piece(token)) for i, token in named.items() if token is not None)
    # An id beyond the vocabulary, which exists because embedding tables are padded, is not cached: a token may be added.
    return dict.fromkeys(missing, (b"", "")) | pieces if None in named.values() else pieces


def _piece(token: str) -> tuple[bytes, str | None]:
    raw = _token_bytes(token)
    try:
        return raw, raw.decode()
    except UnicodeDecodeError:
        return raw, None


def _decode_bytes(pieces: Pieces, ids: list[int]) -> tuple[str, list[int]]:
    """Decode byte-level tokens exactly; with an incremental UTF-8 decoder, token by token, where one splits a character."""
    texts = [text for i in ids if (text := pieces[i][1]) is not None]
    if len(texts) == len(ids):
        return "".join(texts), [*accumulate(map(len, texts), initial=0)][:-1]
    parts: list[str] = []
    starts: list[int] = []
    written = 0
    pending = b""
    for i in ids:
        token, whole = pieces[i]
        if whole is not None and not pending:
            starts.append(written)
            parts.append(whole)
            written += len(whole)
            continue
        # An incomplete character that the first byte does not continue becomes U+FFFD before it.
        ahead = len((pending + token[:1]).decode(errors="replace")) - 1 if pending else 0
        starts.append(written + ahead)
        chars, used = codecs.utf_8_decode(pending + token, "replace", False)
        pending = (pending + token)[used:]
        parts.append(chars)
        written += len(chars)
    parts.append(pending.decode(errors="replace"))
    return "".join(parts), starts


def _decode_window(decode: Callable[[list[int]], str], ids: list[int]) -> tuple[str, list[int]]:
    """Decode the tokens of any tokenizer incrementally, each after the tokens decoded just before it.

    With this context, decoders that strip or join at the start of a text produce the same as inside it. Text that ends in
    U+FFFD may be an incomplete character, so it is kept pending for a bounded number of tokens.
    """
    parts: list[str] = []
    starts: list[int] = []
    written = 0  # characters in parts
    stable = 0  # complete characters of the pending text: the next token's first byte comes after them
    context_from = read = 0  # ids[context_from:read] is the context, ids[read:t] is pending
    context = fresh = ""
    for t in range(len(ids)):
        starts.append(written + stable)
        window = decode(ids[context_from : t + 1])
        if not window.startswith(context):  # the decoder rewrote earlier output: start a new window
            context_from, context = read, ""
            window = decode(ids[read : t + 1])
        fresh = window[len(context) :]
        incomplete = not fresh or fresh.endswith(REPLACEMENT)
        if incomplete and t + 1 - read < MAX_PENDING_TOKENS:
            stable = max(stable, len(fresh.rstrip(REPLACEMENT)))
            continue
        parts.append(fresh)
        written += len(fresh)
        starts[read:] = [min(start, written) for start in starts[read:]]
        context_from, read, stable = read, t + 1, 0
        context, fresh = decode(ids[context_from:read]), ""
    parts.append(fresh)
    return "".join(parts), [min(start, written + len(fresh)) for start in starts]
