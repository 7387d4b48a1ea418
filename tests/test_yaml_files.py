"""YAML of others: what would never end, or fill the memory, is refused in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_tpgrpo.yaml_files import MAX_VALUES, check_yaml, read_yaml, yaml_fault

ROOT = Path(__file__).parent.parent
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
REFUSED = {
    "bomb": (BOMB, r"config.yaml:5: expected at most 20,000 values, got aliases that expand to more"),
    "merged": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
        r"config.yaml:\d+: expected at most 20,000 values",
    ),
    "itself": (
        "model: &a\n  b: [*a]\n",
        "config.yaml:2: expected plain values, got an alias inside its own value",
    ),
    "brackets": ("[" * 100_000, "config.yaml:1: expected values that nest at most 50 deep"),
    "lists": ("- " * 100_000, "config.yaml:1: expected values that nest at most 50 deep"),
    "digits": (f"seed: {'1' * 5000}", "config.yaml:1: expected numbers of at most 400 characters"),
    "sixties": (f"seed: {':'.join(['1'] * 20_000)}", "config.yaml:1: expected numbers of at most 400 characters"),
    "no digits": (
        "seed: 0b_",
        "config.yaml: expected values that can be read, got one that cannot: invalid literal for int()",
    ),
    "long": ("#" * 300_001, "config.yaml: expected a file of at most 300,000 bytes, got a longer one"),
    "many": ("[" + "a, " * 50_000 + "]", "config.yaml:1: expected at most 20,000 values, got more"),
    "twice": ("a: 1\na: 2", "config.yaml:2: 'a' is given twice, first in line 1"),
    "object": ("a: !!python/object/apply:os.system [x]", "config.yaml:1: could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_said_in_one_line(text: str, message: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(path)
    said = yaml_fault(path, caught.value)
    assert "\n" not in said
    assert re.match(message, said.removeprefix(f"{tmp_path}/")), said


def test_dates_stay_text_whatever_libraries_do_to_the_shared_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.yaml"
    path.write_text("a: 2020-01-31\nb: 2020-13-45\nc: 2001-12-14 21:59:43.10 -5\nd: !!timestamp 2020-01-31\n")
    for constructor in (yaml.SafeLoader.construct_yaml_timestamp, yaml.SafeLoader.construct_yaml_int):
        monkeypatch.setitem(yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp", constructor)
        assert read_yaml(path) == {
            "a": "2020-01-31",
            "b": "2020-13-45",
            "c": "2001-12-14 21:59:43.10 -5",
            "d": "2020-01-31",
        }


def test_values_are_counted_with_their_aliases_written_out():
    """A list of n strings is n + 1 values, a mapping counts its keys too."""
    check_yaml(f"[{', '.join(['x'] * (MAX_VALUES - 1))}]")
    with pytest.raises(yaml.YAMLError):
        check_yaml(f"[{', '.join(['x'] * MAX_VALUES)}]")
    half = f"a: &a [{', '.join(['x'] * (MAX_VALUES // 2 - 3))}]\nb: "
    check_yaml(half + "*a")  # 1 + 2 keys + 2 lists of 9,997 + their items
    with pytest.raises(yaml.YAMLError):
        check_yaml(half + "[*a, *a]")


def test_every_config_of_ours_is_read_as_before():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert read_yaml(path) == yaml.safe_load(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--config={}", "--data.judge={}"])
def test_a_bomb_in_any_file_of_the_command_line_ends_in_one_line(option: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(BOMB)
    command = [sys.executable, "train.py", "fit", "--config=configs/quickstart.yaml", option.format(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    assert len(run.stderr.strip().splitlines()) <= 2, run.stderr
