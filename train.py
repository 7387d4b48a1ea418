"""The command line: ``python train.py fit|validate|test|predict --config FILE [--data.group_size 16 ...]``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_tpgrpo.callbacks import JudgedSolutionWriter
from lit_tpgrpo.checkpoints import usable_checkpoint
from lit_tpgrpo.errors import USERS_MISTAKES, first_among
from lit_tpgrpo.module import TPGRPOModule


class TPGRPOCLI(LightningCLI):
    """Lightning's CLI with the prediction writer always at hand.

    Settings come from the configs and the command line, never from the hyperparameters that a checkpoint holds. What the
    checkpoint brings back is the run's state: weights, the optimizer's moments, the learning rate schedule, counters,
    callbacks.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(JudgedSolutionWriter, "writer")

    def _parse_ckpt_path(self) -> None:
        """Leave settings alone: Lightning would put the checkpoint's over those given on the command line."""

    def before_instantiate_classes(self) -> None:
        """Look for the checkpoint first: Lightning does so after data and model are ready, and ends in a traceback."""
        settings = self.config[self.subcommand] if self.subcommand else self.config
        if (path := settings.get("ckpt_path")) is not None:
            settings["ckpt_path"] = found_checkpoint(str(path))
        if "weights_only" in settings and settings["weights_only"] is None:
            settings["weights_only"] = True  # ours hold nothing else, and others' may run code


# A misspelt option must be named, not taken for the abbreviation of another.
_WHOLE_NAMES = {"allow_abbrev": False}
SETTINGS = {
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "auto_configure_optimizers": False,
    "seed_everything_default": 0,
    "save_config_kwargs": {"overwrite": True},
    "parser_kwargs": _WHOLE_NAMES | dict.fromkeys(("fit", "validate", "test", "predict"), _WHOLE_NAMES),
}


def found_checkpoint(path: str) -> str:
    """A whole local checkpoint, see ``usable_checkpoint``; Lightning's own names and URLs are Lightning's to resolve.

    Raises:
        InputError: there is none at the path.
    """
    special = path in ("best", "last", "hpc") or path.lower() == "registry" or path.lower().startswith("registry:")
    if special or "://" in path or "::" in path:  # the last two: a URL, a chain of file systems
        return path
    return str(usable_checkpoint(Path(path).expanduser()))


def users_mistake(error: BaseException | None) -> str | None:
    """The message of a user's mistake among an error and its causes: the parser wraps what a class raises when built.

    Lightning's MisconfigurationException counts, put on one line: it says which trainer settings exclude one another.
    """
    found = first_among(error, (*USERS_MISTAKES, MisconfigurationException))
    if found is None:
        return None
    return " ".join(str(found).split()) if isinstance(found, MisconfigurationException) else str(found)


def hide_notices() -> None:
    """Hide what libraries print that is neither about the user's settings nor about the run."""
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Checkpoints hold the weights after the step on purpose: a resumed run goes on from there.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    advert = "Tip: For seamless cloud"
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: advert not in r.getMessage())


def main(args: list[str] | None = None) -> None:
    """Run one subcommand. A user's mistake ends in one line, not in a traceback."""
    hide_notices()
    try:
        TPGRPOCLI(TPGRPOModule, LightningDataModule, args=args, **SETTINGS)
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        sys.exit(f"error: {mistake}")


if __name__ == "__main__":
    main()
