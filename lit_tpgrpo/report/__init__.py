"""Reports of runs as HTML pages: ``python -m lit_tpgrpo.report RUN... --out report.html``.

``write_report`` writes the page: curves, rounds, stage times, settings that differ, and a browser of judged solutions. It needs
no network. ``metrics.py``, ``files.py`` and ``solutions.py`` read a run's folder, ``runs.py`` one run. ``experiments.py``
groups runs that differ in their seed; ``figures.py`` draws with plotly, ``overview.py`` writes tables; ``page.py`` fills
``assets/page.html``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.report.page import write_report
    from lit_tpgrpo.report.runs import RunData, read_run
else:
    __getattr__, __dir__ = lazy_attributes(__name__, {"page": "write_report", "runs": "RunData read_run"})

__all__ = ["RunData", "read_run", "write_report"]
