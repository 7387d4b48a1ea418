"""Problems from the Hugging Face Hub (or a local data set folder) by ``datasets.load_dataset``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.sources.base import Fields
from lit_tpgrpo.datamodules.sources.presets import find_preset
from lit_tpgrpo.datamodules.sources.reading import OnDuplicate, OnMalformed, RowSource, resolve_format
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.text.answers import AnswerForm

if TYPE_CHECKING:
    from datasets import Dataset


@checked_arguments()
class HubProblems(RowSource):
    """Problems from a data set on the Hub.

    ``HubProblems(preset="gsm8k", split="test")`` is enough for a known set. Without network the local cache is used.

    Args:
        dataset: Hub id (``owner/name``) or a local folder of data files. By default the preset's.
        subset: Configuration of the data set (``main`` of GSM8K). By default the preset's, where its own data set is
            read: a copy elsewhere may name its subsets otherwise.
        split: By default the preset's, or ``train``.
        preset: Name of a known data set (``math500``, ``gsm8k``, ...).
        fields: Which column holds what, in place of the preset's.
        answer_form: How the answer is written (one form, or one for each answer column), in place of the preset's.
        strip_suffixes: Texts to take off the end of each prompt, in place of the preset's.
        on_malformed: ``stop`` raises with a list of the malformed rows, ``skip`` warns and leaves them out.
        limit: Take only the first so many problems (the whole split is downloaded all the same).
        revision: Branch, tag or commit of the data set; name a commit for a run that others can repeat.
        name: What uids begin with and ``Problem.source`` says; the preset's or the data set's name by default.
        on_duplicate: what becomes of a statement that an earlier row has: ``keep`` it, with a warning that counts them;
            ``drop`` it, with the same warning; ``stop`` with an error.
    """

    def __init__(
        self,
        dataset: str | None = None,
        subset: str | None = None,
        split: str | None = None,
        preset: str | None = None,
        fields: Fields | None = None,
        answer_form: AnswerForm | dict[str, AnswerForm] | None = None,
        strip_suffixes: Sequence[str] | None = None,
        on_malformed: OnMalformed = "stop",
        limit: int | None = None,
        revision: str | None = None,
        name: str | None = None,
        on_duplicate: OnDuplicate = "keep",
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
        row_format = resolve_format(preset, fields, answer_form, strip_suffixes)
        stem = name or preset or dataset.rstrip("/").rpartition("/")[2]
        super().__init__(stem, row_format, on_malformed, limit, on_duplicate)

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
                f"({error}). Download it where there is a network (hf download --repo-type dataset {self.dataset}) and "
                f"name the folder as dataset, or copy the cache here and set HF_HOME to it, or use FileProblems."
            ) from error
        except DatasetNotFoundError as error:
            raise InputError(
                f"{self._described()}: there is no such data set on the Hub, or it is private or gated ({error}). "
                f"Check the spelling; for a gated one accept its terms and run hf auth login."
            ) from error
        except (FileNotFoundError, DatasetsError) as error:
            raise InputError(f"{self._described()}: expected data files that can be read, but {error}") from error
        except (ValueError, RuntimeError) as error:
            # An unknown subset or split (datasets lists the known ones), or a data set that is a script.
            raise InputError(f"{self._described()}: it cannot be loaded: {error}") from error
