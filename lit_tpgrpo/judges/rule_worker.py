"""Worker process that labels steps by rule: ``python -m lit_tpgrpo.judges.rule_worker``, JSON lines in and out.

It has the environment, alarms and limits of the verifier's workers (``lit_tpgrpo.verify.worker``): a solution that would take
the rules too long ends one process, not the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lit_tpgrpo.judges.rule_labels import RuleCase, label_steps
from lit_tpgrpo.verify.worker import run_worker


def load_rules() -> Callable[[Any], Any]:
    """Return the function from a case to its labels, both as JSON values."""
    return lambda message: label_steps(RuleCase.from_json(message)).as_json()


if __name__ == "__main__":
    run_worker(load_rules, "Label steps by rule; a RuleJudge with workers starts this.")
