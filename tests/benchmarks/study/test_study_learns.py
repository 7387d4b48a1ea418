"""The table of what learns has an arm for each overlay of ``configs/credit``."""

from __future__ import annotations

from benchmarks.study.settings import ROOT, read_study


def test_every_overlay_of_the_credits_is_an_arm():
    study = read_study(ROOT / "benchmarks" / "study" / "learns.yaml")
    overlays = {arm.name: arm.overlays[0] for arm in study.arms}
    assert overlays == {
        path.stem: f"configs/credit/{path.name}" for path in (ROOT / "configs" / "credit").glob("*.yaml")
    }
    assert study.configs[0] == "configs/quickstart.yaml"
    assert study.budget.seeds == (0, 1, 2)
