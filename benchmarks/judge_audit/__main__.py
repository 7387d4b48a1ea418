"""Audit judges on sets with known step labels, in one table: python -m benchmarks.judge_audit --data-dir DIR

The judges and sets are those of a plan (benchmarks/judge_audit/plan.yaml): each is a line of options of
``python -m lit_tpgrpo.audit``, so your judge and your labelled chains are an entry more. Verdicts are kept under --work in
chunks: an interrupted audit goes on where it was, and a finished one is scored again without a request. Writes table.md and
results.json to --out.

    python -m benchmarks.judge_audit --data-dir DIR --judges rule tiny
    python -m benchmarks.judge_audit --data-dir DIR --option 'smollm2=--judge.chat.model FOLDER'
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.judge_audit.corrections import write_corrections
from benchmarks.judge_audit.pairs import audit_pair
from benchmarks.judge_audit.table import markdown, result_of
from lit_tpgrpo.audit import Report, make_report, read_options
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.judges.scoring import ALARM_F1
from lit_tpgrpo.protocol_check import accept_by_methods
from lit_tpgrpo.user_errors import one_line_errors
from lit_tpgrpo.yaml_files import bound_parsers, read_yaml

HERE = Path(__file__).parent
INTERRUPTED = 130


def read_plan(path: Path, judges: Sequence[str] | None, sets: Sequence[str] | None) -> tuple[dict, dict]:
    """Return the judges and sets of a plan by name, those that were chosen, or all.

    Raises:
        ConfigError: the file is no plan, or a chosen name is not in it.
    """
    plan = read_yaml(path)
    if not isinstance(plan, dict) or not all(isinstance(plan.get(part), dict) for part in ("judges", "sets")):
        raise ConfigError(f"--plan {path}: expected judges and sets by name, as in {HERE / 'plan.yaml'}")
    for names, part in ((judges, "judges"), (sets, "sets")):
        if unknown := [name for name in names or () if name not in plan[part]]:
            raise ConfigError(f"--{part} {unknown[0]}: {path} has {', '.join(plan[part])}")
    for name, judge in plan["judges"].items():
        if unknown := [s for s in judge.get("sets") or () if s not in plan["sets"]]:
            raise ConfigError(
                f"--plan {path}: judge {name} names the set {unknown[0]}; there are {', '.join(plan['sets'])}"
            )
    return tuple(
        {name: plan[part][name] for name in plan[part] if not names or name in names}
        for names, part in ((judges, "judges"), (sets, "sets"))
    )  # pyright: ignore[reportReturnType]


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Audit every judge on its sets, write the table after each pair, and return the results."""
    judges, sets = read_plan(args.plan, args.judges, args.sets)
    extra: dict[str, str] = {}
    for given in args.option:
        name, equals, options = given.partition("=")
        if not equals or name not in judges:
            raise ConfigError(f"--option {given!r}: expected NAME=OPTIONS with a judge of {', '.join(judges)}")
        extra[name] = options
    if any("{work}/corrections.jsonl" in given["options"] for given in sets.values()):
        write_corrections(args.data_dir, args.work / "corrections.jsonl")
    command = f"python -m benchmarks.judge_audit {shlex.join(_without_folder(args.given))}"
    results: list[dict[str, Any]] = []
    reports: dict[str, Report] = {}  # a set may have to be sampled
    for name, judge in judges.items():
        for set_name in (s for s in sets if s in (judge.get("sets") or sets)):
            paths = {"data_dir": args.data_dir, "work": args.work}
            of_set = shlex.split(sets[set_name]["options"].format(**paths))
            of_judge = shlex.split(f"{judge['options']} {extra.get(name, '')}")
            limit = judge.get("limit") if args.limit is None else args.limit
            limit = limit.get(set_name) if isinstance(limit, dict) else limit
            chunk = args.chunk or judge.get("chunk", 64)
            results.append(_pair(name, set_name, of_judge, of_set, limit, chunk, reports, args))
            _write(args.out, results, sets, command)
            print(f"{name} on {set_name}: alarms {', '.join(results[-1]['alarms']) or 'none'}", flush=True)
    return results


def _without_folder(given: Sequence[str]) -> list[str]:
    """Return the arguments with DIR in place of the folder of this machine that holds the data."""
    shown = list(given)
    for n, part in enumerate(given):
        option, equals, _ = part.partition("=")
        if len(option) > 2 and "--data-dir".startswith(option):  # argparse takes a beginning, too
            shown[n : n + 1 + (not equals)] = ["--data-dir=DIR"] if equals else ["--data-dir", "DIR"]
    return shown


def _pair(
    name: str,
    set_name: str,
    of_judge: list[str],
    of_set: list[str],
    limit: int | None,
    chunk: int,
    reports: dict[str, Report],
    args: argparse.Namespace,
) -> dict[str, Any]:
    parser, options = read_options([*of_set, *of_judge])
    setting = {"judge": of_judge, "set": of_set}

    def open_judge() -> Judge:
        return parser.instantiate(options).judge

    def shown(starts: Sequence[int]) -> tqdm:
        return tqdm(starts, desc=f"{name} on {set_name}", unit="chunk", file=sys.stderr)

    file = args.work / name / f"{set_name}.jsonl"
    if set_name not in reports:
        reports[set_name] = make_report(options)
    scores = audit_pair(open_judge, reports[set_name], limit, file, setting, chunk, shown)
    return result_of(name, set_name, scores, args.alarm_f1)


def _write(out: Path, results: Sequence[Mapping[str, Any]], sets: Mapping[str, Any], command: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    audited = {name: given for name, given in sets.items() if any(r["set"] == name for r in results)}
    (out / "results.json").write_text(json.dumps({"command": command, "results": results}, indent=1) + "\n")
    (out / "table.md").write_text(markdown(results, audited, command))


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; ``given`` is kept for the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with mrben_math.json and the other files")
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml", help="judges and sets (default: %(default)s)")
    parser.add_argument("--judges", nargs="+", help="judges of the plan (all)")
    parser.add_argument("--sets", nargs="+", help="sets of the plan (all)")
    parser.add_argument("--option", action="append", default=[], help="NAME=OPTIONS: more options of a judge")
    parser.add_argument("--limit", type=int, help="most solutions of each set, a random sample (the plan's, or all)")
    parser.add_argument("--chunk", type=int, help="solutions judged at once (the plan's, or 64)")
    parser.add_argument("--alarm-f1", type=float, default=ALARM_F1, help="alarm below this F1 (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/judge_audit"), help="verdicts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "judge_audit", help="tables")
    args = parser.parse_args(given)
    for name in ("chunk", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}")
    args.given = list(given)
    return args


def main(given: Sequence[str] | None = None) -> None:
    """Run the command: a user error ends it with one line; ctrl-C keeps all complete chunks."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    bound_parsers()
    accept_by_methods()
    try:
        with one_line_errors():
            run(parse(sys.argv[1:] if given is None else given))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
