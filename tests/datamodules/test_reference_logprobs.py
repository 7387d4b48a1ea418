"""KL in the reward of a real run: log-probs under the initial policy, computed once, and the same after a restart."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.credit import OutcomeCredit, TokenRewardKL
from lit_tpgrpo.credit.evidence_access import evidence_of
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import ReferenceLogprobs
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.losses import ClippedSurrogate
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.rollout.reference import reference_scorer_of
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.reference import AdapterOff
from tests.datamodules.scored_runs import OFFSET, LuckyByTurns, OffEngine, Rounds

BETA, TEMPERATURE = 0.5, 0.8


class CountingModule(TPGRPOModule):
    """Counts what it scores, under the policy and under the reference."""

    scored = referred = 0

    def completion_logprobs(self, sequences, temperature):
        self.scored += len(sequences)
        return super().completion_logprobs(sequences, temperature)

    def completion_reference_logprobs(self, sequences, temperature):
        self.referred += len(sequences)
        return super().completion_reference_logprobs(sequences, temperature)


def module(folder: str, **settings) -> CountingModule:
    torch.manual_seed(0)
    return CountingModule(folder, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), tokens_per_microbatch=64, **settings)


def data_of(folder: Path, engine=None, credit=None) -> MathRolloutDataModule:
    return MathRolloutDataModule(
        train=ArithmeticProblems("1", n=64),
        val=ArithmeticProblems("1", n=2, split="heldout"),
        verifier=LuckyByTurns(),
        engine=engine or OffEngine(),
        credit=credit or TokenRewardKL(OutcomeCredit(), BETA),
        group_size=4,
        problems_per_step=2,
        steps_per_round=2,
        steps_per_epoch=4,
        sampling=SamplingParams(max_new_tokens=12, temperature=TEMPERATURE),
        prompt_template="{problem}",
        progress=False,
        store_dir=str(folder / "rounds"),
        eval_samples=1,
    )


def trainer_of(folder: Path, *callbacks, **settings) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        **({"max_epochs": 1, "enable_checkpointing": False, "limit_val_batches": 0} | settings),
    )


def fit(folder: Path, policy: TPGRPOModule, *callbacks, engine=None, ckpt_path=None, **settings) -> None:
    """Two rounds of two steps, unless ``max_steps`` says less."""
    trainer_of(folder, *callbacks, **settings).fit(policy, datamodule=data_of(folder, engine), ckpt_path=ckpt_path)


def weights(of: TPGRPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.policy_model.parameters()])


@pytest.fixture(scope="module")
def whole(random_model, tmp_path_factory):
    rounds, policy = Rounds(), module(random_model)
    fit(tmp_path_factory.mktemp("whole"), policy, rounds)
    return rounds.seen, policy


@pytest.fixture(scope="module")
def adapted(random_model, tmp_path_factory):
    rounds, policy = Rounds(), module(random_model, adapter=LoRA(4, 64.0))
    fit(tmp_path_factory.mktemp("adapted"), policy, rounds)
    assert isinstance(policy._reference, AdapterOff)
    return rounds.seen, policy


@pytest.mark.parametrize("run", ["whole", "adapted"])
def test_log_probs_are_those_of_the_trainer_and_of_the_initial_policy(run, request, random_model):
    rounds, policy = request.getfixturevalue(run)
    initial = module(random_model)
    initial.configure_model()
    assert policy.reference_fingerprint() == fingerprint(initial.named_tensors()) != fingerprint(policy.named_tensors())
    for round_ in rounds:
        ks: list[torch.Tensor] = []
        for credited in round_.credited:
            solution = credited.judged.solution
            scores = evidence_of(credited.judged, ReferenceLogprobs)
            assert scores is not None
            ids = torch.tensor((*solution.prompt_ids, *solution.completion_ids))
            with torch.no_grad():
                logits = initial.policy_model(ids[None]).logits[0, len(solution.prompt_ids) - 1 : -1] / TEMPERATURE
            naive = logits.log_softmax(-1).gather(1, ids[len(solution.prompt_ids) :, None])[:, 0]
            assert scores.reference == pytest.approx(naive.tolist(), abs=2e-5)
            assert scores.policy == pytest.approx([p + OFFSET for p in solution.logprobs], abs=2e-5)
            k = torch.tensor(scores.policy) - torch.tensor(scores.reference)
            ahead = torch.stack([k[t:].sum() for t in range(len(k))])
            ks.append(k.double())
            torch.testing.assert_close(
                credited.advantages, credited.outcome_advantage - BETA * ahead, atol=1e-4, rtol=1e-4
            )
        assert round_.metrics["credit/reward_kl"] == pytest.approx(torch.cat(ks).mean().item(), abs=1e-7)
    first, second = [
        max(
            abs(p - q)
            for c in r.credited
            for e in c.judged.evidence
            for p, q in zip(e.policy, e.reference, strict=True)
        )
        for r in rounds
    ]
    assert first < 2e-5 < 1e-3 < second  # the policy has moved
    # 16 solutions a round, once each; the correction of the mismatch takes the same scores.
    assert (policy.scored, policy.referred) == (32, 32)


@pytest.mark.slow
def test_a_resumed_round_has_the_same_penalties(whole, random_model, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    fit(tmp_path, module(random_model), checkpoint, max_steps=3, enable_checkpointing=True)
    (stored,) = (tmp_path / "rounds" / "round_000001").glob("references.*.jsonl")
    lines = stored.read_text().splitlines(keepends=True)
    stored.write_text("".join(lines[:-2]) + lines[-1].replace('"crc32": ', '"crc32": 1'))  # one lost, one damaged
    again = module(random_model)
    fit(tmp_path, again, ckpt_path=str(tmp_path / "last.ckpt"))
    assert (again.scored, again.referred) == (0, 16)  # all, for the two come from the same micro-batches then
    torch.testing.assert_close(weights(again), weights(whole[1]), atol=1e-6, rtol=0)


def test_without_a_mismatch_the_engines_log_probs_are_the_policys(random_model, tmp_path):
    rounds, policy = Rounds(), module(random_model)
    fit(tmp_path, policy, rounds, engine=HFEngine(), max_steps=1)
    assert (policy.scored, policy.referred) == (0, 16)
    for credited in rounds.seen[0].credited:
        logprobs = evidence_of(credited.judged, ReferenceLogprobs)
        assert logprobs is not None
        assert logprobs.policy is credited.judged.solution.logprobs


def test_a_module_without_a_reference_is_refused(random_model):
    with pytest.raises(
        ConfigError, match="has no completion_reference_logprobs, reference_fingerprint, completion_logprobs;"
    ):
        reference_scorer_of(L.LightningModule())
    policy = module(random_model)
    policy.configure_model()
    with pytest.raises(RuntimeError, match="there is no reference"):
        policy.completion_reference_logprobs([], 1.0)


def test_a_policy_that_validate_built_is_still_the_initial_one_for_fit(random_model, tmp_path):
    """Nothing is kept for validation; what fit needs is kept before it samples."""
    rounds, policy = Rounds(), module(random_model)
    trainer_of(tmp_path, limit_val_batches=1).validate(policy, datamodule=data_of(tmp_path))
    assert policy.policy is not None
    assert policy._reference is None
    fit(tmp_path, policy, rounds, max_steps=1)
    for credited in rounds.seen[0].credited:
        logprobs = evidence_of(credited.judged, ReferenceLogprobs)
        assert logprobs is not None
        assert logprobs.policy == pytest.approx(logprobs.reference, abs=2e-5)
    assert policy.reference_fingerprint() != fingerprint(policy.named_tensors())


def test_a_policy_without_its_initial_weights_is_refused_before_sampling(random_model, tmp_path):
    policy = module(random_model)
    plain = data_of(tmp_path / "plain", credit=OutcomeCredit())
    trainer_of(tmp_path / "plain", max_steps=1).fit(policy, datamodule=plain)
    with pytest.raises(ConfigError, match=r"has taken 1 optimizer steps.*Give fit a new TPGRPOModule") as refused:
        fit(tmp_path / "penalised", policy)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "penalised").rglob("round_*"))


def test_a_later_fit_with_a_penalty_takes_the_reference_of_the_loss(random_model, tmp_path):
    policy = module(random_model, loss=ClippedSurrogate(kl_beta=0.1))
    plain = data_of(tmp_path / "plain", credit=OutcomeCredit())
    trainer_of(tmp_path / "plain", max_steps=1).fit(policy, datamodule=plain)
    reference = policy._reference
    assert policy.reference_fingerprint() == ""
    fit(tmp_path / "penalised", policy, max_steps=1)
    assert policy._reference is reference
    initial = module(random_model)
    initial.configure_model()
    assert policy.reference_fingerprint() == fingerprint(initial.named_tensors())
