"""Problems from the Hugging Face Hub (or a local data set folder) by ``datasets.load_dataset``, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.sources.presets import find_preset
from lit_tpgrpo.datamodules.sources.reading import RowSource
from lit_tpgrpo.errors import ConfigError, InputError


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
        kwargs: Arguments of ``RowSource``: ``columns``, ``answer_form``, ``limit`` (the full split is downloaded even so),
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
        return ((f"row {number}", row) for number, row in enumerate(self._data(), start=1))

    def _data(self) -> Iterable[Any]:
        return self._load()

    def _described(self) -> str:
        subset = f", subset {self.subset}" if self.subset else ""
        return f"data set {self.dataset}{subset}, split {self.split}"

    def _load(self, **options: Any) -> Any:
        """Return what ``load_dataset`` returns."""
        # Imported here: it takes a second, and most runs read files.
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        try:
            return load_dataset(self.dataset, self.subset, split=self.split, revision=self.revision, **options)
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


@checked_arguments()
class StreamedProblems(HubProblems):
    """Problems from the beginning of a data set on the Hub that is too large to download: its rows are streamed.

    The first ``limit`` rows are read, after a shuffle if asked for, and no others. They are the same at each load and on each
    rank; give a ``revision`` to keep them the same when the data set changes.

    Args:
        limit: Rows to read.
        shuffle_buffer: Rows among which the next one is chosen at random: a shuffle of the whole stream would have to
            download it. The order of the data set's files is shuffled too. 0 takes the rows in their order.
        seed: Of the shuffle.
        kwargs: Arguments of ``HubProblems``: ``dataset``, ``subset``, ``split``, ``preset``, ``columns``, ...
    """

    def __init__(self, limit: int, shuffle_buffer: int = 0, seed: int = 0, **kwargs: Any) -> None:
        if shuffle_buffer < 0 or shuffle_buffer == 1:
            raise ConfigError(f"shuffle_buffer: expected at least 2 rows (0 for no shuffle), got {shuffle_buffer}")
        super().__init__(limit=limit, **kwargs)
        self.rows, self.shuffle_buffer, self.seed = limit, shuffle_buffer, seed

    def _described(self) -> str:
        return f"{super()._described()}, the first {self.rows} rows"

    def _data(self) -> Iterable[Any]:
        data = self._load(streaming=True)
        if self.shuffle_buffer:
            data = data.shuffle(seed=self.seed, buffer_size=self.shuffle_buffer)
        return data.take(self.rows)
