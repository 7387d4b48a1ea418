"""Tables, compressed files, JSON under the wrong name, fields inside of others, statements that come twice."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import warnings

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.sources import FieldMap, FileProblems
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem

ROWS = [
    {"id": "a", "problem": 'What is $1,5+1$?\nSay "it".', "answer": "2,5", "level": "1"},
    {"id": "b", "problem": "Wieviel ist ½?", "answer": "\\frac{1}{2}", "level": ""},
]
PROBLEMS = [
    Problem("sums/a", 'What is $1,5+1$?\nSay "it".', "2,5", "sums", "1"),
    Problem("sums/b", "Wieviel ist ½?", "\\frac{1}{2}", "sums", None),
]


def table(delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


CONTENTS = {
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ".json": json.dumps(ROWS).encode(),
    ".csv": table(","),
    ".tsv": table("\t"),
}
COMPRESSED = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("extension", CONTENTS)
def test_formats_compressed_or_not_hold_the_same_problems(tmp_path, extension, compression):
    path = tmp_path / f"sums{extension}{compression}"
    path.write_bytes(COMPRESSED[compression](CONTENTS[extension]))
    assert list(FileProblems(path).load()) == PROBLEMS


@pytest.mark.parametrize("extension", CONTENTS)
def test_a_byte_order_mark_and_other_line_ends_change_nothing(tmp_path, extension):
    path = tmp_path / f"sums{extension}"
    content = CONTENTS[extension]
    ended = content if extension in (".csv", ".tsv") else content.replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + ended + b"\r\n\r\n")
    assert list(FileProblems(path).load()) == PROBLEMS


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_named_jsonl_is_read(tmp_path, indent):
    path = tmp_path / "sums.jsonl"
    path.write_text("\n" + json.dumps(ROWS, indent=indent), encoding="utf-8")
    assert list(FileProblems(path).load()) == PROBLEMS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(CONTENTS[".jsonl"], mtime=0)[:-9], r"a\.jsonl\.gz: expected a complete, readable"),
        ("a.jsonl.gz", CONTENTS[".jsonl"], r"expected a complete, readable \.jsonl\.gz file"),
        ("a.parquet.gz", b"", r"\.jsonl, .*\.csv, \.tsv \(each also with \.gz, .*\) or \.parquet, got '\.parquet\.gz'"),
        ("a.zip", b"", r"got '\.zip'"),
        ("a.gz", b"", r"got '\.gz'"),
        ("a.csv", b"problem,answer,problem\nx,y,z\n", r"different name for each column, got \['problem'\] twice"),
        ("a.csv", b"problem,answer\n", "expected at least one row, got none"),
        ("a.csv", b"problem;answer\nWhat?;1\n", "separated by commas, got a first row separated by ';': problem;answer"),
        ("a.csv", b"problem\tanswer\nWhat?\t1\n", r"got a first row separated by '\\t': .* or with tabs to a \.tsv"),
        ("a.tsv", b"problem\nWhat?\n", "no row has a column answer for the answer"),
        ("a.csv", b'problem,answer\n"What?,1\nWho?,2\n', r"a\.csv: line 3: expected cells .*Write .* with a CSV library"),
        ("a.csv", b"problem,answer\nWhat,1,2\n", "line 2: expected 2 cells as in the first row, got 3"),
        ("a.csv", b"problem,answer\nWhat,\n", "line 2: expected the answer in 'answer', got null"),
        ("a.csv", b"problem,answer\nWh\xe9t,1\n", "line 2: expected UTF-8, got the byte 0xe9 in 'problem'"),
    ],
)  # fmt: skip
def test_tables_and_archives_that_cannot_be_read_say_so(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        FileProblems(tmp_path / name).load()


def test_a_faulty_row_of_a_table_is_left_out_on_request(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"problem,answer\nA?,1\nB\xe9,2\nC?,3,4\nD?,5\n" + b"E" * 200_000 + b",6\n")
    source = FileProblems(tmp_path / "t.csv", on_malformed="skip")
    with pytest.warns(UserWarning, match="2 of 5 rows read are malformed"):
        assert [p.answer for p in source.load()] == ["1", "5", "6"]
    assert [row.where for row in source.malformed] == ["line 3", "line 4"]


_CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)


@given(rows=st.lists(st.tuples(_CELLS, _CELLS), min_size=1, max_size=5, unique_by=lambda row: " ".join(row[0].split())))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("problem", "answer"), *rows])
    assert [p.prompt for p in FileProblems(path).load()] == [prompt.strip() for prompt, _ in rows]


def test_fields_inside_of_others_are_named_with_dots(tmp_path):
    row = {"prompt": [{"role": "user", "content": "Find 1."}], "reward_model": {"ground_truth": "1"}, "a.b": "7"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    fields = FieldMap(prompt="prompt.0.content", answer="reward_model.ground_truth", level="a.b")
    (problem,) = FileProblems(tmp_path / "x.jsonl", columns=fields).load()
    assert (problem.prompt, problem.answer, problem.level) == ("Find 1.", "1", "7")
    with pytest.raises(InputError, match=r"a part of it is named with dots, as in messages\.0\.content"):
        FileProblems(tmp_path / "x.jsonl", columns=FieldMap(answer="a.b")).load()
    missing = FieldMap(prompt="prompt.1.content", answer="reward_model.ground_truth")
    with pytest.raises(InputError) as stopped:
        FileProblems(tmp_path / "x.jsonl", columns=missing).load()
    assert str(stopped.value) == (
        f"{tmp_path / 'x.jsonl'}: no row has a column prompt.1.content for the prompt; name it with columns.prompt. The "
        "columns are prompt.0.role, prompt.0.content, reward_model.ground_truth, a.b. Did you mean prompt.0.content?"
    )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": "questoin"}, "no row has a column questoin for the prompt; name it with columns.prompt. The"),
        ({"prompt": "question"}, "no row has a column answer for the answer; name it with columns.answer. The"),
        ({"prompt": "question", "answer": "gold.text"}, "no row has a column gold.text for the answer"),
        ({"prompt": "question", "answer": ("a", "b")}, "no row has a column a or b for the answer"),
        # A misspelt column that a problem need not have was ignored without a word.
        ({"prompt": "question", "answer": "gold.value", "level": "hardnes"}, "for the level; name it with columns.level. The"),
        ({"prompt": "question", "answer": "gold.value", "uid": "key"}, "no row has a column key for the uid"),
        ({"prompt": "question", "answer": "gold.value", "context": "before"}, "no row has a column before for the context"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_malformed", ["stop", "skip"])
def test_a_column_that_no_row_has_is_one_line_with_the_columns_there_are(tmp_path, columns, said, on_malformed):
    rows = [
        {"question": "Q1?", "gold": {"value": 1, "unit": None}, "hardness": 3},
        {"question": "Q2?", "gold": {"value": 2}},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as stopped:
        FileProblems(tmp_path / "x.jsonl", columns=columns, on_malformed=on_malformed).load()
    message = str(stopped.value)
    assert said in message
    assert "The columns are question, gold.value, gold.unit, hardness." in message
    assert "\n" not in message


def test_columns_that_some_rows_have_and_default_ones_are_not_missed(tmp_path):
    rows = [
        {"question": "A?", "gold": None},
        {"question": "B?", "gold": {"value": 2}},
        {"question": "C?", "gold": {"value": 3}, "hard": 5},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "question", "answer": "gold.value", "level": "hard"}
    source = FileProblems(tmp_path / "x.jsonl", columns=columns, on_malformed="skip")
    with pytest.warns(UserWarning, match=r"line 1: expected the answer in a field named gold\.value, got the fields"):
        assert [(p.prompt, p.answer, p.level) for p in source.load()] == [("B?", "2", None), ("C?", "3", "5")]


@pytest.mark.parametrize("fields", [{"prompt": 3}, {"answer": ["a", None]}, {"answer": ()}, {"uid": None}])
def test_a_field_map_of_other_things_than_names_is_refused(fields):
    with pytest.raises(ConfigError, match=r"columns: (prompt|answer|uid): expected"):
        FieldMap(**fields)


TWICE = [
    {"id": 1, "problem": "What is  $1+1$?", "answer": "2"},
    {"id": 2, "problem": "What is $2+2$?", "answer": "4"},
    {"id": 3, "problem": "What is\n$1+1$?", "answer": "2"},
    {"id": 4, "problem": "What is $2+2$?", "answer": "5"},
    {"id": 2, "problem": "What is $2+2$?", "answer": "4"},
]


@pytest.mark.parametrize(
    ("choice", "uids", "done"),
    [
        ("keep", ["t/1", "t/2", "t/3", "t/4", "t/2-2"], "They are kept (on_duplicate: drop removes them)."),
        ("drop", ["t/1", "t/2"], "They were dropped."),
    ],
)
def test_statements_that_come_twice_are_counted_once_in_a_line(tmp_path, choice, uids, done):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TWICE))
    source = FileProblems(path, on_duplicate=choice)
    with pytest.warns(UserWarning, match="rows repeat") as caught:
        assert [p.uid for p in source.load()] == uids
    assert [str(w.message) for w in caught] == [
        f"{path}: 3 rows repeat the statement of an earlier one, 1 of them with another answer (line 3 that of line 1). {done}"
    ]
    assert source.metrics() == {"problems": float(len(uids)), "malformed": 0.0, "duplicates": 3.0}


def test_statements_that_come_twice_may_stop_the_run(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TWICE[:3]))
    with pytest.raises(InputError, match=r"1 row repeats .*Remove them, or set on_duplicate to drop or keep"):
        FileProblems(path, on_duplicate="stop").load()
    with pytest.raises(ConfigError, match="on_duplicate: expected keep, drop or stop, got 'skip'"):
        FileProblems(path, on_duplicate="skip")  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(FileProblems(path, on_duplicate="stop", limit=2).load()) == 2
