"""Score any judge on solutions with known step labels: ``python -m lit_tpgrpo.audit --train_config FILE``.

Data: the embedded domain, where the true label of every step is known; files that say which steps are wrong (MR-Ben's maths,
PRMBench; see ``lit_tpgrpo.judges.error_detection`` for the scores); or chains that you labelled (``read_labelled`` in
``lit_tpgrpo.judges.audit_sets`` names the columns). The judge is given as in a training configuration:

    python -m lit_tpgrpo.audit                                             # the rule judge, embedded domain
    python -m lit_tpgrpo.audit --train_config configs/quickstart.yaml      # the judge of a training configuration
    python -m lit_tpgrpo.audit --data mrben --path mrben_math.json --config judge.yaml --judge.query.votes 3

where judge.yaml holds ``judge: {class_path: ..., init_args: ...}``. The tables are followed by F1 of each label with its 95%
interval and an alarm for each one under ``--alarm_f1``, and by the judge's counts: abstentions and their reasons, requests,
invalid replies, tokens, latency and cost. ``benchmarks/judge_audit`` makes one table of several judges and sets.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from jsonargparse import ArgumentParser, Namespace
from tqdm import tqdm

from lit_tpgrpo.datamodules.arithmetic.judge_report import LabelReport, policy_samples, writer_samples
from lit_tpgrpo.datamodules.arithmetic.problems import DEFAULT_LEVEL, LEVELS
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.jsonl import append_line
from lit_tpgrpo.judges.audit_rows import OnMalformed
from lit_tpgrpo.judges.audit_sets import read_labelled, read_mrben, read_prmbench
from lit_tpgrpo.judges.audit_tables import counts_text, label_text
from lit_tpgrpo.judges.base import Judge, JudgeCase, RefreshableJudge
from lit_tpgrpo.judges.scoring import ALARM_F1, LabelCounts, labels_at
from lit_tpgrpo.protocol_check import accept_by_methods
from lit_tpgrpo.records import StepLabel, Verdict
from lit_tpgrpo.user_errors import one_line_errors
from lit_tpgrpo.yaml_files import bound_parsers, read_yaml

RULE = {"class_path": "lit_tpgrpo.judges.rule.RuleJudge"}
Data = Literal["embedded", "mrben", "prmbench", "labelled"]
READERS = {"mrben": read_mrben, "prmbench": read_prmbench, "labelled": read_labelled}
INTERRUPTED = 130  # a shell's exit code for a process ended by ctrl-C


class Report(Protocol):
    """Judge cases with their true labels; collects verdicts and computes scores."""

    @property
    def cases(self) -> Sequence[JudgeCase]: ...

    def truth(self, index: int) -> Any: ...

    def known_labels(self, index: int) -> Sequence[StepLabel | None]: ...

    def add(self, index: int, verdict: Verdict) -> None: ...

    def heading(self) -> str: ...

    def tables(self) -> str: ...


def make_parser(judge: Mapping[str, Any]) -> ArgumentParser:
    """Return the parser of the options.

    Args:
        judge: default of ``--judge``, with ``class_path`` and ``init_args``.
    """
    parser = ArgumentParser(prog="python -m lit_tpgrpo.audit", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--judge", type=Judge, default=dict(judge), help="the judge, as in a training configuration")
    parser.add_argument("--train_config", type=str | None, help="training YAML whose judge is audited")
    parser.add_argument(
        "--data", type=Literal["embedded", "mrben", "prmbench", "labelled"], default="embedded", help="data set"
    )
    parser.add_argument("--path", type=str | None, help="the file of mrben, prmbench or labelled")
    parser.add_argument("--n", type=int | None, help="first n solutions of a file (all); number of embedded ones (500)")
    parser.add_argument("--on_malformed", type=OnMalformed | None, help="malformed rows: stop (default) or skip them")
    parser.add_argument("--alarm_f1", type=float, default=ALARM_F1, help="F1 below which a label is warned of")
    parser.add_argument("--level", type=str | None, help=f"embedded: {', '.join(LEVELS)} (default {DEFAULT_LEVEL})")
    parser.add_argument("--seed", type=int | None, help="embedded: seed of the solutions (default 0)")
    parser.add_argument(
        "--samples",
        type=Literal["writer", "model"] | None,
        help="embedded: solutions of the noisy writer (default) or sampled from the shipped policy",
    )
    parser.add_argument(
        "--out", type=str | None, help="JSONL file for the verdicts, written as they arrive; overwritten"
    )
    return parser


def judge_of_training(path: str) -> dict[str, Any]:
    """Read the judge of a training configuration, ``data.init_args.judge``; the rule judge if it names none.

    Raises:
        InputError: the file cannot be read, or is not a training configuration.
    """
    try:
        config = read_yaml(Path(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--train_config {path}: expected a YAML file that can be read, got: {reason}") from error
    data = config.get("data") if isinstance(config, dict) else None
    if not isinstance(data, dict):
        raise InputError(
            f"--train_config {path}: expected a training configuration with data.init_args.judge, got no section 'data'; "
            "give a file that contains only the judge as --config"
        )
    settings = data.get("init_args", data)
    judge = settings.get("judge") if isinstance(settings, dict) else None
    judge = {"class_path": judge} if isinstance(judge, str) else judge
    if judge is not None and not (isinstance(judge, dict) and "class_path" in judge):
        raise InputError(
            f"--train_config {path}: expected a judge with a class_path in data.init_args.judge, got {judge}"
        )
    return judge or dict(RULE)


def read_options(args: Sequence[str] | None) -> tuple[ArgumentParser, Namespace]:
    """Parse the command line; other options override the judge of ``--train_config``."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--train_config")
    train_config = first.parse_known_args(args)[0].train_config
    parser = make_parser(RULE if train_config is None else judge_of_training(train_config))
    options = parser.parse_args(args)
    if options.train_config != train_config:
        raise ConfigError(
            f"train_config was given in a file of --config; give it on the command line: --train_config {options.train_config}"
        )
    return parser, options


def make_report(options: Namespace) -> Report:
    """Load the cases on which the judge is scored.

    Raises:
        ConfigError: options are incompatible.
        InputError: the file cannot be used.
    """
    embedded = options.data == "embedded"
    inapplicable = ("path", "on_malformed") if embedded else ("level", "seed", "samples")
    if conflicts := [f"--{name}" for name in inapplicable if options[name] is not None]:
        raise ConfigError(
            f"{' and '.join(conflicts)} cannot be given with --data {options.data}; leave it out or change --data"
        )
    if not 0 <= options.alarm_f1 <= 1:
        raise ConfigError(f"alarm_f1 must be in [0, 1], got {options.alarm_f1}")
    if options.n is not None and options.n < 1:
        raise ConfigError(f"n must be at least 1, got {options.n}")
    if not embedded:
        if options.path is None:
            raise ConfigError(f"--data {options.data} needs a file; give it as --path")
        return READERS[options.data](options.path, options.on_malformed or "stop", options.n)
    level = options.level or DEFAULT_LEVEL
    if level not in LEVELS:
        raise ConfigError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    make = policy_samples if options.samples == "model" else writer_samples
    return LabelReport(make(level, options.n or 500, options.seed or 0))


def check_auditable(judge: Judge) -> None:
    """Raise ConfigError if the judge needs the policy in training."""
    if isinstance(judge, RefreshableJudge) and judge.needs_policy:
        raise ConfigError(
            "the judge is the policy in training, which an audit does not have; give the folder of its weights instead of "
            "'policy' as --judge.chat.model"
        )


def audit(judge: Judge, report: Report, out: Path | None = None, alarm_f1: float = ALARM_F1) -> None:
    """Judge all cases once, write each verdict as it arrives, and print tables and counts, also after an early end.

    Raises:
        ConfigError: the judge needs the policy in training.
    """
    check_auditable(judge)
    solutions: list[LabelCounts] = []
    print(report.heading(), flush=True)
    cases, done, start = report.cases, 0, time.monotonic()
    verdicts = judge.judge(cases)
    try:
        for index, verdict in tqdm(verdicts, total=len(cases), desc=f"judge {judge.name}", file=sys.stderr):
            if out is not None:
                append_line(out, verdict_row(cases[index], verdict, report.truth(index)))
            report.add(index, verdict)
            solutions.append(counts_of(cases[index], report.known_labels(index), verdict))
            done += 1
    finally:
        with suppress(AttributeError):  # an iterator without close() has no requests in flight
            verdicts.close()  # pyright: ignore[reportAttributeAccessIssue]
        if done:
            partly = "" if done == len(cases) else " (ended early: the tables cover only these)"
            print(f"judge {judge.name}: {done} of {len(cases)} solutions in {time.monotonic() - start:.1f} s{partly}\n")
            print(f"{report.tables()}\n\n{label_text(solutions, alarm_f1)}", flush=True)
            print(f"\n{counts_text(judge.metrics())}", flush=True)


def counts_of(case: JudgeCase, known: Sequence[StepLabel | None], verdict: Verdict) -> LabelCounts:
    """Return the counts of one verdict."""
    counts = LabelCounts()
    counts.add(case, known, verdict)
    return counts


def verdict_row(case: JudgeCase, verdict: Verdict, truth: Any) -> dict[str, Any]:
    """Return a row of ``--out``: ``labels`` per given step; ``judged_steps`` counts the steps of the judge's segmentation."""
    return {
        "uid": case.problem.uid,
        "outcome": case.outcome.value,
        "labels": [label.value for label in labels_at(verdict, case.steps)],
        "judged_steps": len(verdict.steps),
        "note": verdict.note,
        "truth": truth,
    }


def _create_empty(path: str) -> Path:
    """Create the file for the verdicts, or empty an existing one."""
    out = Path(path)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"")
    except OSError as error:
        raise InputError(f"--out {out}: expected a file that can be written, got: {error.strerror}") from error
    return out


def _run(args: Sequence[str] | None) -> None:
    parser, options = read_options(args)
    report = make_report(options)
    judge = parser.instantiate(options).judge
    try:
        audit(judge, report, None if options.out is None else _create_empty(options.out), options.alarm_f1)
    finally:
        judge.close()


def main(args: Sequence[str] | None = None) -> None:
    """Run the command: a user error ends it with one line, not a traceback; ctrl-C keeps the verdicts so far."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    bound_parsers()
    accept_by_methods()
    try:
        with one_line_errors():
            _run(args)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
