"""What the parser has to say in one line: the decisive part of its report, and the nearest name to a misspelt one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse._parameter_resolvers import get_signature_parameters

from lit_tpgrpo.cli.catalogue import nearest_path

_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_EXPECTED = re.compile(r"Expected (?:an? )?(.+?)\. Got value: (.*)")
_LITERAL = re.compile(r"typing\.Literal\[[^\]]*\]")
_MEMBER = re.compile(r"Expected a member of <enum '\w+'>: \{(.*)\}")
_OF_TYPE = re.compile(r"Not of type \w+: Expected (.*) but got ")
_NO_ATTRIBUTE = re.compile(r"(?:module '[^']+' has no attribute|No module named) '")
_NO_IMPORT = re.compile(r"Expected a dot import path string: (.*)")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (\S+)(.*)", re.DOTALL)
_NOT_IN_CONFIG = re.compile(r"Subcommand '[^']+' does not accept option '([^']+)'")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_NOT_SUBCOMMAND = re.compile(r"argument subcommand: invalid choice: '([^']+)'")
_EXAMPLES = {"lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR", "optimizer": "torch.optim.AdamW"}
_EMPTY_BASES = ("lightning.LightningDataModule", "lightning.Callback", "lightning.LightningModule")


@dataclass
class _Report:
    """What jsonargparse's nested report says, by the places in it."""

    path: list[str] = field(default_factory=list)
    unknown: tuple[str, str, str] | None = None  # key it belongs to, option, class
    missing_class: tuple[str, str] | None = None  # key, class path
    required: tuple[str, str, str] | None = None  # key, class, its arguments that are not given
    expected: tuple[str, str, str] | None = None  # key, type, value
    types: list[tuple[str, str]] = field(default_factory=list)  # key, type: the members of a union
    given: str = ""


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
    if found := _REQUIRED.fullmatch(message):
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
    report = _read(message)
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


def _known_elsewhere(report: _Report, key: str, option: str, owner: str) -> bool:
    """Whether only the base class in a union does not know an option, of which the class beside it says what it expects."""
    told = [report.expected[0]] if report.expected is not None else []
    return owner in _EMPTY_BASES and f"{key}.{option}" in [*told, *(at for at, _ in report.types)]


def _read(message: str) -> _Report:
    """Walk down the report; the first finding of each kind counts, for the later ones are of other members of a union."""
    report = _Report()
    keys: list[tuple[int, str]] = []  # indentation and key
    owners: list[tuple[int, str]] = []
    members = ""  # of the union that is being told
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip())
        if found := re.search(r'Parser key "([^"]+)":', line):
            keys = [*((d, k) for d, k in keys if d < depth), (depth, found[1])]
            report.path = [k for _, k in keys]
        key = ".".join(k for d, k in keys if d <= depth)
        if found := re.search(r"Problem with given class_path '([^']+)'", line):
            owners = [*((d, o) for d, o in owners if d < depth), (depth, found[1])]
            keys = [(d, k) for d, k in keys if d <= depth]  # those of the member of the union before are over
        owner = owners[-1][1] if owners else ""
        if found := _UNKNOWN.search(line):
            held = re.search(r"class_path='([^']+)'", line)  # an optimizer's is told in the same line
            report.unknown = report.unknown or (key, found[1], held[1] if held else owner)
        elif _NO_ATTRIBUTE.search(line):
            report.missing_class = report.missing_class or (key, _missing_path(line, owner))
        elif found := _NO_IMPORT.search(line):
            option = re.match(r"\s*(--\S+):", line)  # of a --KEY.help
            report.missing_class = report.missing_class or (option[1] if option else key, found[1])
        elif found := _REQUIRED.search(line):
            report.required = report.required or (key, owner, found[1])
        elif found := _EXPECTED.search(line):
            report.expected = report.expected or (key, found[1], _value(found[2]))
        elif found := re.match(r"\s*Subtypes: \[(.*)\]$", line):
            members = found[1]
        elif found := re.search(r"Expected an? (<class '[^']+'>|typing\.Literal\[.*\])$", line):
            if found[1].startswith("<class") and found[1] not in members and "typing.Literal[" in members:
                report.types += [(key, kind) for kind in _LITERAL.findall(members)]  # told by the type of its members
            else:
                report.types.append((key, found[1]))
        elif found := _MEMBER.search(line):
            report.types.append((key, f"typing.Literal[{', '.join(found[1].split(','))}]"))
        elif found := _OF_TYPE.search(line):
            report.types.append((key, found[1]))
        elif found := re.match(r"\s*Given value: (.*)", line):
            report.given = report.given or _value(found[1])
    return report


def refusal(report: str) -> str:
    """What a class said when it was built, without what the parser says of the other members of a union."""
    text = " ".join(report.split())
    _, _, errors = text.rpartition("Errors: - ")
    return re.split(r" - Expected an? | - Not a valid | Given value type: ", errors)[0] or text


def _missing_path(line: str, owner: str) -> str:
    """What a line on a failed import asked for: an optimizer's or schedule's class is told in it, others before."""
    if "expects a function" not in line:
        return owner
    if found := re.search(r"Got value: (\S+)$", line):
        return found[1]
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", line):
        return f"{found[1]}.{found[2]}"
    found = re.search(r"No module named '([^']+)'", line)
    return found[1] if found else owner


def _value(text: str) -> str:
    """The value alone: an optimizer's is told again with all of its arguments."""
    return text.split(". Got value: Namespace(")[0]


def _number_of(report: _Report, key: str) -> str:
    """The kinds of number among the members of a setting's union, '' where there are none."""
    kinds = [kind for at, kind in report.types if at == key and kind in ("<class 'int'>", "<class 'float'>")]
    return " or ".join(dict.fromkeys(_type_name(kind) for kind in kinds))


def _type_names(report: _Report, key: str) -> str:
    """The members of a setting's union; all values of its Literals as one list."""
    kinds = [kind for at, kind in report.types if at == key]
    values = [v for kind in kinds if _LITERAL.fullmatch(kind) for v in kind[len("typing.Literal[") : -1].split(", ")]
    names = [] if not values else ["one of " + ", ".join(dict.fromkeys(v.strip("'") for v in values))]
    return " or ".join(dict.fromkeys([*names, *(_type_name(k) for k in kinds if not _LITERAL.fullmatch(k))]))


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
