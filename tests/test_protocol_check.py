"""A user's class fits a protocol by its methods and their arguments, annotated or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.parts.engine import PlainEngine
from examples.parts.judge import KeywordJudge
from lit_tpgrpo import protocol_check
from lit_tpgrpo.cli import main
from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.engines.base import Engine
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.losses.base import TokenLoss
from lit_tpgrpo.protocol_check import accept_by_methods, function_misfit, import_error, misfit, misfit_of_paths


class Plain:
    """No annotation at all."""

    name = "plain"

    def judge(self, cases):
        yield from ()

    def metrics(self):
        return {}

    def close(self):
        pass


class Unclosed:
    name = "unclosed"

    def judge(self, cases): ...

    def metrics(self): ...


class OtherArguments(Plain):
    def judge(self, solutions: Any) -> Iterator[Any]:
        yield from ()


class OtherName:
    """A loss that calls its only argument otherwise."""

    def needs_reference(self):
        return False

    def __call__(self, x): ...


class NoMethod(OtherName):
    needs_reference = False  # pyright: ignore


class TwoArguments(OtherName):
    def __call__(self, inputs, more): ...


def credit_of(group): ...


@pytest.mark.parametrize(
    ("given", "protocol", "why"),
    [
        (KeywordJudge, Judge, None),
        (Plain, Judge, None),
        (PlainEngine, Engine, None),
        (Unclosed, Judge, "it has no method close()"),
        (OtherArguments, Judge, "its method judge must take (cases)"),
        (PlainEngine, Judge, "it has no method judge(cases)"),
        (KeywordJudge, CreditAssignment, "it has no method __call__(group)"),
        (OtherName, TokenLoss, None),
        (NoMethod, TokenLoss, "its method needs_reference must take ()"),
        (TwoArguments, TokenLoss, "its method __call__ must take (inputs)"),
    ],
)
def test_what_does_not_fit_is_named(given: type, protocol: type, why: str | None):
    assert misfit(given, protocol) == why


def test_a_function_fits_a_protocol_of_one_call():
    assert function_misfit(credit_of, CreditAssignment) is None
    assert function_misfit(lambda: 0, CreditAssignment) == "it must take (group)"
    why = function_misfit(credit_of, Judge)
    assert why is not None
    assert why.startswith("a function has no methods")


@pytest.mark.parametrize(
    ("key", "name", "text", "message"),
    [
        ("judge", "lacks", "import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("judge", "broken", "def (", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("keep", "lacks_too", "import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_an_error_in_the_users_module_is_named(
    key: str, name: str, text: str, message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", "configs/quickstart.yaml", f"--data.{key}", f"{name}.Thing"])
    assert capsys.readouterr().err == f"error: data.{key}: {name} cannot be imported: {message}\n"


@pytest.mark.parametrize("kind", [NoMethod, TwoArguments])
def test_the_command_line_says_why_a_loss_does_not_fit(kind: type, capsys: pytest.CaptureFixture):
    path = f"{__name__}.{kind.__name__}"
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", "configs/quickstart.yaml", "--model.loss", path])
    assert capsys.readouterr().err == f"error: model.loss: {path} is not a TokenLoss: {misfit(kind, TokenLoss)}\n"


def test_paths_that_cannot_be_imported_say_nothing():
    assert misfit_of_paths("no.such.Thing", "lit_tpgrpo.judges.base.Judge") is None


def test_the_command_line_says_what_a_class_lacks(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", "configs/quickstart.yaml", "--data.judge", f"{__name__}.Unclosed"])
    said = capsys.readouterr().err
    assert (
        said
        == f"error: data.judge: {__name__}.Unclosed is not a lit_tpgrpo.judges.base.Judge: it has no method close()\n"
    )


def test_a_class_is_compared_with_a_protocol_once(monkeypatch: pytest.MonkeyPatch):
    """The parser asks some hundred times a command line; each comparison reads the sources of both modules."""
    typehints, compared = protocol_check._typehints, []

    def strict(value: Any, protocol: Any) -> bool:
        compared.append((value, protocol))
        return False

    monkeypatch.setattr(typehints, "implements_protocol", strict)
    accept_by_methods()
    answers = [[typehints.implements_protocol(value, Judge) for value in (Plain, Unclosed, {})] for _ in range(3)]
    assert answers == [[True, False, False]] * 3
    assert compared == [(Plain, Judge), (Unclosed, Judge)]


@pytest.mark.slow
def test_the_command_line_takes_a_class_without_annotations(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "configs/quickstart.yaml", "--data.judge", f"{__name__}.Plain", "--print_config"])
    assert f"class_path: {__name__}.Plain" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["RuleJudge", "no_such_module.Thing", "lit_tpgrpo.no_such.Thing", "json.nothing"])
def test_a_misspelt_name_is_no_error_of_a_module(path: str):
    assert import_error(path) is None
