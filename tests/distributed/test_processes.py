"""The same run on 1, 2 and 4 processes, under DDP and FSDP2, over gloo: real processes, started as a user starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.export import export_checkpoint
from lit_tpgrpo.training.checkpoints import usable_checkpoint

# In one worker: the runs of the fixture serve all tests.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]
ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("program.py")
LIMIT_S = 1200  # a hang ends here
KINDS = ("nothing", "plain", "lora", "dynamic", "rewardkl", "probed", "ahead", "pipelined", "uncorrected")
ALONE = ("ddp", *(f"ddp-{kind}" for kind in KINDS[:-1]), "ddp-pipelined-uncorrected")
TOGETHER = {
    2: (
        "ddp",
        "fsdp",
        "fsdp-dynamic",
        "fsdp-recomputed-plain",
        "fsdp-lora",
        "fsdp-resumed",
        "fsdp-lora-resumed",
        "fsdp-kept-rewardkl",
        "ddp-probed",
        "fsdp-probed",
        "fsdp-bf16",
        "fsdp-breaks",
        "ddp-streamed",
        "fsdp-streamed",
        "fsdp-streamed-breaks",
        "ddp-pipelined",
        "ddp-pipelined-resumed",
        "fsdp-pipelined-uncorrected",
        "fsdp-full-uncorrected",
        "ddp-pipelined-breaks",
        "ddp-ahead",
        "fsdp-ahead-resumed",
        "fsdp-ahead-breaks",
    ),
    4: ("fsdp-offloaded", "fsdp-nothing", "ddp-nothing", "ddp-breaks"),
}
CASES = [
    (n, name)
    for n, names in TOGETHER.items()
    for name in names
    if not {"breaks", "bf16", "full"} & set(name.split("-"))
]


def start(model: str, out: Path, n: int, cases: tuple[str, ...]) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)] if n > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *launcher, str(PROGRAM), model, str(out), *cases],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("processes")
    start(random_model, out, 1, ALONE)
    for n, cases in TOGETHER.items():
        start(random_model, out, n, cases)
    return out


def load(runs: Path, name: str, n: int) -> dict[str, Any]:
    return torch.load(runs / f"{name}-{n}.pt")


def alone(runs: Path, name: str) -> dict[str, Any]:
    return load(runs, "ddp" + "".join(f"-{kind}" for kind in KINDS if kind in name), 1)


@pytest.mark.parametrize(("n", "name"), CASES)
def test_losses_and_weights_are_those_of_one_process(runs: Path, n: int, name: str):
    one, many = alone(runs, name), load(runs, name, n)
    assert many["sharded"] is name.startswith("fsdp")
    assert many["losses"] == pytest.approx(one["losses"][-len(many["losses"]) :], abs=1e-5)
    assert len(set(one["losses"])) >= 3
    assert one["weights"].keys() == many["weights"].keys()
    for key, weight in one["weights"].items():
        torch.testing.assert_close(many["weights"][key], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "serial"),
    [
        ("ddp-streamed", "ddp"),
        ("fsdp-streamed", "fsdp"),
        ("fsdp-pipelined-uncorrected", "fsdp-full-uncorrected"),  # both with steps of full size
    ],
)
def test_a_round_of_another_schedule_is_the_serial_one_on_two_processes_bit_for_bit(runs: Path, name: str, serial: str):
    made, expected = load(runs, name, 2), load(runs, serial, 2)
    assert made["losses"] == expected["losses"]
    assert len(set(made["losses"])) >= 3
    assert made["weights"].keys() == expected["weights"].keys()
    for key, weight in expected["weights"].items():
        assert torch.equal(made["weights"][key], weight), key


@pytest.mark.parametrize(("n", "name"), CASES)
def test_metrics_are_those_of_all_processes(runs: Path, n: int, name: str):
    one, many = alone(runs, name), load(runs, name, n)
    assert len(one["rounds"]) >= len(many["rounds"]) >= 2
    for alone_, together in zip(one["rounds"][-len(many["rounds"]) :], many["rounds"], strict=True):
        assert alone_.keys() == together.keys()
        timed = {k for k in alone_ if k.endswith(("seconds", "per_s"))}
        for key in alone_.keys() - timed:
            if "resumed" not in name or not key.startswith("judge/"):  # what was judged before is not judged again
                assert together[key] == pytest.approx(alone_[key], abs=2e-5), key
        assert alone_["verify/pairs"] == 0  # these verifiers count nothing
        assert alone_["judge/cases"] == 40
    assert many["eval"] == pytest.approx(one["eval"], abs=1e-6)
    assert one["eval"]["eval/avg@2_se"] > 0


@pytest.mark.parametrize(("n", "name"), CASES)
def test_groups_are_whole_and_met_once(runs: Path, n: int, name: str):
    one, many = alone(runs, name), load(runs, name, n)
    for back in range(1, len(many["rounds"]) + 1):
        expected = one["shares"][0][1][-back]
        shares = [uids[-back] for _, uids, *_ in many["shares"]]
        assert sorted(uid for share in shares for uid in share) == sorted(expected)
        if "dynamic" not in name:  # which ones are dropped is not for the ranks to choose
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # What the policy can do is known on all processes, for all draw the same problems by it.
    estimates = [state["estimates"] for _, _, state, _ in many["shares"]]
    assert all(found.keys() == estimates[0].keys() for found in estimates)
    assert estimates[0].keys() == one["shares"][0][2]["estimates"].keys()


def test_refilled_rounds_have_the_same_groups_on_two_processes(runs: Path):
    """Ten groups that count, of problems of which a third are all wrong; the others are sampled, and not in the share."""
    for n, name in ((1, "ddp-dynamic"), (2, "fsdp-dynamic")):
        for metrics in load(runs, name, n)["rounds"]:
            assert metrics["dynamic/groups_kept"] == 10
            assert metrics["dynamic/groups_sampled"] > 10
            assert metrics["dynamic/refills"] >= 1
            assert metrics["rollout/solutions"] == 4 * metrics["dynamic/groups_sampled"]
            assert metrics["reward/sample"] == pytest.approx(0.375)
            assert 0 < metrics["credit/filtered_solutions"] < 10
            assert metrics["credit/advantage_mean"] == pytest.approx(0.0, abs=1e-6)  # whitened over both
            assert metrics["evidence/prefixes"] >= 10
            assert metrics["evidence/continuations"] == 2 * metrics["evidence/prefixes"]


def test_the_penalty_in_the_reward_is_the_same_with_shards_of_policy_and_reference(runs: Path):
    one, many = load(runs, "ddp-rewardkl", 1)["rounds"], load(runs, "fsdp-kept-rewardkl", 2)["rounds"]
    assert abs(many[0]["credit/reward_kl"]) < 1e-6 < 1e-4 < many[1]["credit/reward_kl"]
    assert [r["credit/reward_kl"] for r in many] == pytest.approx([r["credit/reward_kl"] for r in one], abs=1e-5)


@pytest.mark.parametrize("name", ["ddp-probed", "fsdp-probed"])
def test_continuations_and_probes_are_those_of_one_process(runs: Path, name: str):
    one, many = load(runs, "ddp-probed", 1), load(runs, name, 2)
    ((*_, alone_),) = one["shares"]
    for r, expected in enumerate(alone_):
        shares = [evidence[r] for *_, evidence in many["shares"]]
        assert sum(map(len, shares)) == len(expected) == 40
        found = {key: values for share in shares for key, values in share.items()}
        assert {key: continued for key, (continued, _) in found.items()} == {key: c for key, (c, _) in expected.items()}
        for key, (_, probes) in expected.items():
            assert [pair and pytest.approx(pair, rel=1e-5) for pair in probes] == list(found[key][1])
        # Not all alike: continuations of some steps ended right, of others not, and the policy knows more or less.
        assert {o for continued, _ in expected.values() for row in continued for o in row or ()} == {0.0, 1.0}
        assert len({pair for _, probes in expected.values() for pair in probes if pair is not None}) > 10


def test_steps_are_uneven_and_some_processes_have_nothing_to_train_on(runs: Path):
    """What the cases above were to show, they did."""
    steps = [share[0] for share in load(runs, "fsdp-nothing", 4)["shares"]]
    assert any(0 in own for own in steps)
    for n, name in ((2, "fsdp"), (4, "fsdp-offloaded")):
        shares = [share[0] for share in load(runs, name, n)["shares"]]
        assert [sum(step) for step in zip(*shares, strict=True)] == alone(runs, name)["shares"][0][0]
        assert len(set(map(tuple, shares))) > 1


@pytest.mark.parametrize("name", ["fsdp-resumed", "fsdp-lora-resumed"])
def test_shards_are_exported_and_loaded_whole_or_not_at_all(runs: Path, random_model: str, tmp_path: Path, name: str):
    folder = runs / f"checkpoints-{name}-2"
    assert not list(folder.glob("*.partial"))
    found = usable_checkpoint(folder)
    assert found.is_dir()
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(export_checkpoint(folder, tmp_path / "out"))
    base = AutoModelForCausalLM.from_pretrained(random_model)
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), base.parameters(), strict=True))
    assert gap > 1e-4
    shutil.copytree(folder, tmp_path / "damaged")
    for number, path in enumerate(sorted((tmp_path / "damaged").glob("*.ckpt"))):
        part = sorted(path.glob("*.distcp"))[number % 2]
        part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(InputError, match="no whole checkpoint"):
        usable_checkpoint(tmp_path / "damaged")


def test_layers_in_bfloat16_sample_and_train_alike(runs: Path):
    many = load(runs, "fsdp-bf16", 2)
    assert many["sharded"]
    assert {w.dtype for w in many["weights"].values()} == {torch.float32}
    for metrics in many["rounds"]:
        assert 0 < metrics["mismatch/logprob_max"] < 0.1
    assert all(abs(loss) < 1 for loss in many["losses"])


@pytest.mark.parametrize(("n", "name"), [(2, "fsdp-breaks"), (2, "fsdp-streamed-breaks"), (4, "ddp-breaks")])
def test_an_error_on_one_process_ends_all_with_its_name(runs: Path, n: int, name: str):
    said = [(runs / f"{name}.{rank}.txt").read_text() for rank in range(n)]
    assert said[-1] == "OSError: the verifier of the last process is gone"
    for rank, text in enumerate(said[:-1]):
        assert text.startswith(
            f"OtherProcessError: evaluation failed on rank {n - 1} (OSError: the verifier of the last process is gone), "
            f"so rank {rank} stops too"
        )


@pytest.mark.parametrize("name", ["fsdp-ahead-breaks", "ddp-pipelined-breaks"])
def test_an_error_in_the_background_of_one_process_ends_all_when_its_round_is_needed(runs: Path, name: str):
    others, last = [(runs / f"{name}.{rank}.txt").read_text() for rank in range(2)]
    assert last == "OSError: the verifier of the last process is gone"
    assert others.startswith(
        "OtherProcessError: round 1 failed on rank 1 (OSError: the verifier of the last process is gone), so rank 0 stops too"
    )
