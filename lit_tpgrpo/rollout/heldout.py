"""Predict: sample held-out problems with the current policy, verify, judge and credit them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import lightning as L

from lit_tpgrpo.distributed import gather_sum, raise_on_all_ranks
from lit_tpgrpo.engines.base import CountingEngine
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.judges.base import Tally
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.evidence import needed_evidence, uses_engine
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.run_store import RunStore
from lit_tpgrpo.rollout.trainer_state import log_to_all, policy_of, sampling_precision


def predict_rounds(
    trainer: L.Trainer,
    maker: RoundMaker,
    parts: Sequence[Sequence[Assignment]],
    store: RunStore,
    capability: Capability,
    seed: int,
) -> Iterator[Round]:
    """Yield the judged and credited solutions of each part of this rank's problems.

    A part's ``metrics`` are those of a round, over all ranks, and ``predict/`` what its engine counts besides (see
    ``CountingEngine``); the loggers get the sums of the latter so far. Collective: every rank needs the same number of parts,
    some of them may be empty. Without the group filter and the batch stage, which compare the solutions of a whole round, and
    without evidence that the credit does not need.

    Args:
        trainer: its module is the policy.
        maker: the stages of a round.
        parts: this rank's problems, part by part.
        store: where they are stored as they complete.
        capability: what scales r_c.
        seed: of sampling, stored with the solutions.
    """
    policy = policy_of(trainer)
    cost: Tally | None = None
    evidence = needed_evidence(maker.evidence, maker.credit)
    maker = replace(maker, group_filter=None, batch_stage=None, evidence=evidence)
    maker.prepare_judge(policy)
    weights = fingerprint(policy.named_tensors())
    for index, part in enumerate(parts):
        sampled_with = maker.sampling_settings([a.problem for a in part], policy.policy_version, weights, seed)
        maker.engine.load_weights(policy)  # each time: a sleeping engine has none
        with sampling_precision(trainer):
            file = store.open_prediction(trainer, index, sampled_with, maker.judging_settings())
            version = policy.policy_version
            with raise_on_all_ranks(f"prediction, part {index},"):
                verified = maker.sample(index, part, file, version)
                share = maker.judge_share(index, part, verified, file, capability, policy_version=version)
            if uses_engine(maker.evidence):
                maker.engine.load_weights(policy)  # collective; the judge may have used the engine
            with raise_on_all_ranks(f"prediction, part {index},"):
                round_, tally = maker.credit_share(maker.evidence_share(share, file, seed))
        metrics = gather_sum(tally).metrics()
        if isinstance(maker.engine, CountingEngine):
            part_cost = gather_sum(maker.engine.tally())
            metrics |= _of_prediction(part_cost)
            cost = part_cost if cost is None else cost + part_cost
            log_to_all(trainer, _of_prediction(cost))
        yield replace(round_, metrics=metrics)


def _of_prediction(cost: Tally) -> dict[str, float]:
    return {f"predict/{name}": value for name, value in cost.metrics().items()}
