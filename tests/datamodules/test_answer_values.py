"""Gold answers of other types than text: numbers of any library, lists, and what each becomes in every file format."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from fractions import Fraction

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.sources import FileProblems, MemoryProblems
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify import MathVerifier


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        (42, "42"),
        (3.5, "3.5"),
        (-0.0, "0"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (np.int64(42), "42"),
        (np.uint8(7), "7"),
        (np.float64(0.1), "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float16(2.5), "2.5"),
        (Decimal("3.50"), "3.5"),
        (Decimal("1E+3"), "1000"),
        (Fraction(1, 3), "1/3"),
        (["1", "2"], "1, 2"),
        ([1, 2.5], "1, 2.5"),
        (("1",), "1"),
        ([["5"]], "5"),
        (np.array([1, 2]), "1, 2"),
        (np.array([0.1, 2], dtype=np.float32), "0.1, 2"),
        (np.array(3), "3"),
        (np.array(["x", "$y$"], dtype=object), "x, y"),
    ],
)
def test_numbers_and_lists_become_exact_texts(value, gold):
    assert MemoryProblems([{"problem": "?", "answer": value}]).load()[0].answer == gold


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "got True"),
        (np.bool_(True), r"got np\.True_"),
        (np.float32("nan"), "got np"),
        (Decimal("Infinity"), r"got Decimal\('Infinity'\)"),
        (1j, "got 1j"),
        (np.array([]), "got array"),
        (b"1", "got b'1'"),
        ([[1, 2], [3, 4]], r"got the list \[1, 2\] in a list"),
        (np.array([[1, 2], [3, 4]]), r"got the list array\(\[1, 2\]\) in a list"),
        (["1", {"value": 2}], "got {'value': 2}"),
    ],
)
def test_values_that_are_no_answer_are_named(value, reason):
    with pytest.raises(InputError, match=f"item 1: 'answer': expected a gold answer as text, .*{reason}"):
        MemoryProblems([{"problem": "?", "answer": value}, {"problem": "!", "answer": 1}]).load()


def test_a_list_is_one_answer_of_several_parts():
    """A solution must give all of them, in any order; one alone is wrong."""
    (problem,) = MemoryProblems([{"problem": "Solve x^2 = 3x - 2.", "answer": [1, "2"]}]).load()
    answers = ["1, 2", "2, 1", "1", "2", "1, 2, 3"]
    verifier = MathVerifier(workers=1)
    try:
        outcomes = verifier.verify_all([(problem.answer, answer) for answer in answers])
    finally:
        verifier.close()
    assert [outcome is Outcome.CORRECT for outcome in outcomes] == [True, True, False, False, False]


def test_a_table_of_pandas_with_gaps_reads_the_next_column():
    table = pd.DataFrame({"problem": ["A?", None], "question": [None, "B?"], "answer": [1.0, 2.5], "id": [None, 7]})
    assert [(p.prompt, p.answer) for p in MemoryProblems(table).load()] == [("A?", "1"), ("B?", "2.5")]


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow", None])
def test_a_data_set_with_an_output_format_gives_the_numbers_it_holds(kind):
    """Torch's format has 0.1 as float32: the gold was 0.10000000149011612."""
    data = datasets.Dataset.from_list([{"problem": "?", "answer": 0.1}, {"problem": "!", "answer": 2.0}])
    assert [p.answer for p in MemoryProblems(data.with_format(kind)).load()] == ["0.1", "2"]


def test_a_data_set_with_a_transform_is_read_through_it():
    data = datasets.Dataset.from_list([{"q": "a"}])
    data = data.with_transform(
        lambda batch: {"problem": [f"{q}?" for q in batch["q"]], "answer": [1] * len(batch["q"])}
    )
    assert [(p.prompt, p.answer) for p in MemoryProblems(data).load()] == [("a?", "1")]


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).map(str.strip).filter(bool)
_ROWS = st.lists(
    st.tuples(
        _TEXTS, st.one_of(st.integers(-(10**15), 10**15), st.floats(allow_nan=False, allow_infinity=False, width=32))
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: " ".join(row[0].split()),
)


@given(rows=_ROWS)
def test_problems_are_the_same_from_every_format(tmp_path_factory, rows):
    """Numbers too: as JSON numbers, in a list, and as text in a table, which holds one type a column."""
    folder = tmp_path_factory.mktemp("formats")
    objects = [{"problem": prompt, "answer": answer} for prompt, answer in rows]
    expected = [(p.prompt, p.answer) for p in MemoryProblems(objects).load()]
    texts = [{"problem": prompt, "answer": gold} for prompt, gold in expected]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects), encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(objects, ensure_ascii=False), encoding="utf-8")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["problem", "answer"])
        writer.writeheader()
        writer.writerows(texts)
    pq.write_table(pa.Table.from_pylist(texts), folder / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        assert [(p.prompt, p.answer) for p in FileProblems(folder / name).load()] == expected, name
    assert [(p.prompt, p.answer) for p in MemoryProblems(datasets.Dataset.from_list(texts)).load()] == expected
    assert [float(gold) for _, gold in expected] == [float(answer) for _, answer in rows]
