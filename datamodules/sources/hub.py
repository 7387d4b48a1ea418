"""Problems from the Hugging Face Hub (or a local data set folder) by ``datasets.load_dataset``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.sources.presets import find_preset
from lit_tpgrpo.datamodules.sources.reading import RowSource
from lit_tpgrpo.errors import ConfigError, InputError

if TYPE_CHECKING:
    from datasets import Dataset


@checked_arguments()
class HubProblems(RowSource):
    """Problems from a data set on the Hub.

    ``HubProblems(preset="gsm8k", split="test")`` is enough for a known data set. Without network the local cache is used.

    Args:
        dataset: Hub id (``owner/name``) or a local folder of data files; null uses the preset's.
        subset: Configuration of the data set (``main`` of GSM8K); null uses the preset's, but only with the preset's data
            set: a copy elsewhere may have other names of subsets.
        split: Split to load; null uses the preset's, or ``train``.
        preset: Name of a known data set (``math500``, ``gsm8k``, ...).
        revision: Branch, tag or commit of the data set; give a commit to make the run reproducible.
        kwargs: Arguments of ``RowSource``: ``fields``, ``answer_form``, ``limit`` (the full split is downloaded even so),
            ...; uids begin with the data set's name if neither ``name`` nor ``preset`` is given.
    """

    def __init__(
        self,
        dataset: str | None = None,
        subset: str | None = None,
        split: str | None = None,
        preset: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        known = find_preset(preset) if preset is not None else None
        if dataset is None and known is not None:
            dataset, subset = known.hub_id, subset or known.subset
        if dataset is None:
            raise ConfigError("dataset: expected a Hub id such as openai/gsm8k, or a preset; got neither")
        self.dataset = dataset
        self.subset = subset
        self.split = split or (known.split if known is not None else "train")
        self.revision = revision
        super().__init__(preset=preset, **kwargs)

    def _default_name(self) -> str:
        return self.dataset.rstrip("/").rpartition("/")[2]

    def _rows(self) -> Iterator[tuple[str, Any]]:
        return ((f"row {number}", row) for number, row in enumerate(self._download(), start=1))

    def _described(self) -> str:
        subset = f", subset {self.subset}" if self.subset else ""
        return f"data set {self.dataset}{subset}, split {self.split}"

    def _download(self) -> Dataset:
        # Imported here: it takes a second, and most runs read files.
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        try:
            return load_dataset(self.dataset, self.subset, split=self.split, revision=self.revision)
        except ConnectionError as error:
            raise InputError(
                f"{self._described()}: expected it on the Hub or in the local cache, but the Hub cannot be reached "
                f"({error}). Download it on a machine with network access (hf download --repo-type dataset {self.dataset}) "
                f"and give the folder as dataset, or copy the cache here and set HF_HOME to it, or use FileProblems."
            ) from error
        except DatasetNotFoundError as error:
            raise InputError(
                f"{self._described()}: there is no such data set on the Hub, or it is private or gated ({error}). "
                f"Check the spelling; for a gated one accept its terms and run hf auth login."
            ) from error
        except (FileNotFoundError, DatasetsError) as error:
            raise InputError(f"{self._described()}: expected readable data files, but {error}") from error
        except (ValueError, RuntimeError) as error:
            # An unknown subset or split (datasets lists the known ones), or a data set that is a script.
            raise InputError(f"{self._described()}: it cannot be loaded: {error}") from error
