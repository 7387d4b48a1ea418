"""Files: the three formats, the presets on the real files, every kind of malformed row."""

import json
import struct
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_tpgrpo.datamodules.sources import PRESETS, FieldMap, FileProblems, ProblemSource
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.answers import AnswerForm
from tests.real_data import RealData

ROWS = [
    {"id": "a", "problem": "What is $1+1$?", "answer": "2", "level": 1},
    {"id": "b", "problem": "What is $2+2$?", "answer": "4", "level": 5.0},
    {"id": "c", "problem": "What is $3+3$?", "answer": "6", "level": "Level 3"},
]
PROBLEMS = [
    Problem("sums/a", "What is $1+1$?", "2", "sums", "1"),
    Problem("sums/b", "What is $2+2$?", "4", "sums", "5"),
    Problem("sums/c", "What is $3+3$?", "6", "sums", "3"),
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("extension", ["jsonl", "ndjson", "json", "parquet"])
def test_formats_hold_the_same_problems(tmp_path, extension):
    path = tmp_path / f"sums.{extension}"
    rows = [{**row, "level": str(row["level"])} for row in ROWS]  # A Parquet column has one type.
    if extension == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif extension == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        write_jsonl(path, rows)
    source = FileProblems(path)
    assert isinstance(source, ProblemSource)
    expected = [*PROBLEMS[:1], Problem("sums/b", "What is $2+2$?", "4", "sums", "5.0"), *PROBLEMS[2:]]
    assert list(source.load()) == expected
    assert source.metrics() == {"problems": 3.0, "malformed": 0.0, "duplicates": 0.0}


def test_numeric_and_worded_levels_become_one_spelling(tmp_path):
    assert list(FileProblems(write_jsonl(tmp_path / "sums.jsonl", ROWS)).load()) == PROBLEMS


def test_blank_lines_and_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "sums.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode() + b"\n \n")
    assert list(FileProblems(path).load()) == PROBLEMS


def test_nothing_is_read_before_load(tmp_path):
    path = tmp_path / "later.jsonl"
    source = FileProblems(path)
    write_jsonl(path, ROWS)
    assert len(source.load()) == 3


def test_limit_counts_problems_and_ends_the_reading(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl", [ROWS[0], {"id": "x"}, ROWS[1], ROWS[2], {"id": "y"}])
    source = FileProblems(path, limit=2, on_malformed="skip", name="sums")
    with pytest.warns(UserWarning, match="1 of 3 rows read are malformed"):
        assert list(source.load()) == PROBLEMS[:2]
    assert [row.where for row in source.malformed] == ["line 2"]


def test_uids_without_ids_follow_the_content_not_the_position(tmp_path):
    rows = [{"problem": p, "answer": "1"} for p in ("A?", "B?", "A?")]
    forward = FileProblems(write_jsonl(tmp_path / "one.jsonl", rows), name="s").load()
    backward = FileProblems(write_jsonl(tmp_path / "two.jsonl", rows[::-1]), name="s").load()
    uids = [p.uid for p in forward]
    assert len(set(uids)) == 3
    assert uids[2] == f"{uids[0]}-2"
    assert {p.uid: p.prompt for p in forward} == {p.uid: p.prompt for p in backward}
    # The very value, so that uids in old checkpoints stay good: blake2b of prompt, NUL, answer.
    assert uids[1] == "s/f747c1b38356"


@pytest.mark.parametrize(
    ("value", "gold"),
    [(204, "204"), (27.0, "27"), (-1.0, "-1"), (0.5, "0.5"), ("  7 ", "7"), (["3"], "3"), (["3", 4.0], "3, 4")],
)
def test_answers_of_other_types_are_rendered(tmp_path, value, gold):
    path = write_jsonl(tmp_path / "x.jsonl", [{"problem": "?", "answer": value}])
    assert FileProblems(path).load()[0].answer == gold


def test_context_stands_before_the_statement(tmp_path):
    path = write_jsonl(
        tmp_path / "x.jsonl",
        [
            {"context": "Let $n=2$.", "question": "Find $n^2$.", "final_answer": ["$4$"]},
            {"context": None, "question": "Find $3$.", "final_answer": ["$3$"]},
        ],
    )
    problems = FileProblems(path, preset="olympiadbench").load()
    assert [(p.prompt, p.answer) for p in problems] == [("Let $n=2$.\n\nFind $n^2$.", "4"), ("Find $3$.", "3")]


def test_instruction_is_stripped_only_from_the_end(tmp_path):
    said = "Show work."
    path = write_jsonl(
        tmp_path / "x.jsonl",
        [{"problem": f"Why? {said}\n", "answer": "1"}, {"problem": f"{said} Why?", "answer": "1"}],
    )
    prompts = [p.prompt for p in FileProblems(path, strip_suffixes=[said]).load()]
    assert prompts == ["Why?", "Show work. Why?"]


GOOD = json.dumps({"problem": "What?", "answer": "1"}).encode()
MALFORMED = {
    "no JSON": (b'{"problem": "What?"', "invalid JSON"),
    "no UTF-8": (b'{"problem": "\xff", "answer": "1"}', "expected UTF-8, got the byte 0xff at position 13"),
    "no object": (b'["What?", "1"]', "expected an object with named fields, got ['What?', '1'] (list)"),
    "no prompt field": (b'{"text": "What?", "answer": "1"}', "problem or question, got the fields text, answer"),
    "no answer field": (b'{"problem": "What?"}', "expected the answer in a field named answer"),
    "empty prompt": (b'{"problem": " \\n", "answer": "1"}', "the prompt as text in 'problem', got an empty text"),
    "prompt no text": (b'{"problem": ["What?"], "answer": "1"}', "got ['What?'] (list)"),
    "null prompt": (b'{"problem": null, "answer": "1"}', "expected the prompt in 'problem', got null"),
    "null answer": (b'{"problem": "What?", "answer": null}', "expected the answer in 'answer', got null"),
    "empty answer": (b'{"problem": "What?", "answer": " "}', "'answer': expected a gold answer in the form 'plain'"),
    "true": (b'{"problem": "What?", "answer": true}', "got True"),
    "NaN": (b'{"problem": "What?", "answer": NaN}', "got nan"),
    "object": (b'{"problem": "What?", "answer": {"value": 1}}', "got {'value': 1}"),
    "empty list": (b'{"problem": "What?", "answer": []}', "got []"),
    "list with null": (b'{"problem": "What?", "answer": ["1", null]}', "got None"),
    "nulls": (b'{"problem": null, "prompt": null, "answer": "1"}', "the prompt in 'prompt' or 'problem', got null"),
    "too many digits": (
        b'{"problem": "What?", "answer": ' + b"1" * 5_000 + b"}",
        "expected one JSON object, got one with a number that cannot be read (Exceeds the limit",
    ),
    "number too long": (
        b'{"problem": "What?", "answer": ' + b"1" * 400 + b"}",
        "'answer': expected a gold answer, got",
    ),
    "deep line": (
        b'{"problem": "What?", "answer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "expected one JSON object, got one that is nested too deeply",
    ),
    "deep answer": (
        b'{"problem": "What?", "answer": ' + b"[" * 101 + b"1" + b"]" * 101 + b"}",
        "expected lists and objects of at most 100 levels, got some that are nested too deeply",
    ),
    "lone surrogate in the prompt": (
        b'{"problem": " a\\ud800", "answer": "1"}',
        r"the prompt as text in 'problem', got the lone surrogate '\ud800' at position 1",
    ),
    "lone surrogate in the answer": (
        b'{"problem": "What?", "answer": ["1", "\\ud800"]}',
        r"the answer as text in 'answer', got the lone surrogate '\ud800' at position 3",
    ),
    "lone surrogate in the id": (
        b'{"problem": "What?", "answer": "1", "id": "\\ud800"}',
        r"the id as text in 'id', got the lone surrogate '\ud800' at position 0",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_rows_stop_or_are_skipped(tmp_path, kind):
    line, reason = MALFORMED[kind]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, line, GOOD.replace(b"What", b"Who")]))
    with pytest.raises(InputError) as stopped:
        FileProblems(path).load()
    for part in (str(path), "1 of 3 rows", "line 2: ", reason, "on_malformed: skip"):
        assert part in str(stopped.value)

    source = FileProblems(path, on_malformed="skip")
    with pytest.warns(UserWarning, match="1 of 3 rows") as caught:
        assert len(source.load()) == 2
    assert len(caught) == 1
    assert source.metrics() == {"problems": 2.0, "malformed": 1.0, "duplicates": 0.0}
    assert [row.where for row in source.malformed] == ["line 2"]
    assert reason in source.malformed[0].reason


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (AnswerForm.BOX, "So it is 4."),
        (AnswerForm.BOX, r"So it is \boxed{}."),
        (AnswerForm.GSM8K_HASH, "It is 4"),
        (AnswerForm.GSM8K_LINE, "#### 4"),
    ],
)
def test_answer_that_has_not_its_form_is_malformed(tmp_path, form, answer):
    path = write_jsonl(tmp_path / "x.jsonl", [{"problem": "?", "answer": answer}, {"problem": "?", "answer": answer}])
    with pytest.raises(InputError, match=f"'answer': expected a gold answer in the form '{form.value}'") as stopped:
        FileProblems(path, answer_form=form).load()
    assert "No usable row is left" in str(stopped.value)


@pytest.mark.parametrize(
    ("form", "answer", "gold"),
    [
        (AnswerForm.BOX, r"First \boxed{3}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (AnswerForm.GSM8K_HASH, "1000+125=1125\n#### 1,125", "1125"),
        (AnswerForm.GSM8K_LINE, "Add them.\nA: 7", "7"),
        (AnswerForm.PLAIN, " $x+1$ ", "x+1"),
    ],
)
def test_each_form_gives_the_bare_gold(tmp_path, form, answer, gold):
    path = write_jsonl(tmp_path / "x.jsonl", [{"problem": "?", "answer": answer}])
    assert FileProblems(path, answer_form=form).load()[0].answer == gold


def test_an_id_of_another_problem_is_malformed(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl", [ROWS[0], ROWS[1], {**ROWS[2], "id": "a"}])
    with pytest.raises(InputError, match="line 3: expected a different id in each row, but 'id' repeats 'a'"):
        FileProblems(path).load()
    assert len(FileProblems(path, columns=FieldMap(uid=())).load()) == 3


def test_null_columns_give_way_to_the_next_alternative(tmp_path):
    # A table's rows have all columns. The first row is in the first of each two, the second in the second.
    table = pa.table(
        {
            "problem": ["A?", None],
            "question": [None, "B?"],
            "answer": ["1", None],
            "solution": [None, r"So \boxed{2}."],
            "uid": ["a", None],
            "id": [None, "b"],
            "level": ["3", None],
            "difficulty": [None, "4"],
            "before": ["Let $x=1$.", None],
            "context": [None, "Let $y=1$."],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    source = FileProblems(
        tmp_path / "t.parquet",
        columns=FieldMap(answer=("answer", "solution"), context=("before", "context")),
        answer_form={"answer": AnswerForm.PLAIN, "solution": AnswerForm.BOX},
    )
    assert list(source.load()) == [
        Problem("t/a", "Let $x=1$.\n\nA?", "1", "t", "3"),
        Problem("t/b", "Let $y=1$.\n\nB?", "2", "t", "4"),
    ]


@pytest.mark.parametrize("level", ["null", '"\\ud800"', "1" * 400, "[" * 500 + "]" * 500])
def test_a_level_that_cannot_be_read_is_none(tmp_path, level):
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": "?", "answer": "1", "level": ' + level + "}", encoding="utf-8")
    assert FileProblems(path).load()[0].level is None


def test_bytes_that_are_no_text_in_a_parquet_file_are_one_rows_fault(tmp_path):
    offsets = struct.pack("<4i", 0, 2, 4, 6)
    statements = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"A?\xff?C?"))
    pq.write_table(pa.table({"problem": statements, "answer": ["1", "2", "3"]}), tmp_path / "t.parquet")
    source = FileProblems(tmp_path / "t.parquet", on_malformed="skip")
    with pytest.warns(UserWarning, match="row 2: expected UTF-8, got the byte 0xff"):
        assert [p.prompt for p in source.load()] == ["A?", "C?"]


def test_long_lists_of_malformed_rows_are_cut(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [ROWS[0]] + [{"problem": "?"}] * 13)
    with pytest.raises(InputError, match="13 of 14 rows") as stopped:
        FileProblems(path).load()
    assert "line 11:" in str(stopped.value)
    assert "line 12:" not in str(stopped.value)
    assert "and 3 more" in str(stopped.value)


def test_missing_file_names_what_is_near(tmp_path):
    write_jsonl(tmp_path / "math500_test.jsonl", ROWS)
    write_jsonl(tmp_path / "gsm8k.jsonl", ROWS)
    with pytest.raises(InputError, match=r"Did you mean math500_test\.jsonl\?") as missing:
        FileProblems(tmp_path / "math_500_test.jsonl").load()
    assert str(tmp_path / "math_500_test.jsonl") in str(missing.value)
    with pytest.raises(InputError, match="there is no folder"):
        FileProblems(tmp_path / "nowhere" / "x.jsonl").load()
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(InputError, match="got a folder"):
        FileProblems(folder).load()


def test_unreadable_files_are_input_errors(tmp_path):
    cases = {
        "rows.xlsx": (b"problem,answer\n", r"ending in .* or \.parquet, got '\.xlsx'"),
        "empty.jsonl": (b"", "expected at least one row, got none"),
        "empty.json": (b"[]", "expected at least one row, got none"),
        "lines.json": (b'{"a": 1}\n{"a": 2}\n', r"A file with one object per line needs the extension \.jsonl"),
        "object.json": (b'{"rows": []}', "got dict at the top level"),
        "broken.json": (b"[", "invalid JSON"),
        "latin.json": (b'["\xe9"]', "expected UTF-8"),
        "digits.json": (
            b"[" + b"1" * 5_000 + b"]",
            r"digits\.json: .* a number that cannot be read .*Write it as text",
        ),
        "deep.json": (b"[" * 100_000 + b"]" * 100_000, r"deep\.json: .* nested too deeply to be read\. Remove it"),
        "text.parquet": (b"no parquet", "expected a Parquet file"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            FileProblems(tmp_path / name).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "maths"}, "preset: expected one of aime24, .*got 'maths'"),
        ({"answer_form": "boxed"}, "answer_form: expected one of box, .*got 'boxed'"),
        ({"answer_form": {"solution": AnswerForm.BOX}}, "one form for each answer column"),
        ({"on_malformed": "ignore"}, "expected stop or skip"),
        ({"limit": 0}, "at least 1 problem"),
        ({"preset": "math", "columns": FieldMap()}, "give answer_form with your columns"),
    ],
)
def test_wrong_settings_are_config_errors_at_construction(settings, message):
    with pytest.raises(ConfigError, match=message):
        FileProblems("any.jsonl", **settings)


# kind of data: preset: (file, problems, (row, uid or None, gold, level, end of the prompt))
REAL = {
    "whole": {
        "aime24": (
            "aime24_qwq.jsonl",
            30,
            (0, None, "204", None, "including the $t$ minutes spent in the coffee shop."),
        ),
        "aime25": ("aime25_qwq.jsonl", 30, (0, None, "70", None, "is a divisor of $97_b.$")),
        "amc23": ("amc23_test.jsonl", 40, (15, "amc23/17", "-1", None, None)),
        "math500": (
            "math500_test.jsonl",
            500,
            (
                0,
                "math500/test/precalculus/807.json",
                r"\left( 3, \frac{\pi}{2} \right)",
                "2",
                r"0 \le \theta < 2 \pi.$",
            ),
        ),
        "olympiadbench": ("olympiadbench_test.jsonl", 675, (1, "olympiadbench/1610", r"\frac{1}{2 n+2}", None, None)),
        "gsm8k": ("gsm8k_test.jsonl", 1319, (2, None, "70000", None, "How much profit did he make?")),
        "math": ("rllm_math_train.json", 7470, (5, None, "(3, -1)", "4", None)),
    },
    "sample": {
        "aime24": ("aime24_qwq.jsonl", 3, (0, None, "28", None, "divisors of $12$.")),
        "aime25": ("aime25_qwq.jsonl", 3, (1, None, "84", None, "by $4$, $6$ and $14$.")),
        "amc23": ("amc23_test.jsonl", 4, (1, "amc23/1", "-1", None, None)),
        "math500": (
            "math500_test.jsonl",
            66,
            (0, "math500/test/precalculus/807.json", r"\left( 3, \frac{\pi}{2} \right)", "2", None),
        ),
        "olympiadbench": ("olympiadbench_test.jsonl", 105, (0, "olympiadbench/1610", r"\frac{1}{2 n+2}", None, None)),
        "gsm8k": ("gsm8k_test.jsonl", 13, (0, None, "70000", None, "How much profit did he make?")),
        "math": ("rllm_math_train.json", 225, (5, None, "8.75", "4", None)),
    },
}
# rllm's MATH has two null and two empty answers, and states one problem twice (items 924 and 958 of the whole).
WITHOUT_ANSWER = {
    "whole": ["item 887", "item 1010", "item 5329", "item 5331"],
    "sample": ["item 11", "item 41", "item 72", "item 102"],
}


@pytest.mark.parametrize("preset", REAL["sample"])
def test_preset_reads_the_real_file(preset: str, real_data: RealData):
    name, count, (row, uid, gold, level, ending) = REAL[real_data.kind][preset]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = FileProblems(real_data.folder / name, preset=preset, on_malformed="skip")
        problems = source.load()
    assert len(problems) == count
    assert [r.where for r in source.malformed] == (WITHOUT_ANSWER[real_data.kind] if preset == "math" else [])
    assert source.metrics()["duplicates"] == (preset == "math")
    # Not the ResourceWarning of a file that another test of this process left open.
    said = [w for w in caught if w.category is UserWarning]
    assert len(said) == 2 * (preset == "math")
    problem = problems[row]
    assert problem.answer == gold
    assert problem.level == level
    assert problem.source == preset
    assert uid is None or problem.uid == uid
    assert ending is None or problem.prompt.endswith(ending)
    assert len({p.uid for p in problems}) == count
    assert not any("reason step by step" in p.prompt for p in problems)


def test_hub_columns_of_math_give_the_boxed_gold(tmp_path):
    row = {"problem": "?", "level": "Level 5", "solution": r"First \boxed{1}, so \boxed{\frac{2}{3}}."}
    path = write_jsonl(tmp_path / "x.jsonl", [row, {**row, "level": "Level ?"}])
    problems = FileProblems(path, preset="math").load()
    assert [(p.answer, p.level) for p in problems] == [(r"\frac{2}{3}", "5"), (r"\frac{2}{3}", None)]


def test_every_preset_is_consistent():
    assert sorted(PRESETS) == sorted([*REAL["sample"], "deepscaler"])
    for name in PRESETS:
        FileProblems("any.jsonl", preset=name)
