"""Reduce the parser's error report to one line, with the nearest name to a misspelt one."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jsonargparse._parameter_resolvers import get_signature_parameters

from lit_tpgrpo.cli.catalogue import nearest_path
from lit_tpgrpo.cli.reports import LITERAL, REQUIRED, ParserReport, read_report
from lit_tpgrpo.protocol_check import import_error, import_from_path, misfit_of_paths

_UNRECOGNIZED = re.compile(r"unrecognized arguments: (\S+)(.*)", re.DOTALL)
_NOT_IN_CONFIG = re.compile(r"Subcommand '[^']+' does not accept option '([^']+)'")
_NOT_SUBCOMMAND = re.compile(r"argument subcommand: invalid choice: '([^']+)'")
_EXAMPLES = {"lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR", "optimizer": "torch.optim.AdamW"}
_INNER = re.compile(r"\w+\(key='(.*?)', val=.*\)")  # a value for an argument of a setting that takes none
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_EMPTY_BASES = ("lightning.LightningDataModule", "lightning.Callback", "lightning.LightningModule")


def one_line(
    message: str,
    options: Mapping[str, Sequence[str]] = MappingProxyType({}),
    keys: Collection[str] = (),
    configs: Sequence[Path] = (),
) -> str:
    """Return the one line of an error report of jsonargparse that explains the error.

    Args:
        message: the report, as passed to the parser's ``error``.
        options: options of the command line, with their dashes, and the commands that have each.
        keys: keys that the configs set, e.g. ``data.credit.alpha``, for suggestions.
        configs: the config files on the command line.
    """
    if match := _UNRECOGNIZED.match(message):
        return _unrecognized(match[1], options)
    if match := _NOT_IN_CONFIG.search(message):
        return f"unknown key {match[1]} in a config{_near_option(match[1], options, dashes='')}"
    if match := _NOT_SUBCOMMAND.search(message):
        choices = ("fit", "validate", "test", "predict")
        return f"unknown command {match[1]!r}{_suggestion(match[1], choices)}; it is one of {', '.join(choices)}"
    if 'expected "subcommand"' in message:
        return "give a command: fit, validate, test or predict, and a config, e.g. fit --config configs/quickstart.yaml"
    if match := REQUIRED.fullmatch(message):
        return _without_base(match[1], configs)
    return _nested(message, keys)


def _near_option(name: str, options: Mapping[str, Sequence[str]], dashes: str) -> str:
    """Return the end of the message about an unknown option or key: the nearest one, or the commands that have it.

    Args:
        name: as given.
        options: with their dashes, and the commands that have each.
        dashes: in front of the name, "" in a config.
    """
    commands = {option.removeprefix("--"): known for option, known in options.items()}
    plain = name.removeprefix("--")
    if plain in commands:
        return f": it belongs to the command {' and '.join(commands[plain])}"
    top = {key.split(".")[0] for key in commands}
    first, dot, rest = plain.partition(".")
    if dot and first not in top:  # the settings below a misspelt model or data are those of a class
        near = difflib.get_close_matches(first, sorted(top), n=1, cutoff=0.6)
        return f"; did you mean {dashes}{near[0]}.{rest}?" if near else ""
    return _suggestion(plain, commands, dashes)


def _unrecognized(given: str, options: Mapping[str, Sequence[str]]) -> str:
    if not given.startswith("-"):
        return f"unexpected argument {given!r}: settings are given as --key value, e.g. --data.group_size 16"
    name = given.split("=")[0]
    return f"unknown option {name}{_near_option(name, options, dashes='--')}"


def _without_base(missing: str, configs: Sequence[Path]) -> str:
    """Return the message for settings without model or data, such as an overlay config without the config it changes."""
    what = " and ".join(sorted((name.rpartition(".")[2] for name in missing.split(", ")), reverse=True))
    example = "--config configs/quickstart.yaml"
    if not configs:
        return f"no {what} {'are' if ' and ' in what else 'is'} given: give a config, e.g. {example}"
    given = " ".join(f"--config {path}" for path in configs)
    return f"{configs[-1]} gives no {what}: it changes another config, which goes before it, e.g. {example} {given}"


def _nested(message: str, keys: Collection[str]) -> str:
    """Return the message for a nested report about one setting."""
    report = read_report(message)
    if report.unknown is not None and not _known_elsewhere(report, *report.unknown):
        key, option, owner = report.unknown
        if owner in _EMPTY_BASES:
            return (
                f"{key}.{option}: no class is given for {key}; give a config first, e.g. --config configs/quickstart.yaml, or "
                f"--{key} and the path of a class"
            )
        if owner.startswith("typing."):  # the annotation instead of a class
            example = _EXAMPLES.get(key.rpartition(".")[2])
            return f"{key}.{option}: no class is given for {key}; give --{key} and the path of one first" + (
                f", e.g. {example}" if example else ""
            )
        if option in (moved := _class_attribute(owner, "MOVED_ARGUMENTS")):
            part = f"{key}.{moved[option][0]}"
            return f"unknown option {key}.{option}: it is now {part}.{option}, an argument of {part}"
        if now := _class_attribute(owner, "RENAMED_ARGUMENTS").get(option):
            return f"{key}.{option} is now {key}.{now}"
        names = _parameters(owner)
        deeper = [k for k in keys if k.startswith(f"{key}.") and k.endswith(f".{option}")]
        near = _suggestion(option, names) or (f"; did you mean {deeper[0]}?" if deeper else "")
        near = near or (f"; it has {', '.join(names)}" if names else "")
        return f"unknown option {key}.{option}: {owner.split('.')[-1]} has no {option!r}{near}"
    if report.missing_class is not None and (kind := _number_of(report, report.missing_class[0])):
        return f"{report.missing_class[0]}: expected {kind}, got {report.given}"  # e.g. a union of float and Tensor
    if report.missing_class is not None and not _is_misspelt_choice(report, *report.missing_class):
        key, path = report.missing_class
        path = report.given if report.given.startswith(f"{path}.") else path
        if error := import_error(path):
            return f"{key}: {error}"
        return f"{key}: there is no class or file {path}{_class_suggestion(path)}"
    if report.misfit is not None:
        key, given, protocol = report.misfit
        given = given or report.given
        why = misfit_of_paths(given, protocol)
        return f"{key}: {given} is not a {protocol}" + (f": {why}" if why else "")
    if report.required is not None:
        key, owner, names = report.required
        name = names.split(", ")[0]
        return f"{key}: {owner.split('.')[-1]} needs {names}; give --{key}.{name}, or list a config that sets it first"
    if report.expected is not None:
        key, kind, value = report.expected
        if match := _INNER.fullmatch(value):
            return f"unknown option {key}.{match[1]}: {key} is {_type_name(kind)}"
        return f"{key}: expected {_type_name(kind)}, got {value}"
    if match := _INNER.fullmatch(report.given):
        key = ".".join(report.path)
        return f"{key}.{match[1]}: no class is given for {key}; give --{key} and the path of a class first"
    if report.types:
        key = max((key for key, _ in report.types), key=len)  # the types of an outer key say nothing about this value
        if _CLASS_PATH.fullmatch(report.given) and (error := import_error(report.given)):
            return f"{key}: {error}"
        return f"{key}: expected {_type_names(report, key)}, got {report.given}"
    return " ".join(message.replace('Parser key "config":', "config:").split())


def _is_misspelt_choice(report: ParserReport, key: str, path: str) -> bool:
    """Return whether a setting that takes names or an import path was given neither: one word that is no name."""
    return "." not in path and any(at == key and LITERAL.fullmatch(kind) for at, kind in report.types)


def _known_elsewhere(report: ParserReport, key: str, option: str, owner: str) -> bool:
    """Return whether an option is unknown only to the base class of a union, while another member reports its expected type."""
    expected = [report.expected[0]] if report.expected is not None else []
    return owner in _EMPTY_BASES and f"{key}.{option}" in [*expected, *(typed_key for typed_key, _ in report.types)]


def refusal(report: str) -> str:
    """Return the error that a class raised when it was built, without the parser's text on other members of a union."""
    text = " ".join(report.split())
    _, _, errors = text.rpartition("Errors: - ")
    return re.split(r" - Expected an? | - Not a valid | Given value type: ", errors)[0] or text


def _number_of(report: ParserReport, key: str) -> str:
    """Return the names of the number types in a setting's union, "" if there are none."""
    kinds = [kind for typed, kind in report.types if typed == key and kind in ("<class 'int'>", "<class 'float'>")]
    return " or ".join(dict.fromkeys(_type_name(kind) for kind in kinds))


def _type_names(report: ParserReport, key: str) -> str:
    """Return the names of the types in a setting's union, with all values of its Literals as one list."""
    kinds = [kind for typed, kind in report.types if typed == key]
    values = [v for kind in kinds if LITERAL.fullmatch(kind) for v in kind[len("typing.Literal[") : -1].split(", ")]
    names = [] if not values else ["one of " + ", ".join(dict.fromkeys(v.strip("'") for v in values))]
    return " or ".join(dict.fromkeys([*names, *(_type_name(k) for k in kinds if not LITERAL.fullmatch(k))]))


def _type_name(kind: str) -> str:
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return "one of " + match[1].replace("'", "")
    if match := re.fullmatch(r"<class '([^']+)'>", kind):
        return {"NoneType": "null", "int": "a whole number", "float": "a number"}.get(match[1], match[1])
    return kind


def _suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _class_suggestion(path: str) -> str:
    """Suggest the nearest class name in the same module, or else among all classes for settings."""
    module, _, name = path.rpartition(".")
    if near := _suggestion(name, _classes(module), module + ".") if module else "":
        return near
    if (known := nearest_path(path)) is not None:
        return f"; did you mean {known}?"
    if not module:
        return "; give its full path, such as package.module.Class"
    top = module.partition(".")[0]
    missing = top.isidentifier() and importlib.util.find_spec(top) is None
    return f": no module {top} is beside train.py or on PYTHONPATH" if missing else ""


def _parameters(path: str) -> list[str]:
    """Return the names of a class's arguments, including those passed on to its bases; none if it cannot be imported."""
    try:
        return [p.name for p in get_signature_parameters(import_from_path(path))]
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _class_attribute(path: str, attribute: str) -> Mapping[str, Any]:
    """Return a table of a class's former arguments (moved or renamed), see ``checked_arguments``; {} if it has none."""
    module, _, name = path.rpartition(".")
    return getattr(getattr(sys.modules.get(module), name, None), attribute, {})


def _classes(module: str) -> list[str]:
    try:
        imported = importlib.import_module(module)
    except ImportError:
        return []
    published: Sequence[str] = getattr(imported, "__all__", ())  # not in vars() where it is imported on first access
    return [*published, *(name for name, value in vars(imported).items() if inspect.isclass(value))]
