"""Whose code raised an error decides whether it is told in one line or as a fault of ours, with its traceback."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from lit_tpgrpo.cli.messages import refusal
from lit_tpgrpo.user_errors import in_our_code, one_line_errors

ROOT = Path(__file__).parent.parent


def raised_in(path: Path) -> Exception:
    with pytest.raises(ValueError, match="here") as caught:
        exec(compile("raise ValueError('here')", str(path), "exec"))
    return caught.value


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("lit_tpgrpo/module.py", True),
        ("callbacks/evaluation.py", True),
        ("lit_tpgrpo/datamodules/sources/files.py", True),
        (".venv/lib/python3.12/site-packages/lightning/pytorch/trainer/trainer.py", False),
        ("train_of_my_own.py", False),
    ],
)
def test_libraries_in_the_checkout_are_not_ours(path: str, ours: bool):
    """``make`` puts the virtual environment into the checkout."""
    assert in_our_code(raised_in(ROOT / path)) is ours


def test_what_a_class_says_when_it_is_built_is_told_without_the_union_around_it():
    """As MLflow refuses a store of files; jsonargparse tells all members of the union and all arguments around it."""
    report = """Does not validate against any of the Union subtypes
      Subtypes: [<class 'lightning.pytorch.loggers.logger.Logger'>, <class 'bool'>, <class 'NoneType'>]
      Errors:
        - The filesystem tracking backend is in maintenance mode.
          Set `MLFLOW_ALLOW_FILE_STORE=true` - or migrate.
        - Expected a <class 'bool'>
        - Expected a <class 'NoneType'>
      Given value type: <class 'jsonargparse._namespace.Namespace'>
      Given value: Namespace(class_path='lightning.pytorch.loggers.MLFlowLogger', init_args=Namespace())"""
    said = "The filesystem tracking backend is in maintenance mode. Set `MLFLOW_ALLOW_FILE_STORE=true` - or migrate."
    assert refusal(report) == said
    assert refusal("lr must be\n positive") == "lr must be positive"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_that_ends_a_thread_is_one_line(capsys, monkeypatch, code):
    """As TensorBoard's writer does; the run itself goes on to its own end."""
    monkeypatch.delenv("LIT_TPGRPO_DEBUG", raising=False)

    def write() -> None:
        raise OSError(code, "no room", "events.out")

    before = threading.excepthook
    with one_line_errors():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert threading.excepthook is before
    said = capsys.readouterr().err
    assert said.startswith("warning: no room: events.out cannot be written")
    assert said.count("\n") == 1


def test_a_fault_that_ends_a_thread_keeps_its_traceback(capsys):
    def fail() -> None:
        raise KeyError("ours")

    with one_line_errors():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert "Traceback" in capsys.readouterr().err


def test_the_end_of_another_process_is_one_line():
    """What gloo raised in the process that was left, when the other one was killed."""
    gone = (
        "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:17805. This is typically caused by ..."
    )
    with pytest.raises(SystemExit, match=r"^error: another rank of this run has ended"), one_line_errors():
        raise RuntimeError(gone)
    with pytest.raises(RuntimeError, match="shapes"), one_line_errors():
        raise RuntimeError("shapes differ")
