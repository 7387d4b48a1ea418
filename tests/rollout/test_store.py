"""What was written is read back exactly; what was cut short or made otherwise is not used."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.ipc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo import redaction
from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, StopReason, Verdict
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.store import RoundStore
from tests.rollout.stored_rounds import rewrite_lines

PROBLEM = Problem("p/1", "Was ist 1+1? — “ü” \u2028", "2", "test", None)
STEPS = (Step(0, 3, 0, 2), Step(3, 5, 2, 3, is_answer=True))
VERDICT = Verdict(STEPS, (StepLabel.CORRECT, StepLabel.CORRECT), "note")


def solution(sample: int = 0, logprobs: tuple[float, ...] = (-0.1, -math.pi, 0.0)) -> Solution:
    n = len(logprobs)
    return Solution(
        "p/1", sample, (1, 2), tuple(range(n)), logprobs, StopReason.EOS, 7, "a\n\nb\ud7ff", tuple(range(n))
    )


def scores(file: RoundFile, solutions: dict[int, Solution]) -> dict[int, tuple[float, ...]]:
    return {index: tuple(values.tolist()) for index, values in file.scores(solutions).items()}


def test_round_trip_is_exact(tmp_path: Path):
    file = RoundStore(tmp_path).open(0, {"seed": 1})
    file.add_solutions({3: (PROBLEM, [solution(0), solution(1)])})
    file.add_verdict(3, PROBLEM, solution(1), Outcome.UNVERIFIABLE, None, VERDICT)
    voted = dataclasses.replace(VERDICT, wrong_shares=(1 / 3, 1.0))
    file.add_verdict(3, PROBLEM, solution(0), Outcome.CORRECT, "2", voted)
    again = RoundStore(tmp_path).open(0, {"seed": 1})
    groups = again.solutions(2)
    assert groups == {3: (PROBLEM, (solution(0), solution(1)))}
    assert again.verdicts(groups) == {
        (3, 1): (Outcome.UNVERIFIABLE, None, VERDICT),
        (3, 0): (Outcome.CORRECT, "2", voted),
    }


@settings(max_examples=50)
@given(st.lists(st.floats(-80, 0, width=32), min_size=1, max_size=20))
def test_float32_logprobs_come_back_bit_for_bit(values: list[float]):
    tensor = torch.tensor(values, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = RoundStore(Path(folder)).open(0, {})
        file.add_solutions({0: (PROBLEM, [solution(logprobs=tuple(tensor.tolist()))])})
        (_, (read,)) = RoundStore(Path(folder)).open(0, {}).solutions(1)[0]
    assert torch.equal(torch.tensor(read.logprobs, dtype=torch.float32), tensor)


def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path: Path, caplog):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({0: (PROBLEM, [solution(0)])})
    file.add_solutions({1: (PROBLEM, [solution(0)])})
    path = file.folder / "solutions.0.jsonl"
    path.write_bytes(path.read_bytes()[:-25])
    with caplog.at_level(logging.WARNING):
        assert sorted(file.solutions(1)) == [0]
    assert "is incomplete; it is skipped and computed again" in caplog.text
    file.add_solutions({1: (PROBLEM, [solution(0)])})
    file.add_solutions({2: (PROBLEM, [solution(0)])})
    assert sorted(file.solutions(1)) == [0, 1, 2]


def test_groups_of_one_batch_are_there_together_or_not_at_all(tmp_path: Path):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({4: (PROBLEM, [solution(0)]), 0: (PROBLEM, [solution(0)])})
    file.add_solutions({2: (PROBLEM, [solution(0)]), 6: (PROBLEM, [solution(0)])})
    path = file.folder / "solutions.0.jsonl"
    path.write_bytes(path.read_bytes()[:-25])
    assert sorted(file.solutions(1)) == [0, 4]


def test_processes_write_files_of_their_own_and_read_all_of_them(tmp_path: Path):
    first, second = (RoundStore(tmp_path, rank=rank).open(0, {}) for rank in (0, 1))
    first.add_solutions({0: (PROBLEM, [solution(0)])})
    second.add_solutions({1: (PROBLEM, [solution(0)])})
    second.add_verdict(1, PROBLEM, solution(0), Outcome.CORRECT, "2", VERDICT)
    second.add_score(8, solution(0), [-0.5] * 3)
    assert sorted(p.name for p in first.folder.glob("*.jsonl")) == [
        "scores.1.jsonl",
        "solutions.0.jsonl",
        "solutions.1.jsonl",
        "verdicts.1.jsonl",
    ]
    alone = RoundStore(tmp_path).open(0, {})
    groups = alone.solutions(1)
    assert sorted(groups) == [0, 1]
    assert sorted(alone.solutions(1, {1, 2})) == [1]
    assert alone.verdicts({0: groups[0]}) == {}
    assert alone.verdicts({1: groups[1]}) == {(1, 0): (Outcome.CORRECT, "2", VERDICT)}
    assert scores(alone, {8: solution(0)}) == {8: (-0.5,) * 3}
    alone.invalidate_verdicts()
    assert second.verdicts(groups) == {}


def test_other_settings_invalidate_a_round(tmp_path: Path, caplog):
    file = RoundStore(tmp_path).open(0, {"policy_version": 4, "seed": 1})
    file.add_solutions({0: (PROBLEM, [solution(0)])})
    with caplog.at_level(logging.WARNING):
        other = RoundStore(tmp_path).open(0, {"policy_version": 5, "seed": 1})
    assert other.solutions(1) == {}
    assert "round 0 on disk is invalid and is sampled again: policy_version changed" in caplog.text


@pytest.mark.parametrize("name", ["meta.json", "judging.json"])
@pytest.mark.parametrize("content", ["[]", "5", "null", '{"a": ', "[" * 100_000])
def test_edited_settings_invalidate_what_depends_on_them(tmp_path: Path, name: str, content: str):
    store = RoundStore(tmp_path)
    store.open(1, {"a": 1}, {"b": 1})
    path = tmp_path / "round_000001" / name
    written = path.read_text()
    path.write_text(content)
    store.open(1, {"a": 1}, {"b": 1})
    assert path.read_text() == written


def test_invalidated_verdicts_keep_solutions(tmp_path: Path):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({0: (PROBLEM, [solution(0)])})
    file.add_verdict(0, PROBLEM, solution(0), Outcome.CORRECT, "2", VERDICT)
    file.invalidate_verdicts()
    assert file.verdicts(file.solutions(1)) == {}
    assert sorted(file.solutions(1)) == [0]


def test_old_rounds_are_forgotten(tmp_path: Path):
    store = RoundStore(tmp_path, keep=2)
    for index in range(5):
        store.open(index, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round_000003", "round_000004"]


def lost(solutions):
    return solutions[0], solutions[2]


def repeated(solutions):
    return solutions[0], solutions[0], solutions[2]


def too_many(solutions):
    return *solutions, solution(3)


def shorter_logprobs(solutions):
    return solutions[0], dataclasses.replace(solutions[1], logprobs=solutions[1].logprobs[:-1]), solutions[2]


def without_offsets(solutions):
    return solutions[0], dataclasses.replace(solutions[1], token_starts=()), solutions[2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lost, r"group 0 in .*round_000000 holds samples \[0, 2\], expected 0 to 2; it is sampled again"),
        (repeated, r"holds samples \[0, 0, 2\]"),
        (too_many, r"holds samples \[0, 1, 2, 3\]"),
        (shorter_logprobs, r"cannot be read \(sample 1 has tokens without a log-prob .*\); it is sampled again"),
        (without_offsets, r"sample 1 has tokens without a log-prob or an offset"),
    ],
)
def test_a_group_that_is_not_whole_is_left_out_with_its_reason(tmp_path: Path, caplog, damage, message):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({0: (PROBLEM, tuple(damage([solution(k) for k in range(3)])))})
    file.add_solutions({1: (PROBLEM, tuple(solution(k) for k in range(3)))})
    with caplog.at_level(logging.WARNING):
        assert sorted(file.solutions(3)) == [1]
    assert re.search(message, caplog.text)
    caplog.clear()
    file.add_solutions({0: (PROBLEM, tuple(solution(k) for k in range(3)))})
    assert sorted(file.solutions(3)) == [0, 1]
    assert "it is sampled again" not in caplog.text


OLD_LINE = {"groups": [{"group": 0, "problem": {"uid": "p/1"}, "solutions": [{"sample": 0, "completion_ids": [1]}]}]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: row | {"groups": 3}, r"solutions.0.jsonl:1 cannot be read \(TypeError"),
        (lambda row: row | {"at": row["at"] + 8}, r":1 cannot be read \(ValueError: .* ends before byte \d+\)"),
        (lambda row: row | {"bytes": row["bytes"] - 8}, r":1 cannot be read \(ValueError: .*another checksum\)"),
        (lambda row: {k: v for k, v in row.items() if k != "crc32"}, r":1 cannot be read \(KeyError: 'crc32'\)"),
        (lambda row: 7, r"is not a JSON object"),
        (
            lambda row: OLD_LINE,
            r"1 lines of .*solutions.0.jsonl are of an earlier version, which kept tokens .* as JSON",
        ),
    ],
)
def test_a_line_that_does_not_lead_to_a_record_is_left_out_with_its_reason(tmp_path: Path, caplog, damage, message):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({0: (PROBLEM, (solution(0),))})
    rewrite_lines(file.folder / "solutions.0.jsonl", damage)
    with caplog.at_level(logging.WARNING):
        assert file.solutions(1) == {}
    assert re.search(message, caplog.text)
    file = RoundFile(file.folder)
    file.add_solutions({1: (PROBLEM, (solution(0),))})
    file.add_solutions({0: (PROBLEM, (solution(0),))})
    assert sorted(file.solutions(1)) == [0, 1]


def records(path: Path) -> list[tuple[int, int]]:
    """Where the records of a stream lie, by its lines."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["at"], row["at"] + row["bytes"]) for row in rows]


def test_any_arrow_library_opens_what_is_stored(tmp_path: Path):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({3: (PROBLEM, (solution(0), solution(1)))})
    file.add_solutions({4: (PROBLEM, (solution(0, (-1.0,)),))})
    file.add_score(6, solution(0), [-0.5] * 3)
    with pyarrow.ipc.open_stream(file.folder / "solutions.0.arrows") as stream:
        table = stream.read_all()
    assert table["group"].to_pylist() == [3, 3, 4]
    assert table["completion_ids"].to_pylist() == [[0, 1, 2], [0, 1, 2], [0]]
    assert np.cumsum(table["start_deltas"][0].values).tolist() == [0, 1, 2]
    assert table["text"].to_pylist() == ["a\n\nb\ud7ff"] * 3
    assert json.loads(table["problem"][0].as_py())["prompt"] == PROBLEM.prompt
    with pyarrow.ipc.open_stream(file.folder / "scores.0.arrows") as stream:
        assert stream.read_all()["logprobs"].to_pylist() == [[-0.5] * 3]


@pytest.mark.parametrize("left", ["the whole record", "half of the record", "one byte", "half of the first record"])
def test_a_record_whose_line_a_crash_left_out_is_cut_off_by_the_next_one(tmp_path: Path, left: str):
    """The writer died between record and line, or within the record: what is stored afterwards is one stream."""
    file = RoundStore(tmp_path).open(0, {})
    lines, stream = (file.folder / f"solutions.0.{kind}" for kind in ("jsonl", "arrows"))
    for group in range(2):
        file.add_solutions({group: (PROBLEM, (solution(0),))})
    (first, second) = records(lines)
    kept = 0 if left == "half of the first record" else 1
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:kept]))
    cut = {"the whole record": second[1], "half of the record": sum(second) // 2, "one byte": second[0] + 1}
    stream.write_bytes(stream.read_bytes()[: cut.get(left, sum(first) // 2)])
    assert sorted(RoundFile(file.folder).solutions(1)) == list(range(kept))
    resumed = RoundFile(file.folder)
    for group in (7, 8):
        resumed.add_solutions({group: (PROBLEM, (solution(0),))})
    assert sorted(RoundFile(file.folder).solutions(1)) == [*range(kept), 7, 8]
    with pyarrow.ipc.open_stream(stream) as opened:
        assert opened.read_all()["group"].to_pylist() == [*range(kept), 7, 8]


def test_records_that_the_disk_lost_are_written_again(tmp_path: Path, caplog):
    """The line reached the disk and the record did not: the machine lost its power."""
    file = RoundStore(tmp_path).open(0, {})
    for group in range(3):
        file.add_solutions({group: (PROBLEM, (solution(0),))})
    stream = file.folder / "solutions.0.arrows"
    stream.write_bytes(stream.read_bytes()[: records(file.folder / "solutions.0.jsonl")[1][1] - 8])
    resumed = RoundFile(file.folder)
    with caplog.at_level(logging.WARNING):
        assert sorted(resumed.solutions(1)) == [0]
    assert caplog.text.count("ends before byte") == 2
    for group in (1, 2):
        resumed.add_solutions({group: (PROBLEM, (solution(0),))})
    assert sorted(RoundFile(file.folder).solutions(1)) == [0, 1, 2]


def test_a_flipped_bit_costs_the_record_that_it_is_in(tmp_path: Path):
    file = RoundStore(tmp_path).open(0, {})
    for group in range(3):
        file.add_solutions({group: (PROBLEM, (solution(0),))})
    stream = file.folder / "solutions.0.arrows"
    whole, where = stream.read_bytes(), records(file.folder / "solutions.0.jsonl")
    for at in range(where[0][0], len(whole), 7):
        stream.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        hit = next(i for i, (start, end) in enumerate(where) if start <= at < end)
        assert file.solutions(1) == {g: (PROBLEM, (solution(0),)) for g in range(3) if g != hit}


def test_lone_surrogates_and_keys_in_texts(tmp_path: Path, monkeypatch):
    """JSON in a data file may hold them; a key that a text repeats is redacted, as everywhere."""
    monkeypatch.setattr(redaction, "_spellings", ["sk-12345678"])
    problem = dataclasses.replace(PROBLEM, uid="p\ud800", prompt="\udfff?")
    one = dataclasses.replace(solution(0), problem_uid="p\ud800", text="a\ud83d sk-12345678")
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({0: (problem, (one,))})
    expected = dataclasses.replace(one, text="a\ud83d [key]")
    assert file.solutions(1) == {0: (problem, (expected,))}


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), min_size=1, max_size=4))
def test_any_ids_and_offsets_come_back(rows: list[list[int]]):
    """Offsets are stored as differences, which do not fit in 32 bits; solutions may be empty."""
    made = tuple(
        Solution("p", k, (), row, (0.0,) * len(row), StopReason.LENGTH, 0, "", row) for k, row in enumerate(rows)
    )
    with tempfile.TemporaryDirectory() as folder:
        RoundFile(Path(folder)).add_solutions({0: (PROBLEM, made)})
        assert RoundFile(Path(folder)).solutions(len(rows)) == {0: (PROBLEM, made)}


STRANGE = (None, True, -1, 1.5, 10**400, "x", "7", [], [None], ["x"], [[]], {}, {"x": 1})


def with_each_replaced(value: object, by: object) -> Iterator[object]:
    """Copies of a JSON value in which one part of it, at any depth, is another value."""
    yield by
    parts: Iterable = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(parts):
        for changed in with_each_replaced(part, by):
            copy = dict(value) if isinstance(value, dict) else list(value)  # pyright: ignore
            copy[key] = changed  # pyright: ignore
            yield copy


def alike(value: object, written: object) -> bool:
    """Whether it is built of the same types. A level and an answer may be missing, a tuple may be empty."""
    if dataclasses.is_dataclass(written):
        names = [f.name for f in dataclasses.fields(written)]
        return type(value) is type(written) and all(alike(getattr(value, n), getattr(written, n)) for n in names)
    if isinstance(written, np.ndarray):
        return isinstance(value, np.ndarray) and (value.dtype, value.ndim) == (written.dtype, 1)
    if isinstance(written, tuple):
        if len({type(part) for part in written}) > 1:
            return isinstance(value, tuple) and all(map(alike, value, written))
        return isinstance(value, tuple) and all(alike(part, written[0]) for part in value)
    return type(value) is type(written) or (value is None and isinstance(written, str))


@pytest.mark.parametrize("kind", ["solutions", "verdicts", "scores"])
def test_a_line_that_was_edited_in_any_place_stops_no_run(tmp_path: Path, kind: str):
    """What is read is of the types that were written, or left out; other lines are read."""
    file = RoundStore(tmp_path).open(0, {})
    problem = dataclasses.replace(PROBLEM, level="2", subject="Algebra")
    group = (problem, (solution(0),))
    file.add_solutions({0: group})
    file.add_verdict(0, problem, solution(0), Outcome.CORRECT, "2", VERDICT)
    file.add_score(0, solution(0), [-0.5] * 3)

    def read() -> tuple[dict, ...]:
        return file.solutions(1), file.verdicts({0: group}), scores(file, {0: solution(0)})

    whole = read()
    path = file.folder / f"{kind}.0.jsonl"
    (row,) = (json.loads(line) for line in path.read_text().splitlines())
    tried = 0
    for strange in STRANGE:
        for changed in with_each_replaced(row, strange):
            tried += 1
            path.write_text(json.dumps(changed) + "\n")
            for part, expected in zip(read(), whole, strict=True):
                for value in part.values():
                    assert alike(value, next(iter(expected.values()))), changed
    assert tried > 60
    with path.open("w") as lines:
        lines.write(f"7\n[]\nnull\n{'[' * 100_000}\n{json.dumps(row)}\n")
    assert read() == whole


@pytest.mark.parametrize("share", [1.5, -0.1, float("nan"), "1", None])
def test_a_verdict_with_another_share_is_left_out(tmp_path: Path, share, caplog):
    """Credit would refuse it later, and a resumed run would end there each time."""
    file = RoundStore(tmp_path).open(0, {})
    groups = {0: (PROBLEM, (solution(0),))}
    file.add_verdict(
        0, PROBLEM, solution(0), Outcome.CORRECT, "2", dataclasses.replace(VERDICT, wrong_shares=(0.5, 1.0))
    )
    assert len(file.verdicts(groups)) == 1
    path = file.folder / "verdicts.0.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wrong_shares": [0.5, share]}) + "\n")
    assert file.verdicts(groups) == {}
    assert "the solution is judged again" in caplog.text


def test_solutions_come_in_the_order_of_their_samples(tmp_path: Path):
    file = RoundStore(tmp_path).open(0, {})
    file.add_solutions({0: (PROBLEM, [solution(2), solution(0), solution(1)])})
    assert file.solutions(3) == {0: (PROBLEM, (solution(0), solution(1), solution(2)))}


def test_verdicts_and_scores_are_of_the_solution_that_they_were_given_on(tmp_path: Path, caplog):
    file = RoundStore(tmp_path).open(0, {})
    other = dataclasses.replace(solution(0), completion_ids=(0, 1, 3))
    file.add_verdict(0, PROBLEM, solution(0), Outcome.CORRECT, "2", VERDICT)
    file.add_verdict(1, PROBLEM, other, Outcome.INCORRECT, "3", VERDICT)  # a verdict without a solution harms nobody
    file.add_score(0, solution(0), [-0.5] * 3)
    assert file.verdicts({0: (PROBLEM, (solution(0),))}) == {(0, 0): (Outcome.CORRECT, "2", VERDICT)}
    assert scores(file, {0: solution(0)}) == {0: (-0.5,) * 3}
    # Sampled again it came out otherwise, or the gold answer was corrected.
    assert file.verdicts({0: (PROBLEM, (other,))}) == {}
    assert file.verdicts({0: (dataclasses.replace(PROBLEM, answer="3"), (solution(0),))}) == {}
    assert file.scores({0: other}) == {}
    rewrite_lines(file.folder / "verdicts.0.jsonl", lambda row: row | {"outcome": "maybe"})
    with caplog.at_level(logging.WARNING):
        assert file.verdicts({0: (PROBLEM, (solution(0),))}) == {}
    assert "is judged again" in caplog.text


def test_what_the_store_did_not_write_stays(tmp_path: Path):
    """Such a folder was once taken for an old round, and another ended the run with a ValueError."""
    for name in ("round_1", "round_000000", "round_000001", "round_000002.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raw.csv").write_text("mine")
    store = RoundStore(tmp_path, keep=1)
    for index in (2, 3, 4):
        store.open(index, {})
    with pytest.raises(StorageError, match=r"round_000001 would be a stored round and holds raw\.csv"):
        store.open(1, {})
    store.open(5, {})
    (tmp_path / "round_000005" / "notes.txt").write_text("mine")
    store.open(6, {})
    names = ["round_000000", "round_000001", "round_000002.bak", "round_000005", "round_000006", "round_1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert [p.name for p in (tmp_path / "round_000005").iterdir()] == ["notes.txt"]


def test_a_round_is_copied_from_the_run_that_this_one_goes_on_from(tmp_path: Path, caplog):
    parent = RoundStore(tmp_path / "parent")
    for index, seed in ((3, 1), (4, 2)):
        file = parent.open(index, {"seed": seed})
        file.add_solutions({0: (PROBLEM, [solution(0)])})
        file.add_verdict(0, PROBLEM, solution(0), Outcome.CORRECT, "2", VERDICT)
        (file.folder / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in (tmp_path / "parent").rglob("*") if p.is_file()}
    child = RoundStore(tmp_path / "child", inherited=[tmp_path / "gone", tmp_path / "parent", tmp_path / "child"])
    taken, other = (child.open(index, {"seed": 1}) for index in (3, 4))
    groups = taken.solutions(1)
    assert (sorted(groups), sorted(taken.verdicts(groups))) == ([0], [(0, 0)])
    assert other.solutions(1) == {}
    written = ["judging.json", "meta.json", "solutions.0.arrows", "solutions.0.jsonl", "verdicts.0.jsonl"]
    assert sorted(p.name for p in taken.folder.iterdir()) == written
    taken.add_solutions({1: (PROBLEM, [solution(0)])})
    taken.invalidate_verdicts()
    assert {p: p.read_bytes() for p in before} == before
    assert sorted(child.open(3, {"seed": 1}).solutions(1)) == [0, 1]  # its own by now
    assert caplog.text == ""


WRITER = """
import sys
from pathlib import Path
from lit_tpgrpo.records import Problem, Solution, StopReason
from lit_tpgrpo.rollout.store import RoundStore
file = RoundStore(Path(sys.argv[1])).open(0, {})
ids = tuple(range(2000))
for group in range(10**6):
    s = Solution("p", 0, ids, ids, tuple(-float(i) / 7 for i in ids), StopReason.EOS, 0, "x" * 2000, ids)
    file.add_solutions({group: (Problem("p", "q", "a"), [s])})
    if group == 20:
        print("ready", flush=True)
"""


def test_a_killed_writer_leaves_every_complete_line(tmp_path: Path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == "ready"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    groups = RoundFile(tmp_path / "round_000000").solutions(1)
    assert len(groups) >= 21
    assert sorted(groups) == list(range(len(groups)))
    assert all(s[0].text == "x" * 2000 and len(s[0].completion_ids) == 2000 for _, s in groups.values())
