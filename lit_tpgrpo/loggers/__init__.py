"""What each logger shows of a round besides scalars, and a Lightning logger for trackio.

``show_page`` writes solution tables and histograms through a logger's own types; register a logger of another class with
``show_page.register``.
"""

from lit_tpgrpo.loggers.solution_tables import RoundPage, show_page
from lit_tpgrpo.loggers.trackio_logger import TrackioLogger

__all__ = ["RoundPage", "TrackioLogger", "show_page"]
