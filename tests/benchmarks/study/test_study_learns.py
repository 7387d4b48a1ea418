"""The tables of the study have an arm for each overlay of ``configs/credit``, and so has the one of what learns."""

from __future__ import annotations

from benchmarks.study.settings import ROOT, read_study
from tests.credit.overlays import credit_of

CREDITS = ROOT / "configs" / "credit"


def test_every_overlay_of_the_credits_is_an_arm():
    study = read_study(ROOT / "benchmarks" / "study" / "learns.yaml")
    overlays = {arm.name: arm.overlays[0] for arm in study.arms}
    assert overlays == {path.stem: f"configs/credit/{path.name}" for path in CREDITS.glob("*.yaml")}
    assert study.configs[0] == "configs/quickstart.yaml"
    assert study.budget.seeds == (0, 1, 2)


SAME_CREDIT = {
    "thought": "configs/quickstart.yaml",
    "outcome": "configs/experiment/outcome_only.yaml",
    "step": "configs/experiment/step_rewards.yaml",
    "unadapted": "configs/experiment/unadapted.yaml",
    "capo_votes": "configs/credit/capo.yaml",  # the embedded judge cannot read chains of that length: docs/study.md
}
"""Overlays whose credit has a row under another config."""


def test_every_overlay_has_a_row_in_the_study():
    files = [ROOT / "benchmarks" / "study" / name for name in ("arms.yaml", "continuations.yaml")]
    studied = [overlay for file in files for arm in read_study(file).arms for overlay in arm.overlays]
    names = {path.stem for path in CREDITS.glob("*.yaml")}
    assert {name for name in names if f"configs/credit/{name}.yaml" not in studied} == SAME_CREDIT.keys()
    for name, other in SAME_CREDIT.items():
        assert credit_of(CREDITS / f"{name}.yaml") == credit_of(ROOT / other) is not None
        assert other in studied or name == "thought"  # the arm without an overlay


def test_the_two_files_have_one_reference_in_the_same_settings():
    arms, continuations = (read_study(ROOT / "benchmarks" / "study" / f"{n}.yaml") for n in ("arms", "continuations"))
    assert continuations.reference == arms.reference
    assert continuations.hashes(continuations.arm("outcome")) == arms.hashes(arms.arm("outcome"))
