"""A user's class fits a protocol by its methods and their arguments, annotated or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from examples.parts.engine import PlainEngine
from examples.parts.judge import KeywordJudge
from lit_tpgrpo.cli import main
from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.engines.base import Engine
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.protocol_check import misfit, misfit_of_paths


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
    ],
)
def test_what_does_not_fit_is_named(given: type, protocol: type, why: str | None):
    assert misfit(given, protocol) == why


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


@pytest.mark.slow
def test_the_command_line_takes_a_class_without_annotations(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "configs/quickstart.yaml", "--data.judge", f"{__name__}.Plain", "--print_config"])
    assert f"class_path: {__name__}.Plain" in capsys.readouterr().out
