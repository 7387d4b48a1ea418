"""Samples of an engine with an arithmetic of its own: scored once by the trainer, weighed, and the same after a restart."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.credit import OutcomeCredit
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, StorageError, raised_on_all_ranks
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.correction import Correction, scorer_of
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.training_sequences import training_sequence
from tests.credit.credit_cases import correct, group, incorrect
from tests.datamodules.scored_runs import OFFSET, LuckyByTurns, OffEngine, Rounds


class ScoringModule(TPGRPOModule):
    """Counts what it scores."""

    scored = 0

    def completion_logprobs(self, sequences, temperature):
        self.scored += len(sequences)
        return super().completion_logprobs(sequences, temperature)


def data(tmp_path, **kwargs) -> MathRolloutDataModule:
    settings = {
        "train": ArithmeticProblems("1", n=64),
        "verifier": LuckyByTurns(),
        "engine": OffEngine(),
        "group_size": 4,
        "problems_per_step": 2,
        "steps_per_round": 2,
        "steps_per_epoch": 4,
        "keep": "all",
        "sampling": SamplingParams(max_new_tokens=12, temperature=0.8),
        "prompt_template": "{problem}",
        "progress": False,
        "store_dir": str(tmp_path / "rounds"),
    }
    return MathRolloutDataModule(**(settings | kwargs))


def module(folder: str) -> ScoringModule:
    torch.manual_seed(0)
    return ScoringModule(folder, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), tokens_per_microbatch=64)


def trainer(tmp_path, *callbacks, **kwargs) -> L.Trainer:
    settings = {"max_epochs": 1, "enable_checkpointing": False} | kwargs
    return L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **settings,
    )


def weights(of: TPGRPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.policy_model.parameters()])


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({}, 2.718281828**OFFSET),
        ({"correction": {"cap": 1.1}}, 1.1),
        ({"correction": {"method": "token_mask", "cap": 1.1}}, 0.0),
        # The engine's log-probs would be those after the cut: their common offset is the kept mass, here e^0.25.
        ({"sampling": SamplingParams(max_new_tokens=12, temperature=0.8, top_p=0.999)}, 1.0),
    ],
    ids=str,
)
def test_a_mismatched_engines_round_has_the_trainers_logprobs_and_their_weights(
    random_model, tmp_path, settings, weight
):
    rounds, policy = Rounds(), module(random_model)
    run = trainer(tmp_path, rounds)
    run.fit(policy, datamodule=data(tmp_path, steps_per_epoch=2, **settings))
    (made,) = rounds.seen
    assert len(made.kept) == 16 == policy.scored
    for solution in made.kept:
        sampled = torch.tensor(solution.judged.solution.logprobs)
        torch.testing.assert_close(solution.trainer_logprobs, sampled + OFFSET, atol=2e-5, rtol=0)
        torch.testing.assert_close(solution.importance_weights, torch.full_like(sampled, weight), atol=1e-4, rtol=0)
    assert made.metrics["mismatch/logprob_mean"] == pytest.approx(OFFSET, abs=1e-5)
    assert made.metrics["mismatch/weight_mean"] == pytest.approx(weight, abs=1e-4)
    assert made.metrics["mismatch/unscored"] == 0
    mass = made.metrics.get("mismatch/kept_mass")
    assert mass == (pytest.approx(2.718281828**OFFSET, abs=1e-4) if "sampling" in settings else None)
    assert run.callback_metrics["mismatch/logprob_mean"] == pytest.approx(OFFSET, abs=1e-5)
    if weight == 0.0:
        untouched = module(random_model)
        untouched.configure_model()
        assert torch.equal(weights(policy), weights(untouched))


def test_scores_are_those_of_one_forward_pass_a_sequence_and_carry_no_gradient(random_model, tmp_path):
    rounds, policy = Rounds(), module(random_model)
    trainer(tmp_path, rounds, max_steps=1).fit(policy, datamodule=data(tmp_path))
    sequences = [training_sequence(s) for s in rounds.seen[0].kept[:5]]
    found = policy.completion_logprobs(sequences, 0.8)
    assert all(not f.requires_grad for f in found)
    for sequence, logprobs in zip(sequences, found, strict=True):
        ids = torch.cat((sequence.prompt_ids, sequence.completion_ids))
        with torch.no_grad():
            logits = policy.policy_model(ids[None]).logits[0, len(sequence.prompt_ids) - 1 : -1] / 0.8
        expected = logits.log_softmax(-1).gather(1, sequence.completion_ids[:, None])[:, 0]
        torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=0)


def test_the_engine_of_the_trainers_own_arithmetic_is_not_corrected(random_model, tmp_path):
    rounds, policy = Rounds(), module(random_model)
    run = trainer(tmp_path, rounds, max_steps=1)
    run.fit(policy, datamodule=data(tmp_path, engine=HFEngine()))
    assert policy.scored == 0
    assert all(s.importance_weights is None for s in rounds.seen[0].kept)
    assert run.callback_metrics["mismatch/logprob_max"] < 2e-5


def test_off_leaves_a_mismatched_engine_uncorrected_and_its_mismatch_is_seen(random_model, tmp_path):
    policy = module(random_model)
    run = trainer(tmp_path, max_steps=1)
    run.fit(policy, datamodule=data(tmp_path, correction="off"))
    assert policy.scored == 0
    assert run.callback_metrics["mismatch/logprob_mean"] == pytest.approx(OFFSET, abs=1e-4)


def test_a_resumed_round_keeps_the_scores_of_the_weights_that_sampled_it(random_model, tmp_path):
    whole = module(random_model)
    trainer(tmp_path / "whole").fit(whole, datamodule=data(tmp_path / "whole"))
    cut = tmp_path / "cut"
    first = module(random_model)
    checkpoint = ModelCheckpoint(cut, save_last=True, every_n_train_steps=1)
    trainer(cut, checkpoint, max_steps=1, enable_checkpointing=True).fit(first, datamodule=data(cut))
    again = module(random_model)
    trainer(cut).fit(again, datamodule=data(cut), ckpt_path=str(cut / "last.ckpt"))
    assert again.scored == 16  # the second round's; the first one's were on disk
    assert torch.equal(weights(again), weights(whole))


def test_a_round_that_was_never_scored_goes_on_uncorrected_and_counted(random_model, tmp_path, caplog):
    first = module(random_model)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    run = trainer(tmp_path, checkpoint, max_steps=1, enable_checkpointing=True)
    run.fit(first, datamodule=data(tmp_path, correction="off"))
    rounds = Rounds()
    trainer(tmp_path, rounds, max_steps=2).fit(
        module(random_model), datamodule=data(tmp_path), ckpt_path=str(tmp_path / "last.ckpt")
    )
    assert rounds.seen[0].metrics["mismatch/unscored"] == 16
    assert "16 solutions of round 0 were not scored" in caplog.text
    assert all((s.importance_weights == 1).all() for s in rounds.seen[0].kept)


def test_what_was_cut_and_never_scored_weighs_nothing(random_model, tmp_path):
    cut = SamplingParams(max_new_tokens=12, temperature=0.8, top_p=0.9)
    first = module(random_model)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    run = trainer(tmp_path, checkpoint, max_steps=1, enable_checkpointing=True)
    run.fit(first, datamodule=data(tmp_path, sampling=cut))
    for scores in (tmp_path / "rounds").rglob("scores.*.jsonl"):
        scores.unlink()
    rounds = Rounds()
    trainer(tmp_path, rounds, max_steps=2).fit(
        module(random_model), datamodule=data(tmp_path, sampling=cut), ckpt_path=str(tmp_path / "last.ckpt")
    )
    assert rounds.seen[0].metrics["mismatch/unscored"] == 16
    assert all((s.importance_weights == 0).all() for s in rounds.seen[0].kept)


def test_settings_that_cannot_be_corrected_are_named(random_model, tmp_path):
    cut = SamplingParams(max_new_tokens=12, top_p=0.9)
    with pytest.raises(ConfigError, match="OffEngine returns log-probs after top_p and top_k"):
        data(tmp_path, correction="off", sampling=cut)
    assert data(tmp_path, sampling=cut).correction is not None
    assert data(tmp_path, correction="off", sampling=cut, engine=HFEngine()).correction is None
    with pytest.raises(ConfigError, match=r"correction.cap must be at least 1"):
        data(tmp_path, correction={"cap": 0.5})
    with pytest.raises(ConfigError, match=r"correction.floor must lie between 0 .* got 1.5"):
        data(tmp_path, correction={"floor": 1.5})
    assert data(tmp_path, correction={"floor": 0.5}).correction.floor == 0.5  # pyright: ignore
    with pytest.raises(ConfigError, match="correction: expected Correction or auto, off, token_truncate"):
        data(tmp_path, correction="token")


def test_a_module_that_cannot_score_is_named(random_model, tmp_path):
    class Bare(L.LightningModule):
        """A user's own module without the method."""

    with pytest.raises(ConfigError, match="Bare has no completion_logprobs"):
        scorer_of(Bare())


@pytest.mark.parametrize("broken", ["the store", "the user's rule"])
def test_an_error_of_one_rank_stops_all_together(tmp_path, monkeypatch, broken):
    """Outside of the guard the others would wait in the next collective."""

    def failing(solutions):
        raise StorageError("disk gone")

    credited = OutcomeCredit()(group(correct("CC"), incorrect("UM")))
    round_ = Round(0, 0, 1.0, (), credited, credited, (0, 1), (0, 1))
    file = RoundFile(tmp_path)
    if broken == "the store":
        monkeypatch.setattr(file, "scores", failing)
    with pytest.raises(StorageError if broken == "the store" else ConfigError) as failed:
        Correction(lambda log_ratio, floor, cap: "no weights").apply(round_, file, Flat(), True)
    assert raised_on_all_ranks(failed.value)


def test_a_crash_among_stored_scores_changes_none_of_them(tmp_path):
    """The rest is scored with those that are stored, or sums would round otherwise than in an uninterrupted run."""

    class Batched:
        """Another number for each number of sequences."""

        def completion_logprobs(self, sequences, temperature):
            return [torch.full((len(s.completion_ids),), -1.0 / len(sequences)) for s in sequences]

    credited = OutcomeCredit()(group(correct("CC"), incorrect("UM")))
    round_ = Round(0, 0, 1.0, (), credited, credited, (0, 1), (0, 1))
    file = RoundFile(tmp_path)
    file.add_score(1, credited[1].judged.solution, [-0.5] * len(credited[1].judged.solution.completion_ids))
    kept = Correction("token_truncate").apply(round_, file, Batched(), True)[0].kept
    assert [set(s.trainer_logprobs.tolist()) for s in kept] == [{-0.5}, {-0.5}]
    solutions = {i: s.judged.solution for i, s in enumerate(credited)}
    assert [set(file.scores(solutions)[i]) for i in (0, 1)] == [{-0.5}, {-0.5}]
    lines = (tmp_path / "scores.0.jsonl").read_text().splitlines()
    assert len(lines) == 2  # what was stored is not stored again


class Flat:
    """A scorer that finds every token as likely as the next."""

    def completion_logprobs(self, sequences, temperature):
        return [torch.full((len(s.completion_ids),), -1.0) for s in sequences]
