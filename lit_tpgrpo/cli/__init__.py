"""The command line: ``python train.py fit|validate|test|predict --config FILE [--data.group_size 16 ...]``."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from lit_tpgrpo import notices  # first: it silences third-party import messages
from lit_tpgrpo.callbacks import EvaluationTable, JudgedSolutionWriter
from lit_tpgrpo.cli.messages import refusal
from lit_tpgrpo.cli.parser import SHOWN, OneLineParser, ShowAll, config_fault, config_keys, keep_text
from lit_tpgrpo.cli.resumed import resume_line
from lit_tpgrpo.cli.runs import follow_run, name_run, reserve_version, run_of
from lit_tpgrpo.distributed import end_process_group
from lit_tpgrpo.errors import ConfigError, InputError, StorageError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.protocol_check import accept_by_methods
from lit_tpgrpo.redaction import redacted
from lit_tpgrpo.rollout.run_folder import run_folder, set_run_folder
from lit_tpgrpo.training.checkpoints import check_checkpoint, check_contents, usable_checkpoint
from lit_tpgrpo.user_errors import in_our_code, one_line_errors, user_error
from lit_tpgrpo.yaml_files import bound_parsers

_ENVIRONMENT = re.compile(r"PL_((FIT|VALIDATE|TEST|PREDICT)(__.*)?|CONFIG|(TRAINER|MODEL|DATA)__.*)")


class SavedConfig(SaveConfigCallback):
    """Callback that writes the run's settings into its folder as ``config.yaml``, with API keys redacted."""

    def __init__(self, parser: LightningArgumentParser, config: Any, given: Any, **kwargs: Any) -> None:
        super().__init__(parser, given, overwrite=True, **kwargs)  # the user's settings, without the chosen folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = run_folder(trainer)
        if self.already_saved or not trainer.is_global_zero:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / self.config_filename
            self.parser.save(self.config, file, skip_none=False, overwrite=True)
            written = file.read_text(encoding="utf-8")
            if (clean := redacted(written)) != written:
                file.write_text(clean, encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"the settings cannot be written to {folder} ({error.strerror or error}); make it writable, or set the "
                "logger's save_dir or trainer.default_root_dir to another folder"
            ) from error
        self.already_saved = True


class TPGRPOCLI(LightningCLI):
    """Lightning's CLI with run folders, checked checkpoints and the writer of predictions.

    Settings come from the configs and the command line, never from the hyperparameters in a checkpoint. A checkpoint restores
    the run's state: weights, the optimizer's moments, the learning rate schedule, counters, callbacks.
    """

    reserved: Path | None = None  # version folder of a training run
    folder: Path | None = None  # folder of validate, test and predict without a logger

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(JudgedSolutionWriter, "writer")
        parser.add_lightning_class_args(EvaluationTable, "table")
        parser.add_argument("--trainer.help", action=ShowAll, help="Print all options of Lightning's Trainer and exit.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.given = list(sys.argv[1:] if args is None else args)
        OneLineParser.configs = tuple(config_files(self.given))
        OneLineParser.keys = tuple(key for path in OneLineParser.configs for key in config_keys(path))
        # Not super(), which warns if arguments are passed although sys.argv has some too.
        check_help(self.given)
        self.config = parser.parse_args(with_default_classes(self.given))

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would override the command line's settings by the checkpoint's."""

    def before_instantiate_classes(self) -> None:
        """Resolve the checkpoint, name the run and choose its folder, before anything is built.

        Lightning looks for the checkpoint only after data and model are built, and ends with a traceback.
        """
        settings, command = self.config, self.subcommand
        self.save_config_kwargs = {"given": settings}
        if command is None:  # the classes are built but nothing is run
            return
        settings = settings[command]
        if (path := settings.get("ckpt_path")) is not None:
            trusted = settings.get("weights_only") is False
            settings["ckpt_path"] = path = resolve_checkpoint(
                str(path), exact=None if command == "fit" else True, trusted=trusted
            )
        if "weights_only" in settings and settings["weights_only"] is None:
            settings["weights_only"] = True  # this package's checkpoints need no more, and others could run code
        if command == "test" and not any(arg.split("=")[0] == "--verbose" for arg in self.given):
            settings["verbose"] = False  # EvaluationTable shows the scores
        name_run(settings, config_files(self.given), self.given)
        self.save_config_kwargs = {"given": settings.clone()}
        if command == "fit":
            self.reserved = reserve_version(settings)
            if path is not None and rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]
                dumped = yaml.safe_load(self._parser(command).dump(self.save_config_kwargs["given"], skip_none=False))
                print(resume_line(path, run_of(path), dumped, self.reserved), file=sys.stderr)
        else:
            local = None if path is None or not Path(path).exists() else path
            self.folder = follow_run(settings, command, local)
            if path is None and rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]
                model = settings.model.get("init_args", {}).get("model", "the model")
                print(f"{command}: no --ckpt_path is given: using the weights of {model}, untrained", file=sys.stderr)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            self.remove_reserved()
            kinds = (ValueError, TypeError, ImportError, AttributeError)
            if user_error(error) is None and isinstance(error, kinds) and not in_our_code(error):
                raise ConfigError(f"the settings are invalid: {refusal(str(error))}") from error
            raise

    def after_instantiate_classes(self) -> None:
        if self.folder is not None and not self.trainer.loggers:
            set_run_folder(self.trainer, self.folder)

    def remove_reserved(self) -> None:
        """Remove the version folder that was reserved for a run that could not start."""
        if self.reserved is not None:
            with contextlib.suppress(OSError):  # it is not empty
                self.reserved.rmdir()
                self.reserved.parent.rmdir()


# Report a misspelt option instead of taking it for an abbreviation of another one.
_NO_ABBREVIATIONS = {"allow_abbrev": False}
SETTINGS = {
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "auto_configure_optimizers": False,
    "seed_everything_default": 0,
    "save_config_callback": SavedConfig,
    "parser_class": OneLineParser,
    "parser_kwargs": _NO_ABBREVIATIONS | dict.fromkeys(("fit", "validate", "test", "predict"), _NO_ABBREVIATIONS),
}


def with_default_classes(args: Sequence[str]) -> list[str]:
    """Add this package's class where help is asked of ``data``, ``model`` or a part of them and none is named."""
    completed = []
    for index, arg in enumerate(args):
        part = arg.removeprefix("--").removesuffix(".help") if arg.endswith(".help") else ""
        whole = part.split(".")[0]
        owner = SHOWN.get(whole)
        named = config_files(args) or any(a.split("=")[0] in (f"--{whole}", f"--{whole}.help") for a in args)
        if owner is not None and part not in SHOWN and not named:
            completed += [f"--{whole}", f"{owner.__module__}.{owner.__name__}"]
        completed.append(arg)
        if owner is not None and part in SHOWN and _lacks_value(args, index):
            completed.append(f"{owner.__module__}.{owner.__name__}")
    return completed


_HELP_EXAMPLES = {
    "data.credit": "lit_tpgrpo.ThoughtCredit",
    "data.engine": "lit_tpgrpo.HFEngine",
    "data.format": "lit_tpgrpo.ThinkTags",
    "data.judge": "lit_tpgrpo.RuleJudge",
    "data.verifier": "lit_tpgrpo.MathVerifier",
    "model.loss": "lit_tpgrpo.ClippedSurrogate",
    "model.lr_scheduler": "lit_tpgrpo.training.schedules.TransformersLR",
    "model.optimizer": "torch.optim.AdamW",
    "trainer.callbacks": "lit_tpgrpo.MathEvaluation",
    "trainer.logger": "lightning.pytorch.loggers.TensorBoardLogger",
}


def check_help(args: Sequence[str]) -> None:
    """Check that ``--data.judge.help`` and the like name the class whose options they print.

    Raises:
        ConfigError: one does not.
    """
    for index, arg in enumerate(args):
        part = arg.removeprefix("--").removesuffix(".help")
        asks = arg.startswith("--") and arg.endswith(".help") and "." in part
        if asks and _lacks_value(args, index):
            example = _HELP_EXAMPLES.get(part, "package.module.Class")
            raise ConfigError(f"{arg} needs the class whose options it prints, e.g. {arg} {example}")


def _lacks_value(args: Sequence[str], index: int) -> bool:
    return index + 1 == len(args) or args[index + 1].startswith("-")


def config_files(args: Sequence[str]) -> list[Path]:
    """Return the config files on the command line, in order."""
    files = []
    for index, arg in enumerate(args):
        name, _, value = arg.partition("=")
        if name in ("--config", "-c"):
            files += [value] if value else list(args[index + 1 : index + 2])
    return [Path(file) for file in files]


def check_configs(args: Sequence[str]) -> None:
    """Check that all config files can be read as YAML.

    Raises:
        InputError: one cannot; the message names its file and line.
    """
    for path in config_files(args):
        if (fault := config_fault(path)) is not None:
            raise InputError(f"the config cannot be read: {fault}")


def resolve_checkpoint(path: str, exact: bool | None = None, trusted: bool = False) -> str:
    """Return the path of a complete local checkpoint, see ``usable_checkpoint``; leave Lightning's names and URLs unchanged.

    Args:
        path: as on the command line.
        exact: see ``usable_checkpoint``.
        trusted: whether it may contain objects other than tensors and plain values.

    Raises:
        InputError: there is no checkpoint at the path; it is damaged; it could run code; or the path is ``best`` or ``last``.
            Lightning looks for these in the folder of the current run, which is always new: with ``last`` it would silently
            start from the initial weights.
    """
    if path in ("best", "last"):
        why = {
            "best": "only the process that trained knows which one that is",
            "last": "each run has a new folder, which has no checkpoint yet",
        }
        raise InputError(
            f"--ckpt_path {path}: {why[path]}; give the checkpoint itself, or the run's folder for its newest one"
        )
    special = path == "hpc" or path.lower() == "registry" or path.lower().startswith("registry:")
    if special or "://" in path or "::" in path:  # the last two: a URL, a chain of file systems
        return path
    checkpoint = usable_checkpoint(Path(path).expanduser(), exact)
    check_checkpoint(checkpoint, weights_only=not trusted)
    check_contents(checkpoint)
    return str(checkpoint)


def ignored_environment() -> list[str]:
    """Return the environment variables that look like settings of Lightning's CLI, which are not read here."""
    return sorted(name for name in os.environ if _ENVIRONMENT.fullmatch(name))


def main(args: list[str] | None = None) -> None:
    """Run one subcommand; a user error ends it with one line, not a traceback."""
    notices.hide_notices()
    keep_text()
    accept_by_methods()
    bound_parsers()
    given = list(sys.argv[1:] if args is None else args)
    if ignored := ignored_environment():
        print(
            f"{', '.join(ignored)}: settings are not read from the environment; use --config and options",
            file=sys.stderr,
        )
    with one_line_errors():
        check_configs(given)
        TPGRPOCLI(TPGRPOModule, LightningDataModule, args=args, **SETTINGS)
    end_process_group()
