"""The command line: ``python train.py fit|validate|test|predict --config FILE [--data.group_size 16 ...]``."""

from __future__ import annotations

import sys

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_tpgrpo.callbacks import JudgedSolutionWriter
from lit_tpgrpo.errors import ConfigError, EmptyRoundError, InputError, NonFiniteLossError
from lit_tpgrpo.module import TPGRPOModule


class TPGRPOCLI(LightningCLI):
    """Lightning's CLI with the prediction writer always at hand, and the command line above any checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(JudgedSolutionWriter, "writer")

    def _parse_ckpt_path(self) -> None:
        """Leave settings alone: Lightning would put the checkpoint's over those given on the command line."""


def main(args: list[str] | None = None) -> None:
    """Run one subcommand. A user's mistake ends in one line, not in a traceback."""
    try:
        TPGRPOCLI(
            TPGRPOModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            args=args,
        )
    except (ConfigError, InputError, EmptyRoundError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
