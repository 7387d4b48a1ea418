"""Reading jsonargparse's report of a mistake, which is nested and tells of every member of a union."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_EXPECTED = re.compile(r"Expected (?:an? )?(.+?)\. Got value: (.*)")
LITERAL = re.compile(r"typing\.Literal\[[^\]]*\]")
_MEMBER = re.compile(r"Expected a member of <enum '\w+'>: \{(.*)\}")
_OF_TYPE = re.compile(r"Not of type \w+: Expected (.*) but got ")
_NO_ATTRIBUTE = re.compile(r"(?:module '[^']+' has no attribute|No module named) '")
_NO_IMPORT = re.compile(r"Expected a dot import path string: (.*)")
REQUIRED = re.compile(r"the following arguments are required: (.*)")
_NO_PROTOCOL = re.compile(r"Import path (?:(\S+) )?does not implement protocol (\w+)")


@dataclass
class Report:
    """What jsonargparse's nested report says, by the places in it."""

    path: list[str] = field(default_factory=list)
    unknown: tuple[str, str, str] | None = None  # key it belongs to, option, class
    missing_class: tuple[str, str] | None = None  # key, class path
    required: tuple[str, str, str] | None = None  # key, class, its arguments that are not given
    misfit: tuple[str, str, str] | None = None  # key, path of the class (empty: as given), path of the protocol
    expected: tuple[str, str, str] | None = None  # key, type, value
    types: list[tuple[str, str]] = field(default_factory=list)  # key, type: the members of a union
    given: str = ""


def read_report(message: str) -> Report:
    """Walk down the report; the first finding of each kind counts, for the later ones are of other members of a union."""
    report = Report()
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
        elif found := REQUIRED.search(line):
            report.required = report.required or (key, owner, found[1])
        elif found := _NO_PROTOCOL.search(line):
            protocol = next(
                (m for m in re.findall(r"<class '([^']+)'>", members) if m.endswith(f".{found[2]}")), found[2]
            )
            report.misfit = report.misfit or (key, found[1] or "", protocol)
        elif found := _EXPECTED.search(line):
            report.expected = report.expected or (key, found[1], _value(found[2]))
        elif found := re.match(r"\s*Subtypes: \[(.*)\]$", line):
            members = found[1]
        elif found := re.search(r"Expected an? (<class '[^']+'>|typing\.Literal\[.*\])$", line):
            if found[1].startswith("<class") and found[1] not in members and "typing.Literal[" in members:
                report.types += [(key, kind) for kind in LITERAL.findall(members)]  # told by the type of its members
            else:
                report.types.append((key, found[1]))
        elif found := _MEMBER.search(line):
            report.types.append((key, f"typing.Literal[{', '.join(found[1].split(','))}]"))
        elif found := _OF_TYPE.search(line):
            report.types.append((key, found[1]))
        elif found := re.match(r"\s*Given value: (.*)", line):
            report.given = report.given or _value(found[1])
    return report


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
