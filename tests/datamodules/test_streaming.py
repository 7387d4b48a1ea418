"""Streamed data sets: from local files, which ``datasets`` streams as it does the Hub's."""

from __future__ import annotations

import json

import datasets
import pytest

from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.sources import MemoryProblems, MixtureProblems, ProblemSource, StreamedProblems
from lit_tpgrpo.errors import ConfigError, InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three files of ten rows."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "sums"
    data.mkdir()
    for part in range(3):
        rows = [{"id": 10 * part + i, "question": f"{part} {i}?", "answer": [i, part]} for i in range(10)]
        (data / f"train-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(data)


def uids(source: ProblemSource) -> list[str]:
    return [problem.uid.rpartition("/")[2] for problem in source.load()]


def test_the_first_rows_are_read_and_no_others(folder, monkeypatch):
    source = StreamedProblems(dataset=folder, limit=12)
    assert isinstance(source, ProblemSource)
    assert uids(source) == uids(source) == [str(i) for i in range(12)]
    assert [(p.prompt, p.answer, p.source) for p in source.load()][11] == ("1 1?", "1, 1", "sums")
    assert len(uids(StreamedProblems(dataset=folder, limit=1000))) == 30


def test_rows_that_are_read_are_bounded_not_only_problems(tmp_path):
    """A set whose rows are all malformed would be read to its end, which a stream may not have."""
    read = []

    class Endless(StreamedProblems):
        def _load(self, **options):
            def rows():
                number = 0
                while True:
                    read.append(number)
                    yield {"problem": "?", "answer": None if number % 2 else number}
                    number += 1

            assert options == {"streaming": True}
            return datasets.IterableDataset.from_generator(rows)

    with pytest.warns(UserWarning, match="the first 6 rows: 3 of 6 rows read are malformed"):
        assert len(Endless(dataset="a/b", limit=6, on_malformed="skip", on_duplicate="keep").load()) == 3
    assert len(read) <= 7


def test_a_shuffle_depends_on_seed_and_buffer_alone(folder):
    def order(**settings) -> list[str]:
        return uids(StreamedProblems(dataset=folder, limit=12, **settings))

    shuffled = order(shuffle_buffer=8)
    assert shuffled == order(shuffle_buffer=8, seed=0)
    assert len({tuple(order(shuffle_buffer=8, seed=seed)) for seed in range(4)} | {tuple(order())}) == 5
    assert len(set(shuffled)) == 12
    whole = uids(StreamedProblems(dataset=folder, limit=30, shuffle_buffer=8))
    assert whole[:12] == shuffled
    assert sorted(whole, key=int) == [str(i) for i in range(30)]


def test_columns_presets_and_mixtures_work_as_for_other_sources(folder):
    with pytest.raises(
        InputError, match=r"first 3 rows: no row has a column q for the prompt; .*columns are id, question"
    ):
        StreamedProblems(dataset=folder, limit=3, columns={"prompt": "q"}).load()
    mixed = MixtureProblems({"s": StreamedProblems(dataset=folder, limit=2), "m": [{"problem": "?", "answer": 1}]})
    assert [p.uid for p in mixed.load()][:2] == ["s/sums/0", "s/sums/1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit: expected at least 1 problem"),
        ({"limit": 2, "shuffle_buffer": 1}, "shuffle_buffer: expected at least 2 rows"),
        ({"limit": 2, "shuffle_buffer": -3}, "shuffle_buffer: expected at least 2 rows"),
        ({"limit": "2"}, "limit: expected an integer, got '2'"),
        ({}, "missing a required argument: 'limit'"),
        ({"limit": 2, "fields": {"prompt": "q"}}, "StreamedProblems: fields is now columns"),
    ],
)
def test_wrong_settings_are_config_errors_at_construction(settings, message):
    with pytest.raises(ConfigError, match=message):
        StreamedProblems(dataset="a/b", **settings)


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_every_split_takes_problems_in_memory(split):
    table = datasets.Dataset.from_list([{"id": "a", "question": "?", "answer": 2}])
    for given in (table, [{"id": "a", "question": "?", "answer": 2}], MemoryProblems(table, name=split)):
        (problem,) = MathRolloutDataModule(**{split: given}).sources[split].load()
        assert (problem.uid, problem.prompt, problem.answer, problem.source) == (f"{split}/a", "?", "2", split)


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_every_split_says_what_to_do_with_a_stream_and_with_several_splits(split):
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"question": "?", "answer": 2}]))
    with pytest.raises(ConfigError, match=rf"{split}: .* IterableDataset, which may have no end; give list\(data.take"):
        MathRolloutDataModule(**{split: stream})
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list([{"question": "?", "answer": 2}]))
    with pytest.raises(ConfigError, match=rf"{split}: .* DatasetDict with train; give one of .* or MixtureProblems"):
        MathRolloutDataModule(**{split: splits})
