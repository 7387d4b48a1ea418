import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_tpgrpo.text.spans import decode_with_offsets, token_spans

CORPUS = ["Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.\n\nNext, don't stop! 😀 é 你好"] * 20
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level():
    """GPT-2, Llama 3, Qwen, DeepSeek; with added tokens that are special, not special, and outside the alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<|eos|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=True), "<｜User｜>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|eos|>", additional_special_tokens=["</think>"]
    )


def word_piece():
    """BERT: a decoder that joins pieces and cleans up spaces behind itself."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[SEP]"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")


def byte_fallback():
    """Llama 2, Mistral: SentencePiece BPE with byte tokens, and a decoder that strips the first space."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=360, special_tokens=["<unk>", "</s>", *BYTE_TOKENS])
    )
    # The trainer can make byte tokens only as special ones; a real tokenizer has them as ordinary entries.
    rebuilt = Tokenizer(models.BPE(tokenizer.get_vocab(), [], byte_fallback=True, unk_token="<unk>"))
    rebuilt.decoder = tokenizer.decoder
    rebuilt.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=rebuilt, unk_token="<unk>", eos_token="</s>")


def unigram():
    """T5, XLNet: SentencePiece unigram with Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {make.__name__: make() for make in (byte_level, word_piece, byte_fallback, unigram)}
BYTES = TOKENIZERS["byte_level"]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
IDS = st.lists(st.integers(0, 10**6), max_size=60)


class SlowTokenizer:
    """A tokenizer without the Rust backend: only what the generic route may use."""

    def __init__(self, fast):
        self.fast, self.all_special_ids, self.added_tokens_decoder = fast, fast.all_special_ids, {}

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        return self.fast.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def token(text):
    """The id of the byte-level token that is exactly these bytes."""
    raw = text if isinstance(text, bytes) else text.encode()
    single = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if isinstance(text, str):
        return BYTES.convert_tokens_to_ids(single.pre_tokenize_str(text)[0][0])
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    (byte,) = raw
    return BYTES.convert_tokens_to_ids(chr(byte if byte in printable else 256 + hidden.index(byte)))


def check_map(text, starts, n):
    assert len(starts) == n
    assert list(starts) == sorted(starts)
    assert all(0 <= start <= len(text) for start in starts)
    assert not text or starts[0] == 0


@every_tokenizer
@settings(deadline=None)
@given(ids=IDS)
def test_any_ids_give_an_ordered_map(tokenizer, ids):
    ids = [i % (len(tokenizer) + 3) for i in ids]
    check_map(*decode_with_offsets(tokenizer, ids), len(ids))


@every_tokenizer
@settings(deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_gives_an_ordered_map(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    decoded, starts = decode_with_offsets(tokenizer, ids)
    check_map(decoded, starts, len(ids))
    if tokenizer is BYTES:
        assert decoded == text


@every_tokenizer
@settings(deadline=None)
@given(ids=IDS, cuts=st.lists(st.integers(0, 200)))
def test_spans_cover_every_token_once_in_order(tokenizer, ids, cuts):
    ids = [i % len(tokenizer) for i in ids]
    text, starts = decode_with_offsets(tokenizer, ids)
    spans = token_spans([0, *sorted(c for c in cuts if c <= len(text))], starts)
    assert [t for a, b in spans for t in range(a, b)] == list(range(len(ids)))


@settings(deadline=None)
@given(ids=IDS)
def test_byte_level_text_is_what_the_tokenizer_decodes(ids):
    ids = [i % (len(BYTES) + 3) for i in ids]
    text, _ = decode_with_offsets(BYTES, ids)
    # The one difference: this tokenizer calls </think> special, and we keep it.
    closing = BYTES.convert_tokens_to_ids("</think>")
    assert closing in BYTES.all_special_ids
    shown = [i for i in ids if i == closing or i not in BYTES.all_special_ids]
    assert text == BYTES.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@settings(deadline=None)
@given(raw=st.lists(st.binary(min_size=1, max_size=1), max_size=40))
def test_byte_level_starts_point_at_the_character_of_the_first_byte(raw):
    text, starts = decode_with_offsets(BYTES, [token(byte) for byte in raw])
    joined = b"".join(raw)
    assert text == joined.decode(errors="replace")
    for position, start in enumerate(starts):
        # The character that byte `position` goes into is the last one written by the bytes up to and including it.
        assert start == len(joined[: position + 1].decode(errors="replace")) - 1


@pytest.mark.parametrize("name", ["byte_fallback", "unigram"])
@settings(deadline=None)
@given(text=st.text("Wait, 8*2=4 isn't right.é你😀 ", max_size=60))
def test_sentencepiece_text_is_what_the_tokenizer_decodes(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    expected = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert decode_with_offsets(tokenizer, ids)[0] == expected


@settings(deadline=None)
@given(ids=IDS)
def test_the_generic_route_without_backend_agrees_with_the_one_with_it(ids):
    fast = TOKENIZERS["byte_fallback"]
    ids = [i % len(fast) for i in ids]
    assert decode_with_offsets(SlowTokenizer(fast), ids) == decode_with_offsets(fast, ids)


def test_a_decoder_that_rewrites_what_is_out_is_not_followed_back():
    class Rewriting:
        all_special_ids, added_tokens_decoder = (), {}

        def decode(self, ids, **_):
            return "".join(map(chr, ids)).replace("ab", "C")

    assert decode_with_offsets(Rewriting(), [ord(c) for c in "xaby"]) == ("xaby", (0, 1, 2, 3))


def test_emoji_split_over_four_tokens():
    ids = [token("a"), *(token(bytes([b])) for b in "😀".encode()), token("b")]
    assert decode_with_offsets(BYTES, ids) == ("a😀b", (0, 1, 1, 1, 1, 2))


def test_emoji_split_by_byte_fallback_behind_a_word():
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = tokenizer.convert_tokens_to_ids(["a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "b"])
    assert decode_with_offsets(tokenizer, ids) == ("a😀b", (0, 1, 1, 1, 1, 2))


def test_broken_characters_are_replaced_and_the_next_token_starts_after_them():
    first, second, *_ = (token(bytes([b])) for b in "😀".encode())
    assert decode_with_offsets(BYTES, [first, second, token("b")]) == ("�b", (0, 0, 1))
    assert decode_with_offsets(BYTES, [token(b"\xff"), token(b"\xff"), token("b")]) == ("��b", (0, 1, 2))


def test_half_a_surrogate_which_python_holds_back_is_two_broken_characters():
    ids = [token(b"\xed"), token(b"\xa0"), len(BYTES) + 7, token("b")]
    assert decode_with_offsets(BYTES, ids) == ("��b", (0, 1, 1, 2))


def test_an_incomplete_character_at_the_end_is_written():
    assert decode_with_offsets(BYTES, [token("a"), token(b"\xf0"), token(b"\x9f")]) == ("a�", (0, 1, 1))
    fallback = TOKENIZERS["byte_fallback"]
    text, starts = decode_with_offsets(fallback, fallback.convert_tokens_to_ids(["a", "<0xF0>", "<0x9F>"]))
    assert (text, starts) == ("a��", (0, 1, 1))


def test_characters_that_are_replacement_characters_do_not_wait():
    ids = [*(token(bytes([b])) for b in "�".encode()), token("b")]
    assert decode_with_offsets(BYTES, ids) == ("�b", (0, 0, 0, 1))


def test_special_and_unknown_tokens_point_at_the_next_character():
    eos = BYTES.eos_token_id
    ids = [eos, token("a"), eos, len(BYTES) + 7, token("b"), eos]
    assert decode_with_offsets(BYTES, ids) == ("ab", (0, 0, 1, 1, 1, 2))


def test_think_tags_stay_even_where_the_tokenizer_calls_them_special():
    opening, closing = BYTES.convert_tokens_to_ids(["<think>", "</think>"])
    assert decode_with_offsets(BYTES, [opening, token("a"), closing]) == ("<think>a</think>", (0, 7, 8))


def test_added_tokens_outside_the_byte_alphabet_stand_for_themselves():
    user = BYTES.convert_tokens_to_ids("<｜User｜>")
    assert decode_with_offsets(BYTES, [token("a"), user, token("b")]) == ("a<｜User｜>b", (0, 1, 9))


def test_tokens_of_several_characters_and_crlf():
    ids = BYTES("8 * 2\r\n\r\n= 6", add_special_tokens=False).input_ids
    text, starts = decode_with_offsets(BYTES, ids)
    assert text == "8 * 2\r\n\r\n= 6"
    pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert pieces == [BYTES.decode([i]) for i in ids]


def test_the_first_space_is_stripped_once():
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = tokenizer.convert_tokens_to_ids(["▁", "a", "▁", "a", "</s>", "▁", "a"])
    assert decode_with_offsets(tokenizer, ids) == ("a a a", (0, 0, 1, 2, 3, 3, 4))


def test_nothing_sampled():
    assert decode_with_offsets(BYTES, []) == ("", ())
    assert decode_with_offsets(BYTES, [BYTES.eos_token_id]) == ("", (0,))


def test_a_straddling_token_goes_to_the_earlier_step():
    # Tokens "ab", ".\n\n", "W", "ait" over the steps "ab.\n" and "\nWait": the middle token starts in the first.
    assert token_spans([0, 4], [0, 2, 5, 6]) == ((0, 2), (2, 4))
    assert token_spans([0, 5], [0, 2, 5, 6]) == ((0, 2), (2, 4))


def test_a_step_inside_one_token_is_empty_and_trailing_tokens_go_to_the_last():
    assert token_spans([0, 1, 2, 9], [0, 5, 9, 9]) == ((0, 1), (1, 1), (1, 2), (2, 4))


def test_spans_have_to_begin_at_zero():
    with pytest.raises(ValueError, match="begin with 0"):
        token_spans([1, 2], [0, 1])


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_time_is_linear_even_in_a_run_of_invalid_bytes(name):
    tokenizer = TOKENIZERS[name]
    bad = token(b"\xff") if name == "byte_level" else tokenizer.convert_tokens_to_ids("<0xFF>")
    rng = random.Random(0)
    mixed = [rng.randrange(len(tokenizer)) for _ in range(10_000)]
    times = {}
    for ids in (mixed, [bad] * 10_000):
        start = time.process_time()
        decode_with_offsets(tokenizer, ids)
        times[ids is mixed] = time.process_time() - start
    # A quadratic decoder needs 8 s for the run of 10,000; a busy machine is allowed a factor of 50 over the usual.
    assert times[False] < 50 * max(times[True], 0.02)
