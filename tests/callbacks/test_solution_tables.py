"""Solution tables and histograms reach each logger as its own types, written by the real library and read back."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_tpgrpo.callbacks import SolutionSamples
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.loggers import RoundPage, TrackioLogger, show_page
from lit_tpgrpo.loggers.html_tables import solution_table
from lit_tpgrpo.loggers.solution_tables import COLUMNS
from tests.callbacks.test_evaluation import ANYWHERE, data, module, trainer
from tests.callbacks.test_samples import credited


def needs(package: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"{package} is not installed: pip install {package}")


def page(step: int, *texts: str) -> RoundPage:
    shown = [("Add *1* and | <b>.", credited(text, answer=None, note="said a1B2c3d4")) for text in texts]
    histograms = {"credit/advantages": torch.tensor([-1.0, 0.5, 0.5]), "rollout/lengths": torch.tensor([3, 4])}
    return RoundPage(step, step // 2, shown, histograms, max_chars=30)


# Of page(2, "1+1 = *2* <b> \udc80"), without step and round: one thought, its text writable, the key in the note redacted.
ROW = ["p", 0, "Add *1* and | <b>.", "correct", "", 0.5, "said [key]"]
ROW += [1, "incorrect", 0.0, 0.5, 1, "1+1 = *2* <b> \\udc80"]
TEXT = "1+1 = *2* <b> \udc80"


def test_the_flat_table_by_hand(monkeypatch):
    monkeypatch.setattr("lit_tpgrpo.redaction._spellings", ["a1B2c3d4"])
    (row,) = page(2, TEXT).rows()
    assert row == [2, 1, *ROW]
    assert COLUMNS[:4] == ("step", "round", "problem", "sample")
    assert page(0, "x" * 40).rows()[0][-1] == "x" * 15 + " […] " + "x" * 15


@pytest.mark.parametrize("before", range(12))
def test_no_part_of_a_key_is_left_where_a_text_is_cut(monkeypatch, before):
    """Wherever the cut falls: in the text of a thought and in the prompt, in rows and in HTML."""
    monkeypatch.setattr("lit_tpgrpo.redaction._spellings", ["QWRTYPSD"])
    text = "." * before + "QWRTYPSD" + "." * 30
    shown = [(text, credited(text, answer=None))]
    row = RoundPage(0, 0, shown, {}, max_chars=12).rows()[0]
    for cut in (row[4], row[-1], solution_table(credited(text, answer=None), "p", 12).rpartition("<tbody>")[2]):
        assert not set("QWRTYPSD") & set(cut)
    assert row[4] == row[-1]


def test_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    show_page(logger, page(2, TEXT, "b"))
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0, "histograms": 0})
    events.Reload()
    (event,) = events.Tensors("rollout/solutions/text_summary")
    assert event.step == 2
    assert event.tensor_proto.string_val[0].decode().count("<table>") == 2
    assert [e.histogram_value.num for e in events.Histograms("credit/advantages")] == [3.0]


@needs("wandb")
def test_wandb_table(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="p", save_dir=str(tmp_path), offline=True)
    show_page(logger, page(2, TEXT, "b"))
    summary = dict(logger.experiment.summary["rollout/solutions"])
    (file,) = Path(logger.experiment.dir).rglob("*.table.json")
    logger.experiment.finish()
    table = json.loads(file.read_text())
    assert (summary["_type"], summary["ncols"], summary["nrows"]) == ("table-file", len(COLUMNS), 2)
    assert table["columns"] == list(COLUMNS)
    assert table["data"] == page(2, TEXT, "b").rows()


@needs("mlflow")
@needs("pandas")
def test_mlflow_table(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("e", tracking_uri=f"file:{tmp_path / 'mlruns'}")
    for step in (0, 2):
        show_page(logger, page(step, TEXT, "b"))
    show_page(logger, page(4))  # a rank without groups shows nothing
    (file,) = tmp_path.rglob("solutions.json")
    table = json.loads(file.read_text())
    assert table["columns"] == list(COLUMNS)
    assert table["data"] == page(0, TEXT, "b").rows() + page(2, TEXT, "b").rows()


@needs("trackio")
def test_trackio_table(tmp_path, monkeypatch):
    import trackio.sqlite_storage  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path)
    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path)
    logger = TrackioLogger("p", "r")
    logger.log_hyperparams({"data": {"group_size": 8}})
    logger.log_metrics({"rollout/accuracy": 0.5}, step=0)
    show_page(logger, page(2, TEXT, "b"))
    logger.finalize("success")
    logger.log_metrics({"rollout/accuracy": 0.75}, step=4)  # the same run goes on
    logger.finalize("success")
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("p", "r")
    assert [(log["step"], log["rollout/accuracy"]) for log in logs if "rollout/accuracy" in log] == [
        (0, 0.5),
        (4, 0.75),
    ]
    (shown,) = [log["rollout/solutions"] for log in logs if "rollout/solutions" in log]
    assert shown["_type"] == "trackio.table"
    assert [list(row.values()) for row in shown["_value"]] == page(2, TEXT, "b").rows()


def test_trackio_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("lit_tpgrpo.loggers.trackio_logger.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install trackio"):
        TrackioLogger()


class Own(Logger):
    """A logger of the user's, registered below."""

    def __init__(self, save_dir: Path) -> None:
        super().__init__()
        self.folder = str(save_dir)
        self.shown: list[RoundPage] = []

    @property
    def save_dir(self) -> str:
        return self.folder

    @property
    def name(self) -> str:
        return "own"

    @property
    def version(self) -> str:
        return "own"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


@show_page.register(Own)
def _(logger: Own, page: RoundPage) -> None:
    logger.shown.append(page)


def test_samples_go_to_every_logger_that_shows_them(random_model, tmp_path):
    """A registered one gets pages, one without tables gets none and does not mind."""
    own = Own(tmp_path)
    run = trainer(tmp_path, SolutionSamples(solutions=3), **ANYWHERE, limit_val_batches=0, max_steps=4)
    run.loggers = [own, CSVLogger(tmp_path)]
    run.fit(module(random_model), datamodule=data())
    assert [(p.step, p.round_index, len(p.solutions), len(p.rows())) for p in own.shown] == [(0, 0, 3, 3), (2, 1, 3, 3)]
    for shown in own.shown:
        assert {prompt for prompt, _ in shown.solutions} <= {p.prompt for p in run.datamodule.problems("train")}  # pyright: ignore
        assert len(shown.histograms["rollout/lengths"]) == 4
