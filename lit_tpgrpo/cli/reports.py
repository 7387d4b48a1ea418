"""Parse jsonargparse's error reports, which are nested and cover every member of a union."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_UNKNOWN_NESTED = re.compile(r"unrecognized arguments: --(\w+)\.")  # --columns.prompt of a class without columns
_EXPECTED = re.compile(r"Expected (?:an? )?(.+?)\. Got value: (.*)")
LITERAL = re.compile(r"typing\.Literal\[[^\]]*\]")
_MEMBER = re.compile(r"Expected a member of <enum '\w+'>: \{(.*)\}")
_OF_TYPE = re.compile(r"Not of type \w+: Expected (.*) but got ")
_NO_ATTRIBUTE = re.compile(r"(?:module '[^']+' has no attribute|No module named) '")
_NO_IMPORT = re.compile(r"Expected a dot import path string: (.*)")
REQUIRED = re.compile(r"the following arguments are required: (.*)")
_NO_PROTOCOL = re.compile(r"Import path (?:(\S+) )?does not implement protocol (\w+)")


@dataclass
class ParserReport:
    """The contents of a nested error report of jsonargparse."""

    path: list[str] = field(default_factory=list)
    unknown: tuple[str, str, str] | None = None  # key it belongs to, option, class
    missing_class: tuple[str, str] | None = None  # key, class path
    required: tuple[str, str, str] | None = None  # key, class, its arguments that are not given
    misfit: tuple[str, str, str] | None = None  # key, path of the class (empty: as given), path of the protocol
    expected: tuple[str, str, str] | None = None  # key, type, value
    types: list[tuple[str, str]] = field(default_factory=list)  # key, type: the members of a union
    given: str = ""


def read_report(message: str) -> ParserReport:
    """Parse a report; the first error of each kind counts, since later ones concern other members of a union."""
    report = ParserReport()
    keys: list[tuple[int, str]] = []  # indentation and key
    owners: list[tuple[int, str]] = []
    members = ""  # types of the current union
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip())
        if match := re.search(r'Parser key "([^"]+)":', line):
            keys = [*((d, k) for d, k in keys if d < depth), (depth, match[1])]
            report.path = [k for _, k in keys]
        key = ".".join(k for d, k in keys if d <= depth)
        if match := re.search(r"Problem with given class_path '([^']+)'", line):
            owners = [*((d, o) for d, o in owners if d < depth), (depth, match[1])]
            keys = [(d, k) for d, k in keys if d <= depth]  # drop the keys of the previous member of the union
        owner = owners[-1][1] if owners else ""
        if match := _UNKNOWN.search(line):
            class_path = re.search(r"class_path='([^']+)'", line)  # an optimizer's class is named in the same line
            report.unknown = report.unknown or (key, match[1], class_path[1] if class_path else owner)
        elif owner and (match := _UNKNOWN_NESTED.search(line)):
            report.unknown = report.unknown or (key, match[1], owner)
        elif _NO_ATTRIBUTE.search(line):
            report.missing_class = report.missing_class or (key, _missing_path(line, owner))
        elif match := _NO_IMPORT.search(line):
            option = re.match(r"\s*(--\S+):", line)  # for --KEY.help
            report.missing_class = report.missing_class or (option[1] if option else key, match[1])
        elif match := REQUIRED.search(line):
            report.required = report.required or (key, owner, match[1])
        elif match := _NO_PROTOCOL.search(line):
            protocol = next(
                (m for m in re.findall(r"<class '([^']+)'>", members) if m.endswith(f".{match[2]}")), match[2]
            )
            report.misfit = report.misfit or (key, match[1] or "", protocol)
        elif match := _EXPECTED.search(line):
            report.expected = report.expected or (key, match[1], _value(match[2]))
        elif match := re.match(r"\s*Subtypes: \[(.*)\]$", line):
            members = match[1]
        elif match := re.search(r"Expected an? (<class '[^']+'>|typing\.Literal\[.*\])$", line):
            if match[1].startswith("<class") and match[1] not in members and "typing.Literal[" in members:
                report.types += [
                    (key, kind) for kind in LITERAL.findall(members)
                ]  # a Literal, named by its values' type
            else:
                report.types.append((key, match[1]))
        elif match := _MEMBER.search(line):
            report.types.append((key, f"typing.Literal[{', '.join(match[1].split(','))}]"))
        elif match := _OF_TYPE.search(line):
            report.types.append((key, match[1]))
        elif match := re.match(r"\s*Given value: (.*)", line):
            report.given = report.given or _value(match[1])
    return report


def _missing_path(line: str, owner: str) -> str:
    """Return the class path of a failed import: an optimizer's or schedule's is named in the line, others before it."""
    if "expects a function" not in line:
        return owner
    if match := re.search(r"Got value: (\S+)$", line):
        return match[1]
    if match := re.search(r"module '([^']+)' has no attribute '([^']+)'", line):
        return f"{match[1]}.{match[2]}"
    match = re.search(r"No module named '([^']+)'", line)
    return match[1] if match else owner


def _value(text: str) -> str:
    """Return only the value: an optimizer's is repeated with all its arguments."""
    return text.split(". Got value: Namespace(")[0]
