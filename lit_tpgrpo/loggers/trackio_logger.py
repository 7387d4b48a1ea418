"""TrackioLogger: a Lightning logger for trackio, Hugging Face's local experiment tracker."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_tpgrpo.errors import ConfigError


class TrackioLogger(Logger):
    """Log to trackio, in the manner of Lightning's ``WandbLogger``. See the results with ``trackio show``.

    Args:
        project: name of the project.
        name: of the run; by default trackio chooses one. A run of this name is continued.
        save_dir: of checkpoints and rounds; by default the trainer's ``default_root_dir``. trackio's own data is where its
            variable ``TRACKIO_DIR`` says.
        space_id: a Hugging Face Space that is logged to; by default everything stays on this machine.
        group: of related runs.

    Raises:
        ConfigError: trackio is not installed.
    """

    def __init__(
        self,
        project: str = "lightning_logs",
        name: str | None = None,
        save_dir: str | None = None,
        space_id: str | None = None,
        group: str | None = None,
    ) -> None:
        if find_spec("trackio") is None:
            raise ConfigError("TrackioLogger needs trackio: pip install trackio")
        super().__init__()
        self._project, self._name, self._save_dir, self._space_id, self._group = (
            project,
            name,
            save_dir,
            space_id,
            group,
        )
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``trackio.Run``, begun (or continued, after ``finalize``) when it is first asked for."""
        if self._run is None:
            import trackio  # pyright: ignore[reportMissingImports]

            self._run = trackio.init(
                self._project,
                name=self._name,
                space_id=self._space_id,
                group=self._group,
                resume="never" if self._name is None else "allow",
                embed=False,
            )
            self._name = self._run.name
        return self._run

    @property
    def name(self) -> str:
        """The project, as for ``WandbLogger``."""
        return self._project

    @property
    def version(self) -> str | None:
        """The name of the run; None before it is begun."""
        return self._name

    @property
    def save_dir(self) -> str | None:
        return self._save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Put settings into the run's config, which trackio stores with its next metrics."""
        run = self.experiment
        run.config.update(_flatten_dict(_convert_params(params)))
        run._config_logged = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Wait until all is written, and end the run; what is logged afterwards continues it."""
        if self._run is not None:
            self._run.finish()
            self._run = None
