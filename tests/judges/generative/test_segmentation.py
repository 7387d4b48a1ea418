"""Windows over long chains and how they are joined; which repairs are made stands in test_verdicts.py."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.chat.base import ChatRequest
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.numbered_solution import number_solution
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.generative.segmentation import LLMSegmentation, checked_starts, join_windows
from tests.judges.generative.chains import RuleChat, make_case, verdict


def test_windows_are_joined_where_both_begin_a_step_nearest_to_the_middle():
    """Overlap 7 to 10, middle 8.5: both begin steps at 8 and 10, and 8 is nearer. Before it the first window counts."""
    assert join_windows([(1, 10), (7, 16)], [(1, 3, 6, 8, 10), (7, 8, 10, 13)]) == (1, 3, 6, 8, 10, 13)
    assert join_windows([(1, 10), (7, 16)], [(1, 9), (7, 8, 9, 15)]) == (1, 9, 15)


def test_windows_that_agree_nowhere_are_joined_in_the_middle():
    """8 and 9 of the overlap 7 to 10: the first window holds up to 8, the second from 9."""
    assert join_windows([(1, 10), (7, 16)], [(1, 8, 10), (7, 9, 12)]) == (1, 8, 9, 12)


def test_the_first_paragraph_of_a_window_is_no_step_of_its_own():
    assert join_windows([(1, 10), (7, 16)], [(1, 7), (7, 14)]) == (1, 7, 14)
    assert join_windows([(1, 10), (7, 16)], [(1, 5), (7, 14)]) == (1, 5, 14)


@st.composite
def windows_and_starts(draw):
    count = draw(st.integers(2, 80))
    size = draw(st.integers(2, 20))
    overlap = draw(st.integers(1, size - 1))
    windows, first = [], 1
    while True:
        last = min(first + size - 1, count)
        windows.append((first, last))
        if last == count:
            break
        first = last + 1 - overlap
    starts = [tuple(sorted({a, *draw(st.sets(st.integers(a, b), max_size=b - a + 1))})) for a, b in windows]
    return count, windows, starts


@given(windows_and_starts())
def test_whatever_windows_say_the_steps_tile_the_chain(example):
    count, windows, starts = example
    whole = join_windows(windows, starts)
    assert whole[0] == 1
    assert list(whole) == sorted(set(whole))
    assert whole[-1] <= count
    assert set(whole) <= {n for found in starts for n in found}


@given(st.sets(st.integers(2, 60)), st.integers(2, 15), st.integers(1, 14))
def test_windows_that_agree_give_what_one_window_would_give(breaks, size, overlap):
    """Each window sees the steps of one segmentation of 60 paragraphs, besides its own first paragraph."""
    overlap = min(overlap, size - 1)
    windows, first = [], 1
    while not windows or windows[-1][1] < 60:
        windows.append((first, min(60, first + size - 1)))
        first = windows[-1][1] + 1 - overlap
    truth = sorted({1, *breaks})
    starts = [tuple(sorted({a, *(n for n in truth if a <= n <= b)})) for a, b in windows]
    extra = set(join_windows(windows, starts)) - set(truth)
    # Where no step begins inside an overlap, nothing shows a later window that its first step is an older one's end.
    assert set(truth) <= set(join_windows(windows, starts)) | {a for a, _ in windows}
    assert extra <= {a for a, _ in windows}


@given(st.sets(st.integers(2, 40)), st.randoms(use_true_random=False))
def test_a_right_reply_is_read_back(breaks, rng):
    starts = sorted({1, *breaks})
    ranges = [[a, b - 1] for a, b in zip(starts, [*starts[1:], 41], strict=True)]
    assert checked_starts(ranges, 1, 40) == (tuple(starts), 0)
    rng.shuffle(ranges)
    assert checked_starts(ranges, 1, 40)[0] == tuple(starts)


def test_a_long_chain_goes_in_overlapping_windows():
    paragraphs = tuple(f"Line {i}." for i in range(1, 301))
    seen: list[tuple[int, int]] = []

    def answer(name: str, request: ChatRequest) -> str:
        reply = verdict(name, request.content)
        if name == "segmentation":
            first, last = reply["steps"][0][0], reply["steps"][-1][1]
            seen.append((first, last))
            cuts = [first, *(n for n in range(first + 1, last + 1) if n % 5 == 0)]
            reply["steps"] = [[a, b - 1] for a, b in zip(cuts, [*cuts[1:], last + 1], strict=True)]
        return json.dumps(reply | ({"reflections": []} if name == "reflections" else {}))

    judge = GenerativeJudge(RuleChat(answer), store=None, segmentation=LLMSegmentation(window=100, overlap=10))
    case = make_case(paragraphs)
    ((_, found),) = judge.judge([case])
    assert sorted(seen) == [(1, 100), (91, 190), (181, 280), (271, 300)]
    firsts = [case.solution.text[s.start :].split(".")[0] for s in found.steps[:-1]]
    assert firsts == [f"Line {n}" for n in (1, *range(5, 301, 5))]
    assert judge.metrics()["segmentations"] == 4


def test_a_window_that_fails_is_cut_by_the_rules_alone():
    paragraphs = tuple(f"Line {i}." for i in range(1, 31))

    def answer(name: str, request: ChatRequest) -> str:
        reply = verdict(name, request.content)
        if name == "segmentation":
            first, last = reply["steps"][0][0], reply["steps"][-1][1]
            reply["steps"] = [[first, last]] if first == 1 else []
        return json.dumps(reply | ({"reflections": []} if name == "reflections" else {}))

    judge = GenerativeJudge(RuleChat(answer), store=None, segmentation=LLMSegmentation(window=20, overlap=5))
    case = make_case(paragraphs)
    ((_, found),) = judge.judge([case])
    # The first window is one step; of the second, 16 to 30, the join (after 18) leaves the rules' steps from 19 on.
    firsts = [case.solution.text[s.start :].split(".")[0] for s in found.steps[:-1]]
    assert firsts == ["Line 1", *(f"Line {n}" for n in range(19, 31))]
    assert judge.metrics()["segmentations_rule"] == 1


@pytest.mark.parametrize(("window", "overlap"), [(1, 1), (10, 10), (10, 0)])
def test_settings_out_of_range_are_refused(window, overlap):
    with pytest.raises(ConfigError, match="window must be at least 2"):
        LLMSegmentation(window, overlap)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1000, 3000))
def test_windows_by_length_cover_everything(lengths, limit):
    numbered = number_solution(make_case(tuple("x" * n for n in lengths)))
    assert numbered is not None
    windows = PromptWindow(numbered, PROMPTS, limit).windows(25, 5)
    assert windows[0][0] == 1
    assert windows[-1][1] == len(lengths)
    for (_, left), (right, _) in pairwise(windows):
        assert right <= left + 1
    for first, last in windows:
        assert first == last or sum(lengths[first - 1 : last]) <= limit


PROMPTS = PromptSet("embedded:judge-prompts")
