"""A solution format: ``--data.format examples.parts.format.LastLine``."""

from lit_tpgrpo import SolutionFormat
from lit_tpgrpo.text.formats import Division


class LastLine(SolutionFormat):
    """Format whose answer block is the last line of a solution of several lines, without ``prefix``.

    Args:
        prefix: what the line begins with, such as ``Answer:``; a solution whose last line does not has no answer block.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def divide(self, text: str) -> Division:
        """Return the spans of thinking and answer block, without tags."""
        end = len(text.rstrip())
        start = text.rfind("\n", 0, end) + 1
        if not start or not text.startswith(self.prefix, start, end):
            return Division((0, len(text)), None)
        return Division((0, start), (start + len(self.prefix), end))

    def missing(self) -> str:
        """Continue the warning "no solution of round 3 ..."."""
        return f"ends with a line {self.prefix!r}, so none can score"
