"""The command line's parser: one-line errors, a help page of this package's settings, and values passed on as typed."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
import jsonargparse._typehints
import yaml
from jsonargparse._util import NestedArg
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from lit_tpgrpo.cli.messages import one_line
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.yaml_files import read_yaml, yaml_fault

SHOWN = {"model": TPGRPOModule, "data": MathRolloutDataModule}
_WIDTH = 34


class OneLineParser(LightningArgumentParser):
    """Parser with one-line errors; ``--help`` of a subcommand shows this package's settings, ``--trainer.help`` all options."""

    configs: tuple[Path, ...] = ()  # config files on the command line
    keys: tuple[str, ...] = ()  # keys that they set, for suggestions

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # an inner parser, whose error becomes part of the outer parser's report
            super().error(message, ex)
        line = one_line(message, self._known_options(), OneLineParser.keys, OneLineParser.configs)
        self.exit(2, f"error: {line}\n")

    def _known_options(self) -> dict[str, list[str]]:
        """Return the options of all commands, and which commands have each."""
        parsers = {"": self}
        if self._subcommands_action is not None:
            parsers |= self._subcommands_action._name_parser_map
        options: dict[str, list[str]] = {}
        for command, parser in parsers.items():
            for option in parser._option_string_actions:
                options.setdefault(option, []).append(command)
        options.pop("--help", None)
        return dict(sorted(options.items()))

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        if "--trainer.max_steps" not in self._option_string_actions:  # the main parser, or one of a class
            return super().format_help(*args, **kwargs)
        return help_page(self.prog.split(" [options]")[0] + " " + self.prog.split()[-1], self.description or "")

    def format_all(self) -> str:
        """Return Lightning's help page, with every option of the Trainer."""
        return super().format_help()


class ShowAll(argparse.Action):
    """The action of ``--trainer.help``: print all options and exit."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        print(parser.format_all())
        parser.exit()


def help_page(command: str, description: str) -> str:
    """Return the help page: usage, and the settings of this package's module and DataModule with their defaults."""
    lines = [
        f"usage: {command} --config FILE [--config FILE ...] [--KEY VALUE ...]",
        "",
        description,
        "",
        *_row("--config FILE", "settings as YAML, e.g. configs/quickstart.yaml; later files override earlier ones"),
        *_row("--KEY VALUE", "override a setting, e.g. --data.credit.alpha 0.5; null for none"),
        *_row("--ckpt_path PATH", "a checkpoint or a run's folder"),
        *_row("--seed_everything N", "seed of everything random (default 0)"),
        *_row("--print_config", "print the resulting settings and exit"),
        *_row("--trainer.help", "print all options of Lightning's Trainer"),
        *_row(
            "--data.judge.help lit_tpgrpo.RuleJudge",
            "print the options of a component",
        ),
    ]
    for key, owner in SHOWN.items():
        lines += ["", f"{owner.__name__} (--{key}.help {owner.__name__} prints types):"]
        descriptions = documented(owner)
        for name, parameter in inspect.signature(owner).parameters.items():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                lines += _row(f"--{key}.{name} {_shown(parameter.default)}", descriptions.get(name, ""))
    return "\n".join(lines) + "\n"


def _row(left: str, right: str) -> list[str]:
    if len(left) >= _WIDTH:
        return [f"  {left}", f"  {'':{_WIDTH}}{right}"]
    return [f"  {left:{_WIDTH}}{right}"]


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    text = getattr(default, "__name__", None) or str(default)
    return text if len(text) <= 24 and "\n" not in text else "..."


def documented(owner: type) -> dict[str, str]:
    """Return the description of each argument, from the docstrings of a class and its bases."""
    descriptions: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if base not in (LightningModule, LightningDataModule) and base.__module__.startswith("lit_tpgrpo"):
            parsed = docstring_parser.parse(base.__doc__ or "")
            descriptions |= {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    return descriptions


# ---- pass values on as typed ----


_typehints: Any = jsonargparse._typehints


class _Typed(NestedArg):
    """The value of an option such as ``--data.val.preset null``, together with the text that was typed.

    jsonargparse (4.53) parses such a text at each class on the way to the setting and passes on the parsed value as text:
    ``null`` arrives as the text 'None' and ``007`` as 7.
    """

    text: str


def keep_text() -> None:
    """Make jsonargparse parse the typed text at each class on the way to a setting."""
    parse: Callable[..., Any] = _typehints.parse_value_or_config
    to_namespace: Callable[..., Any] = _typehints.subclass_spec_as_namespace
    if getattr(parse, "keeps_text", False):
        return

    def parse_value_or_config(value: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        parsed, path = parse(value, *args, **kwargs)
        if isinstance(value, NestedArg) and isinstance(value.val, str):
            kept = _Typed(parsed.key, parsed.val)
            kept.text = value.val
            parsed = kept
        return parsed, path

    def subclass_spec_as_namespace(val: Any, prev_val: Any = None) -> Any:
        if isinstance(val, _Typed):  # the arguments of this class are a mapping already, not text
            val = NestedArg(val.key, val.val if val.key == "init_args" else val.text)
        return to_namespace(val, prev_val)

    parse_value_or_config.keeps_text = True  # pyright: ignore[reportFunctionMemberAccess]
    _typehints.parse_value_or_config = parse_value_or_config
    _typehints.subclass_spec_as_namespace = subclass_spec_as_namespace


# ---- config files ----


def config_keys(path: Path) -> list[str]:
    """Return the keys of a config file as in options: ``data.credit.alpha``; none if it cannot be read."""
    try:
        content = read_yaml(path)
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return list(_keys(content, ""))


def _keys(content: Any, prefix: str) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else ():
        inner = prefix if key in ("init_args", "class_path") else f"{prefix}{key}."
        if inner != prefix:
            yield inner[:-1]
        yield from _keys(value, inner)


def config_fault(path: Path) -> str | None:
    """Return what is wrong with a config file as YAML; None if it is valid or does not exist."""
    try:
        content = read_yaml(path)
    except yaml.YAMLError as error:
        return yaml_fault(path, error)
    except UnicodeDecodeError:
        return f"{path} is not a text file"
    except OSError:
        return None  # the parser reports it
    if content is not None and not isinstance(content, dict):
        return f"{path} contains a {type(content).__name__}; expected keys and values, such as trainer: ..."
    return None
