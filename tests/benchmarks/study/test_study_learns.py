"""The tables of the study have an arm for each overlay of ``configs/credit``, and so has the one of what learns."""

from __future__ import annotations

import yaml

from benchmarks.study.settings import ROOT, read_study

CREDITS = ROOT / "configs" / "credit"


def test_every_overlay_of_the_credits_is_an_arm():
    study = read_study(ROOT / "benchmarks" / "study" / "learns.yaml")
    overlays = {arm.name: arm.overlays[0] for arm in study.arms}
    assert overlays == {path.stem: f"configs/credit/{path.name}" for path in CREDITS.glob("*.yaml")}
    assert study.configs[0] == "configs/quickstart.yaml"
    assert study.budget.seeds == (0, 1, 2)


def credit(overlay: object) -> object:
    """The class, under either of its paths, and arguments of an overlay's credit."""
    content = yaml.safe_load((ROOT / overlay).read_text()) if isinstance(overlay, str) else overlay
    named = content.get("data", {}).get("init_args", {}).get("credit")
    return named and {**named, "class_path": named["class_path"].rpartition(".")[2]}


def test_every_overlay_has_a_row_in_the_study():
    """By itself, or by its credit under another name, as ``experiment/outcome_only.yaml`` has it."""
    files = [ROOT / "benchmarks" / "study" / name for name in ("arms.yaml", "continuations.yaml")]
    overlays = [overlay for file in files for arm in read_study(file).arms for overlay in arm.overlays]
    studied = [credit(overlay) for overlay in (*overlays, "configs/quickstart.yaml")]
    paths = [f"configs/credit/{path.name}" for path in CREDITS.glob("*.yaml")]
    assert [path for path in paths if path not in overlays and credit(path) not in studied] == []


def test_the_two_files_have_one_reference_in_the_same_settings():
    arms, continuations = (read_study(ROOT / "benchmarks" / "study" / f"{n}.yaml") for n in ("arms", "continuations"))
    assert continuations.reference == arms.reference
    assert continuations.hashes(continuations.arm("outcome")) == arms.hashes(arms.arm("outcome"))
