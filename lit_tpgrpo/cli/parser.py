"""The parser of the command line: mistakes in one line, a help page of our settings, text that reaches its setting as typed."""

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
    """Ends with one line on a mistake; ``--help`` of a subcommand shows our settings, ``--trainer.help`` all options."""

    configs: tuple[Path, ...] = ()  # those that are given
    keys: tuple[str, ...] = ()  # what they set, for suggestions

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # an inner parser, of whose error the outer one makes its report
            super().error(message, ex)
        said = one_line(message, self._known_options(), OneLineParser.keys, OneLineParser.configs)
        self.exit(2, f"error: {said}\n")

    def _known_options(self) -> list[str]:
        parsers = [self]
        if self._subcommands_action is not None:
            parsers += self._subcommands_action._name_parser_map.values()
        return sorted({option for parser in parsers for option in parser._option_string_actions if option != "--help"})

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        if "--trainer.max_steps" not in self._option_string_actions:  # the main parser, or one of a class
            return super().format_help(*args, **kwargs)
        return help_page(self.prog.split(" [options]")[0] + " " + self.prog.split()[-1], self.description or "")

    def format_all(self) -> str:
        """Lightning's own page: every option of the Trainer."""
        return super().format_help()


class ShowAll(argparse.Action):
    """``--trainer.help``."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        print(parser.format_all())
        parser.exit()


def help_page(command: str, description: str) -> str:
    """What to give, and the settings of our module and DataModule with their defaults."""
    lines = [
        f"usage: {command} --config FILE [--config FILE ...] [--KEY VALUE ...]",
        "",
        description,
        "",
        *_row("--config FILE", "settings as YAML, e.g. configs/quickstart.yaml; later files override earlier ones"),
        *_row("--KEY VALUE", "any setting of them, e.g. --data.credit.alpha 0.5; null for none"),
        *_row("--ckpt_path PATH", "a checkpoint or a run's folder"),
        *_row("--seed_everything N", "seed of everything random (default 0)"),
        *_row("--print_config", "print the settings that result, and stop"),
        *_row("--trainer.help", "print all options of Lightning's Trainer"),
        *_row(
            "--data.help MathRolloutDataModule --data.judge.help lit_tpgrpo.judges.rule.RuleJudge",
            "print those of a part",
        ),
    ]
    for key, owner in SHOWN.items():
        lines += ["", f"{owner.__name__} (--{key}.help {owner.__name__} prints types):"]
        told = documented(owner)
        for name, parameter in inspect.signature(owner).parameters.items():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                lines += _row(f"--{key}.{name} {_shown(parameter.default)}", told.get(name, ""))
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
    """The description of each argument, from the docstrings of a class and its bases."""
    told: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if base not in (LightningModule, LightningDataModule) and base.__module__.startswith("lit_tpgrpo"):
            parsed = docstring_parser.parse(base.__doc__ or "")
            told |= {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    return told


# ---- text that reaches its setting as typed ----


_typehints: Any = jsonargparse._typehints


class _Typed(NestedArg):
    """A value of an option such as ``--data.val.preset null`` with the text that was typed.

    jsonargparse (4.53) reads such a text at each class on the way to the setting and hands on what it read, as a text again:
    ``null`` arrives as the text 'None' and ``007`` as 7.
    """

    text: str


def keep_text() -> None:
    """Have each class on the way to a setting read the text that was typed."""
    read: Callable[..., Any] = _typehints.parse_value_or_config
    hand_on: Callable[..., Any] = _typehints.subclass_spec_as_namespace
    if getattr(read, "keeps_text", False):
        return

    def parse_value_or_config(value: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        parsed, path = read(value, *args, **kwargs)
        if isinstance(value, NestedArg) and isinstance(value.val, str):
            kept = _Typed(parsed.key, parsed.val)
            kept.text = value.val
            parsed = kept
        return parsed, path

    def subclass_spec_as_namespace(val: Any, prev_val: Any = None) -> Any:
        if isinstance(val, _Typed):  # the arguments of this very class are a mapping, not the text of one
            val = NestedArg(val.key, val.val if val.key == "init_args" else val.text)
        return hand_on(val, prev_val)

    parse_value_or_config.keeps_text = True  # pyright: ignore[reportFunctionMemberAccess]
    _typehints.parse_value_or_config = parse_value_or_config
    _typehints.subclass_spec_as_namespace = subclass_spec_as_namespace


# ---- config files ----


def config_keys(path: Path) -> list[str]:
    """The settings of a config file as options name them: ``data.credit.alpha``."""
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
    """What is wrong with a config file as YAML, None where nothing is or it is not there."""
    try:
        content = read_yaml(path)
    except yaml.YAMLError as error:
        return yaml_fault(path, error)
    except UnicodeDecodeError:
        return f"{path} is not a text file"
    except OSError:
        return None  # the parser says it
    if content is not None and not isinstance(content, dict):
        return f"{path} holds a {type(content).__name__}; expected keys and values, such as trainer: ..."
    return None
