"""The Hub source without a network: local data folders, an in-memory data set, and the failures as users meet them."""

import datasets
import huggingface_hub
import pytest

from lit_tpgrpo.datamodules.sources import PRESETS, FieldMap, HubProblems, ProblemSource
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.answers import AnswerForm

COLUMNS = {
    "question": ["One and one?", "Half of 2,500?"],
    "answer": ["1+1=<<1+1=2>>2\n#### 2", "2500/2=1250\n#### 1,250"],
}
PROBLEMS = [("One and one?", "2", "gsm8k"), ("Half of 2,500?", "1250", "gsm8k")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set folder with the splits train (2 rows) and test (1 row)."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "sums"
    datasets.Dataset.from_dict(COLUMNS).to_parquet(data / "train-00000-of-00001.parquet")
    datasets.Dataset.from_dict(COLUMNS).select([1]).to_parquet(data / "test-00000-of-00001.parquet")
    return data


def test_folder_with_a_preset(folder):
    source = HubProblems(str(folder), preset="gsm8k")
    assert isinstance(source, ProblemSource)
    problems = source.load()
    assert [(p.prompt, p.answer, p.source) for p in problems] == PROBLEMS
    assert [p.uid for p in problems] == [p.uid for p in HubProblems(str(folder), preset="gsm8k").load()]
    assert [p.prompt for p in HubProblems(str(folder), split="test", preset="gsm8k").load()] == ["Half of 2,500?"]
    assert len(HubProblems(str(folder), preset="gsm8k", limit=1).load()) == 1


def test_folder_without_a_preset(folder):
    source = HubProblems(str(folder), columns=FieldMap(prompt="question"), answer_form=AnswerForm.GSM8K_HASH)
    assert source.name == "sums"
    assert [p.answer for p in source.load()] == ["2", "1250"]


def test_load_dataset_gets_the_preset_and_a_data_set_in_memory_is_converted(monkeypatch):
    calls = []
    rows = datasets.Dataset.from_dict(
        {
            "id": [7, 8],
            "question": ["What is $x$?", "Which?"],
            "context": [None, "Let $y$ be prime."],
            "final_answer": [["$2 n$"], ["$69$", "$84$"]],
            "is_multiple_answer": [False, True],
            "difficulty": ["Competition", "Competition"],
        }
    )

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = HubProblems(preset="olympiadbench", revision="abc")
    assert calls == []
    assert list(source.load()) == [
        Problem("olympiadbench/7", "What is $x$?", "2 n", "olympiadbench", None),
        Problem("olympiadbench/8", "Let $y$ be prime.\n\nWhich?", "69, 84", "olympiadbench", None),
    ]
    assert calls == [(("Hothan/OlympiadBench", "OE_TO_maths_en_COMP"), {"split": "train", "revision": "abc"})]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_their_data_set(preset):
    known = PRESETS[preset]
    source = HubProblems(preset=preset)
    assert (source.dataset, source.subset, source.split) == (known.hub_id, known.subset, known.split)
    # The subset belongs to the preset's own data set; a copy elsewhere need not have it.
    copy = HubProblems("someone/copy", preset=preset)
    assert (copy.dataset, copy.subset, copy.split) == ("someone/copy", None, known.split)


def test_malformed_rows_are_named_by_data_set_and_row(monkeypatch):
    rows = datasets.Dataset.from_dict({"problem": ["A?", "B?"], "answer": ["1", None]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    where = "data set agentica-org/DeepScaleR-Preview-Dataset, split train"
    message = f"{where}: 1 of 2 rows .*\n  row 2: expected the answer in 'answer', got null"
    with pytest.raises(InputError, match=message):
        HubProblems(preset="deepscaler").load()
    source = HubProblems(preset="deepscaler", on_malformed="skip")
    with pytest.warns(UserWarning, match="row 2"):
        assert len(source.load()) == 1
    assert source.metrics() == {"problems": 1.0, "malformed": 1.0, "duplicates": 0.0}


def test_unknown_split_subset_and_folder(folder, tmp_path):
    with pytest.raises(InputError, match=r"split dev: it cannot be loaded: .*\['train', 'test'\]"):
        HubProblems(str(folder), split="dev", preset="gsm8k").load()
    with pytest.raises(InputError, match=r"subset main, split train: it cannot be loaded: .*'main' not found"):
        HubProblems(str(folder), subset="main", preset="gsm8k").load()
    with pytest.raises(InputError, match="expected readable data files"):
        HubProblems(str(tmp_path / "nowhere"), preset="gsm8k").load()


def test_unknown_data_set_on_the_hub(monkeypatch):
    def load_dataset(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"data set a/b, split train: there is no such data set .*Check the spelling"):
        HubProblems("a/b").load()


def test_nothing_named_is_a_config_error():
    with pytest.raises(ConfigError, match="expected a Hub id such as openai/gsm8k, or a preset"):
        HubProblems()


def test_offline_failure_names_the_remedies(tmp_path, monkeypatch):
    """The library's own failure, without a request: these constants are what HF_HUB_OFFLINE=1 sets at import."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError) as offline:
        HubProblems(preset="gsm8k").load()
    message = str(offline.value)
    assert message.startswith("data set openai/gsm8k, subset main, split train: expected it on the Hub or in the local")
    for part in ("OfflineModeIsEnabled", "hf download --repo-type dataset openai/gsm8k", "HF_HOME", "FileProblems"):
        assert part in message
