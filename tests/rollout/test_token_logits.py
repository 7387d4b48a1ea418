"""Token rewards from another model: its logits of the chosen tokens, once, stored as they come; its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_tpgrpo.credit import QRMCredit
from lit_tpgrpo.credit.batch import StdScaling
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.settings_checks import check_providers
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.judges.evidence import ChosenTokenLogits, EvidenceProvider
from lit_tpgrpo.judges.evidence.base import EvidenceCase
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import JudgedSolution, Outcome, Problem, Solution, StopReason, Verdict
from tests.datamodules.scored_runs import LuckyByTurns, Rounds
from tests.rollout.test_graded_evidence import Crash, Tools

# Prompt and completion; the third is the first again.
IDS = [((5, 6, 7), (8, 9)), ((3,), (4, 5, 6, 7, 8, 9, 10, 11, 12)), ((5, 6, 7), (8, 9)), ((9, 9), (1,))]


def cases() -> list[EvidenceCase]:
    return [
        EvidenceCase(
            Problem("p", "1 + 1?", "2"),
            JudgedSolution(
                Solution(
                    "p", i, prompt, ids, (-0.5,) * len(ids), StopReason.EOS, 0, "x" * len(ids), tuple(range(len(ids)))
                ),
                Outcome.CORRECT,
                "2",
                Verdict((), ()),
            ),
        )
        for i, (prompt, ids) in enumerate(IDS)
    ]


def values(given):
    return [list(record.values) for record in given]


def rows(folder: Path):
    path = folder / "evidence.0.jsonl"
    return [json.loads(line)["values"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "round").mkdir()
    return tmp_path / "round"


def test_a_token_has_its_logit_under_the_other_model(random_model, folder):
    """Against the whole logits, row by row without padding."""
    model = AutoModelForCausalLM.from_pretrained(random_model)
    provider = ChosenTokenLogits(random_model, tokens_per_batch=16)
    given = provider.provide(cases(), Tools(folder))
    assert isinstance(provider, EvidenceProvider)
    assert all(isinstance(record, TokenRewards) for record in given)
    for (prompt, ids), found in zip(IDS, values(given), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        assert found == pytest.approx([logits[t, token].item() for t, token in enumerate(ids)], abs=1e-4)
    # Three different solutions in two batches, 10 tokens and 5 + 3 padded to 5.
    assert [len(batch) for batch in rows(folder)] == [1, 2]
    assert provider.metrics() == {"scored_solutions": 3, "scored_solutions_reused": 1, "scored_tokens": 18}
    assert ChosenTokenLogits.uses_engine is False


def test_a_crash_loses_no_batch_and_other_weights_are_scored_for_themselves(random_model, folder, tmp_path):
    provider = ChosenTokenLogits(random_model, tokens_per_batch=10)
    with pytest.raises(Crash):
        provider.provide(cases(), Tools(folder, left=1))
    provider.metrics()
    resumed = values(provider.provide(cases(), Tools(folder)))
    assert provider.metrics() == {"scored_solutions": 2, "scored_solutions_reused": 2, "scored_tokens": 8}
    (tmp_path / "whole").mkdir()
    assert resumed == values(provider.provide(cases(), Tools(tmp_path / "whole")))
    provider.metrics()
    other = ChosenTokenLogits(random_model)
    with torch.no_grad():
        other._ready().get_output_embeddings().weight.mul_(2.0)
    other._loaded, moved = None, other._loaded
    moved.save_pretrained(tmp_path / "moved")
    load_tokenizer(random_model).save_pretrained(tmp_path / "moved")
    other = ChosenTokenLogits(str(tmp_path / "moved"))
    assert values(other.provide(cases(), Tools(folder))) != resumed
    assert other.metrics()["scored_solutions"] == 3


def test_what_cannot_be_read_is_computed_again(random_model, folder, caplog):
    provider = ChosenTokenLogits(random_model)
    whole = values(provider.provide(cases(), Tools(folder)))
    key = next(iter(rows(folder)[0]))
    for damaged in (None, [1.0], ["a"] * 9, {}):
        with (folder / "evidence.0.jsonl").open("a") as file:
            file.write(json.dumps({"values": {key: damaged}}) + "\n")
        provider.metrics()
        again = values(provider.provide(cases(), Tools(folder)))
        # The one that is computed again was in a batch with others before: products may be rounded differently.
        assert again == [pytest.approx(found, abs=1e-6) for found in whole]
        assert provider.metrics()["scored_solutions"] == 1
    assert "1 stored rows of token rewards cannot be read" in caplog.text


def test_logits_that_are_not_finite_are_named_and_not_stored(random_model, folder):
    provider = ChosenTokenLogits(random_model)
    with torch.no_grad():
        provider._ready().get_output_embeddings().weight[1] = torch.nan  # the last solution's only token
    with pytest.raises(NonFiniteLossError, match="are NaN or infinite in 1 solutions; the others are stored"):
        provider.provide(cases(), Tools(folder))
    assert len(rows(folder)[0]) == 2


def test_another_tokenizer_is_refused_before_sampling(random_model):
    tokenizer = load_tokenizer(random_model)
    check_providers([ChosenTokenLogits(random_model)], HFEngine(), tokenizer)
    with pytest.raises(ConfigError, match="'embedded:tiny-qwen2' has another tokenizer than the policy") as refused:
        check_providers([ChosenTokenLogits("embedded:tiny-qwen2")], HFEngine(), tokenizer)
    assert "\n" not in str(refused.value)
    assert ChosenTokenLogits(random_model).provide([], None) == []  # pyright: ignore[reportArgumentType]
    assert QRMCredit.needs == (TokenRewards,)


def test_a_run_trains_on_token_rewards_and_refuses_another_tokenizer(random_model, tmp_path):
    """With a Trainer, which checks before the policy is built."""

    def fit(model: str, folder: Path) -> Rounds:
        rounds = Rounds()
        data = MathRolloutDataModule(
            train=ArithmeticProblems("1", n=8),
            verifier=LuckyByTurns(),
            credit=QRMCredit(),
            evidence=ChosenTokenLogits(model),
            batch_stage=StdScaling(),
            group_size=2,
            problems_per_step=2,
            steps_per_round=1,
            steps_per_epoch=1,
            sampling=SamplingParams(max_new_tokens=6),
            prompt_template="{problem}",
            progress=False,
            store_dir=str(folder / "rounds"),
        )
        settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        run = L.Trainer(accelerator="cpu", max_steps=1, enable_model_summary=False, callbacks=[rounds], **settings)
        run.fit(TPGRPOModule(random_model), datamodule=data)
        return rounds

    [round_] = fit(random_model, tmp_path / "same").seen
    raw = torch.cat([torch.tensor(c.judged.evidence[0].values) for c in round_.credited])
    found = torch.cat([c.advantages for c in round_.credited])
    torch.testing.assert_close(found, raw / raw.std(correction=0))
    assert round_.metrics["evidence/scored_solutions"] == 4
    with pytest.raises(ConfigError, match="has another tokenizer than the policy"):
        fit("embedded:tiny-qwen2", tmp_path / "other")
    assert not list((tmp_path / "other").rglob("round_*"))
