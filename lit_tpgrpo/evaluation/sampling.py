"""Sample and verify the sets of a split in one pass of the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lit_tpgrpo.engines.base import Engine, SamplingParams, TotallingEngine
from lit_tpgrpo.evaluation.sets import HeldoutTask, SetSampling
from lit_tpgrpo.evaluation.store import EvaluationStore
from lit_tpgrpo.judges.base import Counts
from lit_tpgrpo.records import EvaluatedGroup, Problem, Solution
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.sampling import divide_solution, verify_solutions
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
    policy, spent = policy_of(trainer), spending(maker.engine)
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
                    maker,
                    [t.problem for t in part],
                    [t.seed for t in part],
                    sampling.samples,
                    sampling.params,
                    policy_version=policy.policy_version,
                    done=done,
                ):
                    task = part[place]
                    cost = store.cost(task) if store is not None and place in done else spent()
                    group = replace(group, set_name=task.set.name, index=task.index, cost=cost)
                    if store is not None and place not in done:
                        store.add(task, group)
                    STOP.check()
                    yield group
    finally:
        maker.engine.sleep()


def spending(engine: Engine) -> Callable[[], Mapping[str, float]]:
    """Return a function that returns what the engine counted since its last call, from now on; nothing if it does not count."""
    if not isinstance(engine, TotallingEngine):
        return dict
    before = Counts(engine.totals())

    def spent() -> Mapping[str, float]:
        nonlocal before
        last, before = before, Counts(engine.totals())
        return {name: value - last.get(name, 0.0) for name, value in before.items()}

    return spent


def evaluate_problems(
    maker: RoundMaker,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    n: int,
    params: SamplingParams,
    *,
    policy_version: int,
    done: Mapping[int, tuple[Solution, ...]] | None = None,
) -> Iterator[tuple[int, EvaluatedGroup]]:
    """Sample n solutions of each problem and verify them; yield ``(index of the problem, group)`` as groups finish.

    The solutions in ``done``, by the problem's index, are verified and not sampled; they come first.
    """
    done = done or {}
    todo = [i for i in range(len(problems)) if i not in done]
    sampled = maker.sample_groups(
        [problems[i] for i in todo], [seeds[i] for i in todo], n, params, policy_version=policy_version
    )
    new = ((todo[j], solutions) for j, solutions in sampled) if todo else ()
    for i, solutions in itertools.chain(done.items(), new):
        divisions = [divide_solution(maker.format, s, params.stop) for s in solutions]
        checked = verify_solutions(maker.verifier, [(problems[i], s) for s in solutions], divisions)
        yield i, EvaluatedGroup(problems[i], solutions, tuple(o for o, _ in checked), tuple(a for _, a in checked))


def by_sampling(tasks: Sequence[HeldoutTask]) -> list[list[HeldoutTask]]:
    """Return the tasks in lists of equal sampling, in the order in which each sampling first occurs."""
    samplings: list[SetSampling] = []
    for task in tasks:
        if task.set.sampling not in samplings:
            samplings.append(task.set.sampling)
    order = sorted(tasks, key=lambda t: samplings.index(t.set.sampling))
    return [list(part) for _, part in itertools.groupby(order, key=lambda t: t.set.sampling)]
