"""PRIME's model: its rewards, what it learns of a round, and runs that are resumed or killed and are the uninterrupted one."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.credit import PRIMECredit
from lit_tpgrpo.credit.batch import Whitening
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.judges.evidence import ChosenTokenLogits, EvidenceProvider, ImplicitRewards
from lit_tpgrpo.judges.evidence.base import LearningProvider, OutcomeExample
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import JudgedGroup, Outcome
from lit_tpgrpo.rollout import evidence
from lit_tpgrpo.rollout import evidence_state as state_module
from lit_tpgrpo.rollout.evidence import teach
from lit_tpgrpo.rollout.evidence_state import evidence_state, load_evidence_state
from lit_tpgrpo.token_arrays import token_ints
from tests.datamodules.scored_runs import LuckyByTurns, Rounds
from tests.rollout.test_graded_evidence import Crash, Tools
from tests.rollout.test_token_logits import IDS, cases, values

BETA = 0.05
EXAMPLES = [
    OutcomeExample(token_ints(prompt, "p"), token_ints(ids, "c"), bool(i % 2)) for i, (prompt, ids) in enumerate(IDS)
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "round").mkdir()
    return tmp_path / "round"


def provider(model: str, **settings) -> ImplicitRewards:
    return ImplicitRewards(model, **({"lr": 1e-2, "tokens_per_batch": 16} | settings))


def logprobs(model, prompt, ids):
    logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]


def test_nothing_is_learnt_of_nothing_and_rewards_begin_at_0(random_model, folder):
    implicit = provider(random_model)
    assert isinstance(implicit, EvidenceProvider)
    assert isinstance(implicit, LearningProvider)
    assert not isinstance(ChosenTokenLogits(random_model), LearningProvider)
    implicit.learn(0, [])
    assert values(implicit.provide(cases(), Tools(folder))) == [[0.0] * len(ids) for _, ids in IDS]
    assert implicit.provide([], None) == []  # pyright: ignore[reportArgumentType]


def test_a_round_is_learnt_as_by_a_plain_loop(random_model, folder):
    """Two optimizer steps over three and one solutions, against whole logits row by row; then log pi_phi - log pi_ref."""
    own, reference = (AutoModelForCausalLM.from_pretrained(random_model).eval() for _ in range(2))
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for part in (EXAMPLES[:3], EXAMPLES[3:]):
        optimizer.zero_grad()
        sums = torch.stack(
            [
                logprobs(own, e.prompt_ids, e.completion_ids.tolist()).sum()
                - logprobs(reference, e.prompt_ids, e.completion_ids.tolist()).sum().detach()
                for e in part
            ]
        )
        outcomes = torch.tensor([float(e.correct) for e in part])
        loss = torch.nn.functional.binary_cross_entropy(torch.sigmoid(BETA * sums), outcomes)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 0.01)
        optimizer.step()
        losses.append(loss.item())
    implicit = provider(random_model, solutions_per_step=3, max_grad_norm=0.01)
    implicit.learn(0, EXAMPLES)
    given = implicit.provide(cases(), Tools(folder))
    assert all(isinstance(record, TokenRewards) for record in given)
    with torch.no_grad():
        for (prompt, ids), found in zip(IDS, values(given), strict=True):
            want = logprobs(own, prompt, ids) - logprobs(reference, prompt, ids)
            assert found == pytest.approx(want.tolist(), abs=1e-4)
            assert want.abs().max() > 1e-3
    metrics = implicit.metrics()
    assert metrics["implicit_loss"] == pytest.approx((3 * losses[0] + losses[1]) / 4, abs=1e-5)
    assert (metrics["implicit_updates"], metrics["scored_solutions"]) == (2, 3)
    assert metrics["scored_solutions_reused"] == 1
    assert set(implicit.metrics().values()) == {0.0}


def test_outcomes_are_learnt(random_model):
    """The second of two solutions is correct: its rewards rise above the other's, and the loss falls."""
    implicit, losses = provider(random_model, lr=1e-3), []
    for index in range(6):
        implicit.learn(index, EXAMPLES[:2])
        losses.append(implicit.metrics()["implicit_loss"])
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert losses == sorted(losses, reverse=True)
    wrong, right = implicit._ready().rewards([(e.prompt_ids, e.completion_ids) for e in EXAMPLES[:2]])
    assert right.sum() > 0 > wrong.sum()


def test_a_round_is_learnt_once_and_the_state_goes_on_bit_for_bit(random_model, folder):
    straight = provider(random_model)
    for index in (0, 1):
        straight.learn(index, EXAMPLES)
    first = provider(random_model)
    first.learn(0, EXAMPLES)
    state = torch_copy(first.state_dict(), folder / "state.pt")
    first.close()
    resumed = provider(random_model)
    resumed.load_state_dict(state)
    resumed.learn(0, EXAMPLES)  # of the checkpoint's round: learnt already
    assert resumed.metrics()["implicit_updates"] == 0
    resumed.learn(1, EXAMPLES)
    first.learn(1, EXAMPLES)  # opened again after close
    assert resumed._ready().weights == first._ready().weights == straight._ready().weights
    assert values(resumed.provide(cases(), Tools(folder))) == values(straight.provide(cases(), Tools(folder)))
    assert provider(random_model).state_dict() == {"learned": -1}


def torch_copy(state, path: Path):
    """What comes back of a checkpoint without running code."""
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def test_an_exception_while_learning_changes_nothing(random_model, monkeypatch):
    whole = provider(random_model, solutions_per_step=2)
    whole.learn(0, EXAMPLES)
    cut = provider(random_model, solutions_per_step=2)
    model = cut._ready()
    before, steps = model.weights, []

    def step(examples):
        if steps:
            raise Crash
        steps.append(type(model)._step(model, examples))
        return steps[0]

    with monkeypatch.context() as patch:
        patch.setattr(model, "_step", step)
        with pytest.raises(Crash):
            cut.learn(0, EXAMPLES)
    assert steps
    assert model.weights == model._fingerprint() == before
    cut.learn(0, EXAMPLES)
    assert cut._ready().weights == whole._ready().weights


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"lr": 1e30, "solutions_per_step": 2}, "loss is nan"),  # of the second step, by weights of 1e30
        ({}, "reward of a solution after the last step is nan"),
        ({"beta": 1e38, "solutions_per_step": 2}, "gradient norm is (inf|nan)"),  # rewards of 0 have a finite loss
    ],
)
def test_what_is_not_finite_is_not_learnt(random_model, monkeypatch, settings, what):
    """Raised before the step, and the state is that of before the round: weights, moments, the rounds that were learnt."""
    implicit = provider(random_model, **settings)
    model, before = implicit._ready(), copy.deepcopy(implicit._ready().state_dict())
    if not settings:  # whether large weights end in NaN hangs on the processor's kernels
        monkeypatch.setattr(model._optimizer, "step", lambda: next(model._model.parameters()).data.fill_(torch.nan))
    with pytest.raises(
        NonFiniteLossError, match=rf"^ImplicitRewards: the {what} in learning round 0.*Lower its lr"
    ) as error:
        implicit.learn(0, EXAMPLES)
    assert "\n" not in str(error.value)
    assert implicit.state_dict() == {"learned": -1}
    assert model.weights == model._fingerprint() == provider(random_model)._ready().weights
    assert model.state_dict()["moments"] == before["moments"] == {}
    assert implicit.metrics()["implicit_updates"] == 0


def test_rewards_that_are_not_finite_name_a_remedy_that_there_is(random_model, folder):
    """All is computed in float32 already: no dtype to choose."""
    implicit = provider(random_model)
    with torch.no_grad():
        next(implicit._ready()._model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"NaN or infinite in \d solutions; .*lower its lr") as error:
        implicit.provide(cases(), Tools(folder))
    assert "dtype" not in str(error.value)


def test_a_fixed_model_learns_nothing(random_model, folder, tmp_path):
    learnt = provider(random_model)
    learnt.learn(0, EXAMPLES)
    learnt._ready()._model.save_pretrained(tmp_path / "learnt")
    fixed = ImplicitRewards(str(tmp_path / "learnt"), reference=random_model, lr=0.0)
    fixed.learn(0, EXAMPLES)
    assert fixed.metrics()["implicit_updates"] == 0
    want = values(learnt.provide(cases(), Tools(folder)))
    for found, own in zip(values(fixed.provide(cases(), Tools(folder))), want, strict=True):
        assert found == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr is 0, and without a reference all implicit rewards would be 0"),
        ({"lr": -1.0}, "lr must be finite and not be negative"),
        ({"beta": 0.0}, "beta must be positive and finite, got 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive"),
        ({"solutions_per_step": 0}, "solutions_per_step must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        provider("m", **settings)


def test_a_state_of_another_model_is_refused_in_one_line(random_model):
    learnt = provider(random_model)
    learnt.learn(0, EXAMPLES)
    state = copy.deepcopy(learnt.state_dict())
    state["model"]["weights"].popitem()
    other = provider(random_model)
    other.load_state_dict(state)
    with pytest.raises(ConfigError, match=r"are those of another model, and data\.evidence\.model is") as refused:
        other.learn(1, EXAMPLES)
    assert "\n" not in str(refused.value)


def test_examples_are_those_of_all_ranks_in_order(monkeypatch):
    """Of this rank group 1, of the other group 0; undecided solutions are left out."""

    class Noting:
        def learn(self, round_index, examples):
            self.seen = [(e.completion_ids.tolist(), e.correct) for e in examples]

        def state_dict(self):
            return {"n": 1}

        def load_state_dict(self, state):
            self.state = state

    one, two, _, four = (c.judged for c in cases())
    others = [(0, 0, EXAMPLES[3])]
    monkeypatch.setattr(evidence, "gather", lambda own: [own, others])
    noting = Noting()
    solutions = (two, replace(one, outcome=Outcome.UNDECIDED), replace(four, outcome=Outcome.INCORRECT))
    teach([noting, ChosenTokenLogits("m")], {1: JudgedGroup(cases()[0].problem, solutions, 0.5)}, 7)  # pyright: ignore
    assert noting.seen == [([1], True), (list(IDS[1][1]), True), ([1], False)]
    state = evidence_state([noting, ChosenTokenLogits("m")])  # pyright: ignore
    assert state == {"evidence": {"Noting": {"n": 1}}}
    load_evidence_state([noting], state)  # pyright: ignore
    assert noting.state == {"n": 1}
    assert evidence_state([ChosenTokenLogits("m")]) == {}
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "rank", lambda: 1)
        assert evidence_state([noting]) == {}  # pyright: ignore
    with pytest.warns(UserWarning, match="no state of Noting"):
        load_evidence_state([noting], {})  # pyright: ignore


def fit(model: str, folder: Path, steps: int, implicit: ImplicitRewards, resume: Path | None = None):
    """Train, two solutions of two problems a round and one optimizer step; return policy weights and rounds."""
    L.seed_everything(0, verbose=False)
    rounds = Rounds()
    data = MathRolloutDataModule(
        train=ArithmeticProblems("1", n=8),
        verifier=LuckyByTurns(),
        credit=PRIMECredit(),
        evidence=implicit,
        batch_stage=Whitening(),
        group_size=2,
        problems_per_step=2,
        steps_per_round=1,
        steps_per_epoch=4,
        sampling=SamplingParams(max_new_tokens=6),
        prompt_template="{problem}",
        progress=False,
        store_dir=str(folder / "rounds"),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rounds, SafeCheckpoint(dirpath=folder / "ckpt", every_n_train_steps=1, save_top_k=-1)],
    )
    module = TPGRPOModule(model, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
    trainer.fit(module, datamodule=data, ckpt_path=resume)  # pyright: ignore[reportArgumentType]
    return [p.detach().clone() for p in module._built_policy.parameters()], rounds.seen


def rewards(rounds):
    return [e.values for r in rounds for g in r.groups for s in g.solutions for e in s.evidence]


@pytest.mark.slow
def test_a_resumed_or_killed_run_is_the_uninterrupted_one(random_model, tmp_path, monkeypatch):
    """Three rounds; resumed after the first, where it ended or where it was killed between learning and scoring the second."""
    whole, rounds = fit(random_model, tmp_path / "whole", 3, provider(random_model))
    assert [len(set(r)) > 1 for r in rewards(rounds)].count(True) > 6  # rewards that are not all alike
    uninterrupted = rewards(rounds)

    fit(random_model, tmp_path / "ended", 1, provider(random_model))
    dying = provider(random_model)

    def provide(cases, tools):
        """Raise when round 1 is learnt and is to be scored."""
        if dying._learned == 1:
            raise Crash
        return ImplicitRewards.provide(dying, cases, tools)

    monkeypatch.setattr(dying, "provide", provide)
    with pytest.raises(Crash):
        fit(random_model, tmp_path / "killed", 3, dying)
    for kind in ("ended", "killed"):
        (first,) = (tmp_path / kind / "ckpt").glob("*step=1*.ckpt")
        implicit = provider(random_model)
        weights, rounds = fit(random_model, tmp_path / kind, 3, implicit, first)
        assert [r.index for r in rounds] == [1, 2]
        assert rewards(rounds) == uninterrupted[4:]
        assert all(torch.equal(a, b) for a, b in zip(weights, whole, strict=True))
        assert implicit._learned == 2
