"""Check the DataModule's settings against each other, with the remedy in the message."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import check_positive
from lit_tpgrpo.credit.filters.base import ChecksGroupSize, GroupFilter
from lit_tpgrpo.engines.base import Engine, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import (
    AnswerProbes,
    Continuations,
    Evidence,
    Preferences,
    ReferenceLogprobs,
    SolutionGrade,
    StepScores,
    TokenRewards,
)
from lit_tpgrpo.judges.evidence.base import ChecksEngine, ChecksTokenizer, EvidenceProvider
from lit_tpgrpo.rollout.correction import Correction
from lit_tpgrpo.search.engine import SearchingEngine

_PROVIDERS: dict[type[Evidence], str] = {
    AnswerProbes: "lit_tpgrpo.GoldAnswerProbes",
    Continuations: "lit_tpgrpo.MonteCarloContinuations",
    Preferences: "lit_tpgrpo.PairwisePreferences",
    SolutionGrade: "lit_tpgrpo.PrinciplesGrades",
    TokenRewards: "lit_tpgrpo.ChosenTokenLogits or lit_tpgrpo.ImplicitRewards",
    StepScores: (
        "lit_tpgrpo.LabelScores (from labels), lit_tpgrpo.ContinuationScores or lit_tpgrpo.FeasiblePrefixScores (sampled)"
    ),
}


def check_counts(group_size: int, keep_rounds: int, **positive: int) -> None:
    """Check numbers of solutions, problems, steps and rounds.

    Args:
        group_size: at least 2.
        keep_rounds: at least 0.
        positive: at least 1 each, by name.

    Raises:
        ConfigError: one is too small.
    """
    if group_size < 2:
        raise ConfigError(
            f"group_size must be at least 2, got {group_size}: an advantage is a reward relative to the other "
            "solutions of the same problem, and one solution has no others"
        )
    check_positive(**positive)
    if keep_rounds < 0:
        raise ConfigError(f"keep_rounds must be 0 (keep all) or positive, got {keep_rounds}")


def check_trains(engine: Engine) -> None:
    """Check that training can learn from what the engine samples.

    Raises:
        ConfigError: it returns the results of searches.
    """
    if isinstance(engine, SearchingEngine):
        raise ConfigError(
            "SearchingEngine chooses among samples, and what it chooses is no sample of the policy: train without it, and "
            "search with predict, test or validate"
        )


def check_filter(group_filter: GroupFilter | None, group_size: int) -> None:
    """Check that the filter leaves solutions to compare.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(group_filter, ChecksGroupSize):
        group_filter.check_group_size(group_size)


def check_sampling(engine: Engine, sampling: SamplingParams | None, correction: Correction | None) -> None:
    """Check that training solutions are random and that their log-probs can be compared with the trainer's.

    A mismatched engine returns log-probs of the distribution that ``top_p`` and ``top_k`` leave, the trainer computes those
    of the whole one. Only the correction reconciles them: the loss then takes the trainer's as the old ones.

    Raises:
        ConfigError: one of both does not hold.
    """
    if sampling is None:
        return
    if sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature must be positive, got 0: greedy solutions of one problem are all equal, and an "
            "advantage compares them; eval_sampling may be greedy"
        )
    if sampling.cuts_distribution and correction is None and getattr(engine, "mismatched", False):
        raise ConfigError(
            f"{type(engine).__name__} returns log-probs after top_p and top_k, which the trainer cannot compare with "
            "its own; sample for training with top_p 1 and top_k 0, or leave data.correction on"
        )


def check_providers(
    providers: Sequence[EvidenceProvider], engine: Engine, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Check that providers of evidence can work with the engine and the policy's tokenizer, before anything is sampled.

    A module without a tokenizer is refused elsewhere.

    Raises:
        ConfigError: one cannot.
    """
    for provider in providers:
        if isinstance(provider, ChecksEngine):
            provider.check_engine(engine)
        if tokenizer is not None and isinstance(provider, ChecksTokenizer):
            provider.check_tokenizer(tokenizer)


def checked_evidence(
    evidence: EvidenceProvider | Sequence[EvidenceProvider] | None, *users: object
) -> tuple[EvidenceProvider, ...]:
    """Return the providers of evidence, if they give what the users' attribute ``needs`` lists.

    Args:
        evidence: one provider or several.
        users: the credit assignment, the group filter, the batch stage.

    Raises:
        ConfigError: a kind of evidence is needed and not given, or given twice.
    """
    several = evidence if isinstance(evidence, Sequence) else () if evidence is None else (evidence,)
    given = [provider.gives for provider in several]
    for kind in given:
        if given.count(kind) > 1:
            raise ConfigError(f"data.evidence has {given.count(kind)} providers of {kind.__name__}; give one")
    for user in users:
        for kind in getattr(user, "needs", ()):
            if kind not in given and kind is not ReferenceLogprobs:  # the trainer computes these
                provider = _PROVIDERS.get(kind, f"a provider of {kind.__name__}")
                raise ConfigError(
                    f"{type(user).__name__} needs {kind.__name__} of each solution, which nothing provides: add "
                    f"--data.evidence {provider}"
                )
    return tuple(several)
