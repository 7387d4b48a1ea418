"""The weights beside a round are those that were stored, in their order, and whole or absent."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lit_tpgrpo.engines.base import AdapterWeights
from lit_tpgrpo.errors import ConfigError, StorageError
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.sampling_weights import StoredPolicy, store_weights, weights_path
from lit_tpgrpo.rollout.store import RoundStore, match_scores

TRAINER = SimpleNamespace(local_rank=0, global_rank=0)


class Pairs:
    """A policy of given tensors."""

    policy_model = SimpleNamespace(device=torch.device("cpu"))
    tokenizer = "its tokenizer"
    policy_version = 9

    def __init__(self, *pairs):
        self.pairs = pairs

    def named_tensors(self):
        yield from self.pairs


class AdaptedPairs(Pairs):
    """A policy with an adapter."""

    def __init__(self, weights: AdapterWeights):
        super().__init__(("merged", torch.ones(1)))
        self.weights = weights

    def adapter_weights(self):
        return self.weights


def test_tensors_come_back_in_their_order_and_types_and_do_not_follow_the_policy(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    policy = Pairs(("z", shared), ("a", shared.T), ("m", torch.ones(2, dtype=torch.bfloat16)), ("z.tied", shared))
    path = weights_path(tmp_path)
    store_weights(TRAINER, policy, path)
    stored = StoredPolicy(policy, 4, path)
    shared += 100.0
    found = list(stored.named_tensors())
    assert [name for name, _ in found] == ["z", "a", "m", "z.tied"]
    assert found[0][1].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert found[1][1].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert found[2][1].dtype is torch.bfloat16
    assert found[3][1].tolist() == found[0][1].tolist()
    assert stored.policy_version == 4
    assert stored.tokenizer == "its tokenizer"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_one_process_of_a_machine_writes_and_all_of_them_gather(tmp_path):
    seen: list[str] = []

    class Noted(Pairs):
        def named_tensors(self):
            for name, tensor in super().named_tensors():
                seen.append(name)
                yield name, tensor

    store_weights(SimpleNamespace(local_rank=1, global_rank=1), Noted(("a", torch.ones(1))), weights_path(tmp_path))
    assert seen == ["a"]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_says_where_and_what_helps(tmp_path):
    with pytest.raises(StorageError, match=r"cannot be stored in .*missing .*data.schedule to streamed"):
        store_weights(TRAINER, Pairs(("a", torch.ones(1))), weights_path(tmp_path / "missing"))


def test_a_round_of_other_settings_loses_its_weights_too(tmp_path):
    """They are of the weights that its settings name."""
    folder = RoundStore(tmp_path).open(0, {"weights": "one"}).folder
    save_file({"a": torch.ones(1)}, weights_path(folder))
    (folder / "weights.0.partial").write_text("half")
    assert weights_path(RoundStore(tmp_path).open(0, {"weights": "one"}).folder).is_file()
    RoundStore(tmp_path).open(0, {"weights": "two"})
    assert sorted(os.listdir(folder)) == ["judging.json", "meta.json"]


def test_a_resumed_run_takes_the_weights_along(tmp_path):
    folder = RoundStore(tmp_path / "first").open(3, {"weights": "one"}).folder
    store_weights(TRAINER, Pairs(("a", torch.ones(2))), weights_path(folder))
    copy = RoundStore(tmp_path / "second", inherited=[tmp_path / "first"]).open(3, {"weights": "one"}).folder
    assert dict(StoredPolicy(Pairs(), 0, weights_path(copy)).named_tensors())["a"].tolist() == [1.0, 1.0]


def test_scores_of_other_weights_are_deleted_and_those_of_the_same_kept(tmp_path):
    file = RoundFile(tmp_path)
    for rank in (0, 1):  # of all ranks
        (tmp_path / f"scores.{rank}.jsonl").write_text("")
        (tmp_path / f"scores.{rank}.arrows").write_text("")
    (tmp_path / "solutions.0.jsonl").write_text("")
    match_scores(file, "one")  # nobody knows of which weights they are
    assert sorted(os.listdir(tmp_path)) == ["scoring.json", "solutions.0.jsonl"]
    (tmp_path / "scores.0.jsonl").write_text("")
    match_scores(file, "one")
    assert (tmp_path / "scores.0.jsonl").is_file()
    match_scores(file, "two")
    assert sorted(os.listdir(tmp_path)) == ["scoring.json", "solutions.0.jsonl"]


def adapted(**kwargs) -> AdaptedPairs:
    base = (("x.weight", torch.tensor([[1.0, 2.0], [3.0, 4.0]])), ("norm.weight", torch.ones(2)))
    adapter = (("x.lora_A.weight", torch.tensor([[1.0, 0.5]])), ("x.lora_B.weight", torch.tensor([[2.0], [-4.0]])))
    return AdaptedPairs(AdapterWeights(1, "of the base", lambda: base, lambda: adapter, **kwargs))


def test_of_an_adapter_the_file_has_the_adapter_alone_and_the_weights_are_those_with_it(tmp_path):
    policy, path = adapted(), weights_path(tmp_path)
    store_weights(TRAINER, policy, path)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["x.lora_A.weight", "x.lora_B.weight"]
    policy.weights = replace(policy.weights, tensors=list)  # trained on
    stored = StoredPolicy(policy, 4, path)
    # W + B A = [[1, 2], [3, 4]] + [[2, 1], [-4, -2]]
    assert [(name, t.tolist()) for name, t in stored.named_tensors()] == [
        ("x.weight", [[3.0, 3.0], [-1.0, 2.0]]),
        ("norm.weight", [1.0, 1.0]),
    ]
    apart = stored.adapter_weights()
    assert apart is not None
    assert (apart.rank, apart.base) == (1, "of the base")
    assert {name: t.tolist() for name, t in apart.tensors()} == {
        "x.lora_A.weight": [[1.0, 0.5]],
        "x.lora_B.weight": [[2.0], [-4.0]],
    }


def test_where_getting_at_the_weights_is_collective_the_file_has_all_of_them(tmp_path):
    policy, path = adapted(sharded=True), weights_path(tmp_path)
    store_weights(TRAINER, policy, path)
    stored = StoredPolicy(policy, 4, path)
    assert stored.adapter_weights() is None
    assert [name for name, _ in stored.named_tensors()] == ["merged"]


def test_an_adapter_alone_is_of_no_use_to_a_policy_that_is_sharded_now(tmp_path):
    store_weights(TRAINER, adapted(), weights_path(tmp_path))
    with pytest.raises(
        ConfigError, match=f"round in {tmp_path}, and this one does; .*delete weights.safetensors there"
    ):
        StoredPolicy(adapted(sharded=True), 4, weights_path(tmp_path)).named_tensors()
