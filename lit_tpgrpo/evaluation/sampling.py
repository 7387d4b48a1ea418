"""Sample and verify the sets of a split in one pass of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lit_tpgrpo.evaluation.sets import HeldoutTask, SetSampling
from lit_tpgrpo.evaluation.store import EvaluationStore
from lit_tpgrpo.records import EvaluatedGroup
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.sampling import evaluate_problems
from lit_tpgrpo.rollout.trainer_state import policy_of, sampling_precision
from lit_tpgrpo.signals import STOP


def evaluate_tasks(
    trainer: L.Trainer, maker: RoundMaker, tasks: Sequence[HeldoutTask], store: EvaluationStore | None
) -> Iterator[EvaluatedGroup]:
    """Yield the evaluated group of each of this rank's problems as the engine finishes it.

    The weights are loaded once. Sets with the same number of samples and the same parameters are sampled together, others
    one after another. The engine sleeps again when the iteration ends or is closed.

    Args:
        trainer: its module is the policy.
        maker: engine, verifier, tokenizer, prompt template and solution format.
        tasks: this rank's problems.
        store: where groups are kept; those that are complete are verified again and not sampled. None keeps none.
    """
    policy = policy_of(trainer)
    maker.engine.load_weights(policy)
    maker.engine.wake()
    try:
        with sampling_precision(trainer):
            for part in by_sampling(tasks):
                done = {} if store is None else store.groups(part)
                if done and store is not None:
                    rank_zero_info(f"{len(done)} of {len(part)} problems were sampled before, see {store.folder}")
                sampling = part[0].set.sampling
                for place, group in evaluate_problems(
                    maker.engine,
                    maker.verifier,
                    maker.tokenizer,
                    [t.problem for t in part],
                    [t.seed for t in part],
                    sampling.samples,
                    sampling.params,
                    template=maker.template,
                    format=maker.format,
                    policy_version=policy.policy_version,
                    done=done,
                ):
                    if store is not None and place not in done:
                        store.add(part[place], group)
                    STOP.check()
                    yield replace(group, set_name=part[place].set.name, index=part[place].index)
    finally:
        maker.engine.sleep()


def by_sampling(tasks: Sequence[HeldoutTask]) -> list[list[HeldoutTask]]:
    """Return the tasks in lists of equal sampling, in the order in which each sampling first occurs."""
    samplings: list[SetSampling] = []
    for task in tasks:
        if task.set.sampling not in samplings:
            samplings.append(task.set.sampling)
    order = sorted(tasks, key=lambda t: samplings.index(t.set.sampling))
    return [list(part) for _, part in groupby(order, key=lambda t: t.set.sampling)]
