"""What the parser has to say in one line: the decisive part of its report, and the nearest name to a misspelt one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from jsonargparse._parameter_resolvers import get_signature_parameters

from lit_tpgrpo.cli.catalogue import nearest_path
from lit_tpgrpo.cli.reports import LITERAL, REQUIRED, Report, read_report
from lit_tpgrpo.protocol_check import misfit_of_paths

_UNRECOGNIZED = re.compile(r"unrecognized arguments: (\S+)(.*)", re.DOTALL)
_NOT_IN_CONFIG = re.compile(r"Subcommand '[^']+' does not accept option '([^']+)'")
_NOT_SUBCOMMAND = re.compile(r"argument subcommand: invalid choice: '([^']+)'")
_EXAMPLES = {"lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR", "optimizer": "torch.optim.AdamW"}
_EMPTY_BASES = ("lightning.LightningDataModule", "lightning.Callback", "lightning.LightningModule")


def one_line(
    message: str, options: Collection[str] = (), keys: Collection[str] = (), configs: Sequence[Path] = ()
) -> str:
    """The decisive line of a report of jsonargparse.

    Args:
        message: as its parser's ``error`` gets it.
        options: that the command line has, with their dashes, for suggestions.
        keys: that the configs set, e.g. ``data.credit.alpha``, for suggestions too.
        configs: the config files that were given.
    """
    if found := _UNRECOGNIZED.match(message):
        return _unrecognized(found[1], options)
    if found := _NOT_IN_CONFIG.search(message):
        keys = [option.removeprefix("--") for option in options]
        return f"unknown key {found[1]} in a config{_suggestion(found[1], keys)}"
    if found := _NOT_SUBCOMMAND.search(message):
        choices = ("fit", "validate", "test", "predict")
        return f"unknown command {found[1]!r}{_suggestion(found[1], choices)}; it is one of {', '.join(choices)}"
    if 'expected "subcommand"' in message:
        return "give a command: fit, validate, test or predict, and a config, e.g. fit --config configs/quickstart.yaml"
    if found := REQUIRED.fullmatch(message):
        return _without_base(found[1], configs)
    return _nested(message, keys)


def _unrecognized(given: str, options: Collection[str]) -> str:
    if not given.startswith("-"):
        return f"unexpected argument {given!r}: settings are given as --key value, e.g. --data.group_size 16"
    name = given.split("=")[0]
    return f"unknown option {name}{_suggestion(name, options)}"


def _without_base(missing: str, configs: Sequence[Path]) -> str:
    """Of settings without a model or without data, as those of a config are that changes another one."""
    what = " and ".join(sorted((name.rpartition(".")[2] for name in missing.split(", ")), reverse=True))
    example = "--config configs/quickstart.yaml"
    if not configs:
        return f"no {what} {'are' if ' and ' in what else 'is'} given: give a config, e.g. {example}"
    given = " ".join(f"--config {path}" for path in configs)
    return f"{configs[-1]} gives no {what}: it changes another config, which goes before it, e.g. {example} {given}"


def _nested(message: str, keys: Collection[str]) -> str:
    report = read_report(message)
    if report.unknown is not None and not _known_elsewhere(report, *report.unknown):
        key, option, owner = report.unknown
        if owner in _EMPTY_BASES:
            return (
                f"{key}.{option}: no class is given for {key}; give a config first, e.g. --config configs/quickstart.yaml, or "
                f"--{key} and the path of a class"
            )
        if owner.startswith("typing."):  # of the annotation, in place of a class
            example = _EXAMPLES.get(key.rpartition(".")[2])
            return f"{key}.{option}: no class is given for {key}; give --{key} and the path of one first" + (
                f", e.g. {example}" if example else ""
            )
        names = _parameters(owner)
        deeper = [k for k in keys if k.startswith(f"{key}.") and k.endswith(f".{option}")]
        near = _suggestion(option, names) or (f"; did you mean {deeper[0]}?" if deeper else "")
        near = near or (f"; it has {', '.join(names)}" if names else "")
        return f"unknown option {key}.{option}: {owner.split('.')[-1]} has no {option!r}{near}"
    if report.missing_class is not None and (kind := _number_of(report, report.missing_class[0])):
        return f"{report.missing_class[0]}: expected {kind}, got {report.given}"  # a float or a Tensor, say
    if report.missing_class is not None:
        key, path = report.missing_class
        path = report.given if report.given.startswith(f"{path}.") else path
        return f"{key}: there is no class or file {path}{_class_suggestion(path)}"
    if report.misfit is not None:
        key, given, protocol = report.misfit
        given = given or report.given
        why = misfit_of_paths(given, protocol)
        return f"{key}: {given} is no {protocol}" + (f": {why}" if why else "")
    if report.required is not None:
        key, owner, names = report.required
        name = names.split(", ")[0]
        return f"{key}: {owner.split('.')[-1]} needs {names}; give --{key}.{name}, or a config that sets it before the others"
    if report.expected is not None:
        key, kind, value = report.expected
        return f"{key}: expected {_type_name(kind)}, got {value}"
    if found := re.fullmatch(r"\w+\(key='(.*?)', val=.*\)", report.given):
        key = ".".join(report.path)
        return f"{key}.{found[1]}: no class is given for {key}; give --{key} and the path of a class first"
    if report.types:
        key = max((key for key, _ in report.types), key=len)  # an outer one's members say nothing of the value
        return f"{key}: expected {_type_names(report, key)}, got {report.given}"
    return " ".join(message.replace('Parser key "config":', "config:").split())


def _known_elsewhere(report: Report, key: str, option: str, owner: str) -> bool:
    """Whether only the base class in a union does not know an option, of which the class beside it says what it expects."""
    told = [report.expected[0]] if report.expected is not None else []
    return owner in _EMPTY_BASES and f"{key}.{option}" in [*told, *(at for at, _ in report.types)]


def refusal(report: str) -> str:
    """What a class said when it was built, without what the parser says of the other members of a union."""
    text = " ".join(report.split())
    _, _, errors = text.rpartition("Errors: - ")
    return re.split(r" - Expected an? | - Not a valid | Given value type: ", errors)[0] or text


def _number_of(report: Report, key: str) -> str:
    """The kinds of number among the members of a setting's union, '' where there are none."""
    kinds = [kind for at, kind in report.types if at == key and kind in ("<class 'int'>", "<class 'float'>")]
    return " or ".join(dict.fromkeys(_type_name(kind) for kind in kinds))


def _type_names(report: Report, key: str) -> str:
    """The members of a setting's union; all values of its Literals as one list."""
    kinds = [kind for at, kind in report.types if at == key]
    values = [v for kind in kinds if LITERAL.fullmatch(kind) for v in kind[len("typing.Literal[") : -1].split(", ")]
    names = [] if not values else ["one of " + ", ".join(dict.fromkeys(v.strip("'") for v in values))]
    return " or ".join(dict.fromkeys([*names, *(_type_name(k) for k in kinds if not LITERAL.fullmatch(k))]))


def _type_name(kind: str) -> str:
    if found := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return "one of " + found[1].replace("'", "")
    if found := re.fullmatch(r"<class '([^']+)'>", kind):
        return {"NoneType": "null", "int": "a whole number", "float": "a number"}.get(found[1], found[1])
    return kind


def _suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _class_suggestion(path: str) -> str:
    """The nearest class of its own module, else of all that settings may name."""
    module, _, name = path.rpartition(".")
    if near := _suggestion(name, _classes(module), module + ".") if module else "":
        return near
    if (known := nearest_path(path)) is not None:
        return f"; did you mean {known}?"
    return "" if module else "; give its whole path, such as package.module.Class"


def _parameters(path: str) -> list[str]:
    """The arguments of a class, those that it hands on to its bases too; none where it cannot be imported."""
    module, _, name = path.rpartition(".")
    try:
        return [p.name for p in get_signature_parameters(getattr(importlib.import_module(module), name))]
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _classes(module: str) -> list[str]:
    try:
        found = importlib.import_module(module)
    except ImportError:
        return []
    return [name for name, value in vars(found).items() if inspect.isclass(value)]
