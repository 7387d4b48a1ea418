"""Arrays of one value a token: exact, read-only, equal by content, and refused where they would lose something."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from lit_tpgrpo import Completion, Solution, StopReason
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import ReferenceLogprobs
from lit_tpgrpo.fingerprint import content_hash
from lit_tpgrpo.token_arrays import token_floats, token_ints


def solution(**changed: object) -> Solution:
    fields = {"prompt_ids": (1, 2), "completion_ids": [3, 4], "logprobs": (-0.5, -0.25), "token_starts": range(2)}
    fields |= {"problem_uid": "p", "sample": 0, "stop": StopReason.EOS, "policy_version": 0, "text": "ab"}
    return Solution(**fields | changed)  # pyright: ignore


@pytest.mark.parametrize(
    "values",
    [(3, 1), [3, 1], np.array([3, 1]), np.array([3, 1], np.uint8), torch.tensor([3, 1]), (np.int64(3), np.int32(1))],
    ids=repr,
)
def test_ids_in_any_form_become_one_array_that_nobody_can_write_to(values):
    array = token_ints(values, "ids")
    assert (array.dtype, array.tolist()) == (np.int32, [3, 1])
    assert not array.flags.writeable
    assert token_ints(array, "ids") is array  # nor is it copied again
    if isinstance(values, np.ndarray):
        values[0] = 7
    assert array.tolist() == [3, 1]


def test_an_empty_list_has_the_type_of_a_full_one():
    assert (token_ints((), "ids").dtype, token_floats([], "log-probs").dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ((1.0, 2.0), "float64"),
        (("7",), "<U1"),
        ((True,), "bool"),
        ((None,), "object"),
        (((1, 2), (3, 4)), r"an array of shape \(2, 2\)"),
        (((1,), (2, 3)), r"\("),
        (5, r"an array of shape \(\)"),
        ((2**31,), "32 bits, got 2147483648 to 2147483648"),
        ((-(2**31) - 1, 0), "32 bits, got -2147483649 to 0"),
        ((10**400,), "object"),
        (torch.ones(2, requires_grad=True), r"\("),
    ],
    ids=repr,
)
def test_what_is_no_token_id_is_refused(values, got):
    with pytest.raises(ConfigError, match=rf"Completion.token_ids: expected whole numbers.*{got}"):
        Completion(values, (0.0,), StopReason.EOS)


def test_what_is_no_log_prob_is_refused():
    with pytest.raises(ConfigError, match=r"Solution.logprobs: expected numbers, one for each token, got <U3"):
        solution(logprobs=("1.5", "2"))


def test_log_probs_are_rounded_to_float32_once():
    """-0.1 is not a float32; the next ones are -0.10000000149 and -0.0999999940."""
    (rounded,) = token_floats([-0.1], "log-probs").tolist()
    assert rounded == -0.10000000149011612
    again = token_floats([rounded], "log-probs")
    assert again.tolist() == [rounded]


def test_records_are_equal_by_content():
    one, other = solution(), solution(completion_ids=torch.tensor([3, 4]))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1
    for changed in ({"completion_ids": (3, 5)}, {"completion_ids": (3,)}, {"logprobs": (-0.5, 0.0)}, {"text": "b"}):
        assert one != solution(**changed)
    zero, minus_zero = (solution(logprobs=(0.0, z)) for z in (0.0, -0.0))
    assert zero == minus_zero
    assert hash(zero) == hash(minus_zero)
    assert one != "ab"
    assert Completion((1,), (0.0,), StopReason.EOS) != Completion((1,), (0.0,), StopReason.LENGTH)
    assert ReferenceLogprobs((-1.0,), (-2.0,)) == ReferenceLogprobs(np.array([-1.0]), [-2.0])
    with pytest.raises(ValueError, match="finite"):
        ReferenceLogprobs((-1.0,), (math.nan,))


def test_arrays_are_shared_by_copies_of_a_record():
    one = solution()
    assert dataclasses.replace(one, text="cd").logprobs is one.logprobs


def test_a_hash_of_content_sees_every_token():
    """The text of a long array leaves its middle out; and the numbers of an array are those of a list."""
    ids = list(range(5000))
    other = [*ids[:2500], 7, *ids[2501:]]
    array = token_ints(ids, "ids")
    assert content_hash([array]) == content_hash([ids]) == content_hash([tuple(array)])
    assert content_hash([token_ints(other, "ids")]) == content_hash([other]) != content_hash([ids])


def test_a_token_takes_nine_bytes_and_no_python_numbers():
    n = 100_000
    ids, logprobs = np.arange(n), -np.arange(n) / 7
    tracemalloc.start()
    try:
        one = solution(completion_ids=ids, logprobs=logprobs, token_starts=ids)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 9 * n <= size < 9.1 * n
    assert len(one.completion_ids) == n


@pytest.mark.parametrize(
    ("starts", "bytes_a_token"),
    [
        ([0, 3, 3, 258, 258], 1),  # the largest difference of one byte
        ([0, 3, 3, 259, 259], 4),
        ([5, 4, 3, 2, 1], 4),
        ([-(2**31), 2**31 - 1, 0, -1, 7], 4),  # differences beyond 32 bits
    ],
)
def test_offsets_are_held_in_one_byte_where_they_fit(starts: list[int], bytes_a_token: int):
    one = solution(completion_ids=range(5), logprobs=[0.0] * 5, token_starts=starts)
    assert one.token_starts.tolist() == starts
    assert one.token_starts.dtype == np.int32
    assert not one.token_starts.flags.writeable
    assert vars(one)["_token_starts"].nbytes == 5 * bytes_a_token
    copies = (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), dataclasses.replace(one, sample=0))
    assert all(other == one and other.token_starts.tolist() == starts for other in copies)
    assert dataclasses.replace(one, token_starts=[0] * 5) != one


def test_offsets_cannot_be_left_out_or_set():
    with pytest.raises(TypeError, match="token_starts"):
        Solution("p", 0, [], [], [], StopReason.EOS, 0, "")  # pyright: ignore
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution().token_starts = [0, 1]  # pyright: ignore
