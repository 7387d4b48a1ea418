"""Searches over a tree of texts that an engine grows by script: what they choose, and how many tokens it costs."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import Completion, Engine, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Counts, Judge, abstain, sums_of
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.noisy import NoisyJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.wrapped import WrapperTally
from lit_tpgrpo.records import StepLabel, StopReason, Verdict
from lit_tpgrpo.search import (
    BeamSearch,
    BestOfN,
    GreedyStepSearch,
    JudgeStepScores,
    NoScores,
    Search,
    SearchingEngine,
    WeightedVoting,
    best_of,
    run_searches,
    weighted_vote,
)
from lit_tpgrpo.search.engine import SearchTally
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.text.formats.plain_chain import PlainChain

PARAMS = SamplingParams(max_new_tokens=200)


def decode(ids) -> str:
    return "".join(map(chr, ids))


class Tree(Engine):
    """Continues a text by the children that the tree has for it, in order, and over again; tokens are characters.

    A child that is followed by nothing ends with EOS, which is the character 0.
    """

    def __init__(self, tree: dict[str, list[str]]) -> None:
        self.tree = tree
        self.calls: list[tuple[int, int]] = []
        self.drawn: Counter[str] = Counter()
        self.params: list[SamplingParams] = []

    def load_weights(self, policy) -> None:
        pass

    def sample(self, prompts, n, params, seeds):
        self.calls.append((len(prompts), n))
        self.params.append(params)
        for i, prompt in enumerate(prompts):
            yield i, tuple(self._completion(decode(prompt[1:]), params) for _ in range(n))

    def _completion(self, prefix: str, params: SamplingParams) -> Completion:
        text = ""
        while True:
            children = self.tree.get(prefix + text, [])
            if not children:
                text, stop = text + "\0", StopReason.EOS
            else:
                drawn = self.drawn[prefix + text]
                self.drawn[prefix + text] += 1
                text += children[drawn % len(children)]
                stop = StopReason.STOP_STRING if "\n\n" in params.stop and text.endswith("\n\n") else None
            if len(text) >= params.max_new_tokens and stop is not StopReason.EOS:
                text, stop = text[: params.max_new_tokens], StopReason.LENGTH
            if stop is not None:
                return Completion(tuple(map(ord, text)), (-1.0,) * len(text), stop)


class Marked:
    """Scores a step by the mark that begins it: + 1, 0 one half, - 0."""

    def __init__(self) -> None:
        self.cases: list[tuple[str, tuple[str, ...]]] = []

    def scores(self, cases):
        self.cases += cases
        return [[{"+": 1.0, "0": 0.5, "-": 0.0}.get(step[:1], 1.0) for step in steps] for _, steps in cases]


def search(tree: dict[str, list[str]] | Tree, how: Search, scorer=None, params=PARAMS, **settings):
    engine = tree if isinstance(tree, Tree) else Tree(tree)
    prompts = [[ord("?")]]
    ((index, found),) = run_searches(engine, scorer or Marked(), decode, prompts, [how], params, [7], **settings)
    assert index == 0
    return found.partial.text.rstrip("\0"), found.tokens


# ---- choosing among whole solutions ----


def test_worked_vote_of_math_shepherd():
    """Min-scores .9 (A), .6 (B), .5 (B): B wins 1.1 against .9, best-of-n takes A."""
    assert best_of([0.9, 0.6, 0.5]) == 0
    assert weighted_vote(["A", "B", "B"], [0.9, 0.6, 0.5]) == 1


@pytest.mark.parametrize(
    ("answers", "scores", "index"),
    [
        (["1", "2"], [0.5, 0.5], 0),  # a tie: the earlier
        (["1", "2", "2"], [0.8, 0.3, 0.5], 0),  # equal sums: the best solution
        ([None, "2"], [0.9, 0.1], 1),  # no answer is no vote
        ([None, None], [0.2, 0.3], 1),
        (["1", " 1 ", "2"], [0.2, 0.3, 0.4], 1),  # written alike
        (["1 1/2", "11/2", "5"], [0.3, 0.3, 0.4], 2),  # not alike
        (["1"], [0.0], 0),
    ],
)
def test_votes(answers, scores, index):
    assert weighted_vote(answers, scores) == index


def boxed(mark: str, answer: int) -> str:
    return f"{mark}work\n</think>\n\n\\boxed{{{answer}}}"


WHOLE = {"": [boxed("+", 1), boxed("0", 2), boxed("0", 2), boxed("0", 2)]}


def test_best_of_n_and_voting_differ():
    assert search(WHOLE, BestOfN(4))[0] == boxed("+", 1)
    assert search(WHOLE, WeightedVoting(4))[0] == boxed("0", 2)  # 1.5 against 1
    assert search(WHOLE, WeightedVoting(2))[0] == boxed("+", 1)
    assert search(WHOLE, WeightedVoting(4), NoScores())[0] == boxed("0", 2)
    text, tokens = search(WHOLE, BestOfN(1))
    assert (text, tokens) == (boxed("+", 1), len(boxed("+", 1)) + 1)


@pytest.mark.parametrize(
    ("aggregate", "chosen"),
    [("min", 1), ("mean", 0), ("product", 0), ("last", 2)],
    ids=["min", "mean", "product", "last"],
)
def test_aggregates(aggregate, chosen):
    texts = ["+a\n\n+b\n\n0c", "0a\n\n0b\n\n0c", "-a\n\n-b\n\n+c"]
    if aggregate == "min":
        texts[0] = "+a\n\n+b\n\n-c"
    assert search({"": texts}, BestOfN(3, aggregate))[0] == texts[chosen]


def test_a_solution_that_was_cut_is_taken_last():
    tree = {"": ["+" * 30, "-short"]}
    assert search(tree, BestOfN(2), params=SamplingParams(max_new_tokens=20))[0] == "-short"
    assert search({"": ["+" * 30]}, BestOfN(2), params=SamplingParams(max_new_tokens=20))[0] == "+" * 20


def test_without_an_answer_a_vote_takes_the_best_solution_that_ended():
    """The one that the token limit cut has the higher score."""
    tree = {"": ["+" * 30, "0no box", "-short"]}
    assert search(tree, WeightedVoting(3), params=SamplingParams(max_new_tokens=20))[0] == "0no box"
    assert search({"": ["+" * 30]}, WeightedVoting(2), params=SamplingParams(max_new_tokens=20))[0] == "+" * 20


# ---- step by step ----

HGS = {
    "": ["-a\n\n", "0b\n\n", "+c\n\n"],
    "+c\n\n": ["-d\n\n", "-e\n\n", "-f\n\n"],
    "0b\n\n": ["+end", "-g\n\n", "-h\n\n"],
}


def test_worked_example_of_greedy_search_with_back_tracking():
    """Children a(-), b(0), c(+): c. All of its children are negative: back to the root, next b."""
    engine, scorer = Tree(HGS), Marked()
    text, tokens = search(engine, GreedyStepSearch(children=3), scorer)
    assert text == "0b\n\n+end"
    assert engine.calls == [(1, 3)] * 3
    assert tokens == 12 + 12 + 5 + 8
    grown = [steps for _, steps in scorer.cases if len(steps) == 2]
    assert grown[:3] == [("+c\n\n", mark) for mark in ("-d\n\n", "-e\n\n", "-f\n\n")]


def test_where_everything_is_negative_the_prompt_is_expanded_again():
    engine = Tree({"": ["-a\n\n", "-b\n\n", "+c"]})
    assert search(engine, GreedyStepSearch(children=2))[0] == "+c"
    assert engine.calls == [(1, 2)] * 2


def test_at_the_limit_the_best_so_far_is_sampled_to_its_end():
    tree = {"": ["+a\n\n", "-b\n\n"], "+a\n\n": ["-c\n\n", "-d\n\n"], "-b\n\n": ["+no"]}
    engine = Tree(tree)
    text, _ = search(engine, GreedyStepSearch(children=2, max_expansions=2))
    assert text == "+a\n\n-c\n\n"  # a is the longest that is not negative; its end is what the engine draws
    assert engine.calls == [(1, 2), (1, 2), (1, 1)]
    # A whole solution is better than any that is not, even a negative one.
    assert search({"": ["-whole", "-b\n\n"]}, GreedyStepSearch(2, max_expansions=1))[0] == "-whole"


def test_a_neutral_step_is_taken_only_without_a_positive_one():
    assert search({"": ["0a", "+b"]}, GreedyStepSearch(2))[0] == "+b"
    assert search({"": ["0a", "-b"]}, GreedyStepSearch(2))[0] == "0a"


BEAM = {
    "": ["0a\n\n", "+b\n\n"],
    "0a\n\n": ["+good", "+good"],
    "+b\n\n": ["-bad", "-bad"],
}


def test_a_beam_keeps_what_a_greedy_choice_would_drop():
    assert search(BEAM, BeamSearch(width=1, children=2))[0] == "+b\n\n-bad"
    text, _ = search(BEAM, BeamSearch(width=2, children=1))
    assert text == "0a\n\n+good"


def test_a_beam_holds_each_text_once_and_ends_with_what_is_whole():
    engine = Tree({"": ["+a\n\n", "+a\n\n", "0b\n\n", "-c\n\n"], "+a\n\n": ["+x"], "0b\n\n": ["+y"]})
    assert search(engine, BeamSearch(width=2, children=2))[0] == "+a\n\n+x"
    assert engine.calls == [(1, 4), (2, 2)]


def test_a_beam_stops_at_its_limit():
    engine = Tree({"": ["+a\n\n"], "+a\n\n": ["+b\n\n"], "+a\n\n+b\n\n": ["+c\n\n"]})
    assert search(engine, BeamSearch(1, 1, max_steps=2))[0] == "+a\n\n+b\n\n+c\n\n"
    assert engine.calls == [(1, 1)] * 3
    assert engine.params[-1].stop == ()


def test_a_long_step_is_continued_and_the_limit_of_tokens_is_kept():
    engine = Tree({"+" * k: ["+"] for k in range(50)})
    text, tokens = search(
        engine, GreedyStepSearch(1, max_expansions=3), params=SamplingParams(max_new_tokens=20), step_tokens=8
    )
    # The third step reaches the limit without an end: what came before it is sampled to its end instead.
    assert (text, tokens) == ("+" * 20, 8 + 8 + 4 + 4)
    assert [p.max_new_tokens for p in engine.params] == [8, 8, 4, 4]


@pytest.mark.parametrize("children", [1, 3])
def test_where_the_limit_of_tokens_cuts_every_next_step_the_search_ends(children):
    """It began at the prompt again, a hundred times: 672 tokens in place of 24 with one child."""
    engine = Tree({"+" * k: ["+"] for k in range(50)})
    how, params = GreedyStepSearch(children), SamplingParams(max_new_tokens=20)
    text, tokens = search(engine, how, params=params, step_tokens=8)
    assert (text, tokens) == ("+" * 20, children * (8 + 8 + 4) + 4)


def test_where_one_next_step_is_negative_and_not_cut_the_prompt_is_expanded_again():
    engine = Tree({"": ["+" * 30, "-a\n\n", "+c"]})
    assert search(engine, GreedyStepSearch(2), params=SamplingParams(max_new_tokens=20))[0] == "+c"
    assert engine.calls == [(1, 2)] * 2


@pytest.mark.parametrize("how", [GreedyStepSearch(1, max_expansions=2), BeamSearch(1, 1)])
def test_a_step_that_ends_with_the_last_token_is_cut(how):
    """Engines say that it ended with a stop string; no engine can be asked for the 0 tokens that are left."""

    class Ending(Tree):
        def _completion(self, prefix, params):
            return Completion(tuple(map(ord, "+a\n\n")), (-1.0,) * 4, StopReason.STOP_STRING)

    engine = Ending({})
    ((_, found),) = run_searches(engine, Marked(), decode, [[ord("?")]], [how], SamplingParams(max_new_tokens=4), [7])
    assert (found.partial.text, found.partial.stop) == ("+a\n\n", StopReason.LENGTH)


class Recites(Tree):
    """Says one text by heart, from wherever a prompt ends, up to the first stop string in what it says this time."""

    def __init__(self, text: str) -> None:
        super().__init__({})
        self.text = text

    def _completion(self, prefix, params):
        said, stop = "", StopReason.EOS
        for letter in self.text[len(prefix) :]:
            said += letter
            if any(string in said for string in params.stop):
                stop = StopReason.STOP_STRING
            elif len(said) == params.max_new_tokens:
                stop = StopReason.LENGTH
            if stop is not StopReason.EOS:
                break
        said += "\0" * (stop is StopReason.EOS)
        return Completion(tuple(map(ord, said)), (-1.0,) * len(said), stop)


@pytest.mark.parametrize("step_tokens", [256, 3])
@pytest.mark.parametrize(
    "how",
    [BestOfN(1), GreedyStepSearch(1), GreedyStepSearch(1, max_expansions=1), BeamSearch(1, 1)],
    ids=["best of n", "greedy", "greedy, one expansion", "beam"],
)
@pytest.mark.parametrize(
    ("stop", "chosen"),
    [
        (("\n\nQuestion:",), "+one\n\n+two\n\nQuestion:"),
        (("no", "\n\nQuestion:", "+two\n\nQ"), "+one\n\n+two\n\nQ"),
        (("n",), "+on"),
        (("+four", "three\n\n+"), "+one\n\n+two\n\nQuestion: three\n\n+"),
        (("nothing",), "+one\n\n+two\n\nQuestion: three\n\n+four\0"),
    ],
    ids=["question", "the first of three", "one letter", "the last step", "none"],
)
def test_a_stop_string_may_begin_in_an_earlier_step(how, step_tokens, stop, chosen):
    """Every step is a call of its own, and an engine looks for stop strings in what it samples."""
    engine = Recites("+one\n\n+two\n\nQuestion: three\n\n+four")
    params = SamplingParams(max_new_tokens=200, stop=stop)
    ((_, found),) = run_searches(engine, Marked(), decode, [[ord("?")]], [how], params, [7], step_tokens)
    partial = found.partial
    assert decode(partial.token_ids) == chosen
    assert partial.text == chosen.rstrip("\0")
    assert len(partial.logprobs) == len(chosen)
    assert partial.stop is (StopReason.EOS if chosen.endswith("\0") else StopReason.STOP_STRING)


def test_the_token_that_completes_a_stop_string_stays_whole():
    def pairs(ids) -> str:
        return "".join(chr(i) * 2 for i in ids)

    engine = Recites("+a\nbc")  # ++aa, the end of a step, bb, cc; each two letters are one token
    params = SamplingParams(max_new_tokens=200, stop=("\n\nb",))
    ((_, found),) = run_searches(engine, Marked(), pairs, [[ord("?")]], [BeamSearch(1, 1)], params, [7], step_tokens=3)
    assert (found.partial.text, found.partial.stop) == ("++aa\n\nbb", StopReason.STOP_STRING)
    assert found.tokens == 3 + 3  # those that were cut off have been sampled too


def test_texts_that_are_scored_hold_no_end_of_sequence():
    scorer = Marked()
    search({"": ["+a\n\n"], "+a\n\n": ["+b"]}, GreedyStepSearch(1), scorer)
    assert [steps for _, steps in scorer.cases] == [("+a\n\n",), ("+a\n\n", "+b")]


def test_searches_of_many_prompts_share_the_engines_calls():
    engine = Tree(HGS)
    prompts = [[ord("?")], [ord("?")], [ord("?")]]
    searches = [GreedyStepSearch(3), BestOfN(3), GreedyStepSearch(3)]
    results = dict(run_searches(engine, Marked(), decode, prompts, searches, PARAMS, [1, 2, 3]))
    assert sorted(results) == [0, 1, 2]
    assert results[0].partial.text == results[2].partial.text
    assert engine.calls[:2] == [(2, 3), (1, 3)]  # one step of two searches at a time, the whole solutions of the third


def test_what_is_sampled_depends_on_the_prompts_own_seed():
    def seeds_of(prompts, seeds):
        seen = []

        class Noting(Tree):
            def sample(self, prompts, n, params, seeds):
                seen.extend(seeds)
                return super().sample(prompts, n, params, seeds)

        list(run_searches(Noting(WHOLE), NoScores(), decode, prompts, [BestOfN(1)] * len(prompts), PARAMS, seeds))
        return seen

    one, two = [ord("?")], [ord("!")]
    assert seeds_of([one], [5])[0] == seeds_of([two, one], [4, 5])[1]
    assert len(set(seeds_of([one, one], [5, 6]))) == 2


# ---- the engine and scores from judges ----


def policy() -> Any:
    return SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids, **settings: decode(ids)))


def test_an_engine_of_searches():
    engine = SearchingEngine(Tree(HGS), GreedyStepSearch(3), Marked())
    assert isinstance(engine, Engine)
    with pytest.raises(RuntimeError, match="before load_weights"):
        next(engine.sample([[1]], 1, PARAMS, [0]))
    engine.load_weights(policy())
    results = dict(engine.sample([[ord("?")], [ord("!")]], 2, PARAMS, [1, 2]))
    assert sorted(results) == [0, 1]
    assert all(len(completions) == 2 for completions in results.values())
    completion = results[0][0]
    assert (decode(completion.token_ids), completion.stop) == ("0b\n\n+end\0", StopReason.EOS)
    assert len(completion.logprobs) == len(completion.token_ids)
    assert engine.tokens > 4 * len(completion.token_ids)
    assert engine.totals() == {
        "search_tokens": engine.tokens,
        "search_solutions": 4,
    }  # takes nothing from the next line
    assert engine.tally().metrics() == {"search_tokens": engine.tokens, "search_solutions": 4}
    assert engine.tally().metrics() == {"search_tokens": 0, "search_solutions": 0}
    assert engine.totals() == {"search_tokens": engine.tokens, "search_solutions": 4}
    assert engine.tally().metrics() == {"search_tokens": 0, "search_solutions": 0}
    with pytest.raises(ConfigError, match="at temperature 0 they are all the same"):
        next(engine.sample([[1]], 1, SamplingParams(temperature=0.0), [0]))


def test_training_on_searches_is_refused():
    """Before the run's folder is locked or anything is loaded."""
    engine = SearchingEngine(Tree(HGS), BestOfN(2), NoScores())
    with pytest.raises(ConfigError, match="train without it"):
        MathRolloutDataModule(train=ArithmeticProblems("1", n=4), engine=engine).setup("fit")


class Resource(Judge):
    """A judge with weights, counters and a process."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.said = fails, []

    needs_policy = True

    def refresh(self, policy):
        self.said.append("refreshed")
        return True

    def judge(self, cases):
        return ((i, abstain(case, "")) for i, case in enumerate(cases))

    def metrics(self):
        return {"cases": 3.0}

    def close(self):
        self.said.append("closed")
        if self.fails:
            raise OSError("the judge's process")


def test_the_scorers_judge_has_the_weights_is_counted_and_is_closed():
    class Closing(Tree):
        closed = False

        def load_weights(self, policy):
            judge.said.append("engine")

        def close(self):
            self.closed = True

    judge, tree = Resource(fails=True), Closing(WHOLE)
    engine = SearchingEngine(tree, BestOfN(2), JudgeStepScores(judge))
    engine.load_weights(policy())
    assert judge.said == ["refreshed", "engine"]  # one engine may serve both: the policy's weights come last
    assert (engine.tally() + engine.tally()).metrics()["search_judge_cases"] == 6
    with pytest.raises(OSError, match="the judge's process"):
        engine.close()
    assert tree.closed
    assert judge.said[-1] == "closed"


def test_settings_of_a_search_are_those_of_its_parts():
    """Stored evaluations are reused only where they are equal; BestOfN(2) read those of BestOfN(64)."""

    def settings(how, scorer=None):
        return SearchingEngine(Tree({}), how, scorer or NoScores()).settings

    given = [
        settings(BestOfN(2)),
        settings(BestOfN(3)),
        settings(WeightedVoting(2)),
        settings(WeightedVoting(2, format=PlainChain())),
        settings(BestOfN(2), JudgeStepScores(RuleJudge())),
        settings(BestOfN(2), JudgeStepScores(RuleJudge(), unknown=0.1)),
        settings(BestOfN(2), JudgeStepScores(NoisyJudge(RuleJudge()))),
    ]
    assert len({json.dumps(s, sort_keys=True) for s in given}) == len(given)


def test_a_judge_and_the_waiting_get_the_engine_that_samples():
    """A judge that shares the policy's engine would have its replies searched for, and scored as if they were solutions."""

    class Sharing(Judge):
        def share_engine(self, engine):
            self.engine = engine

        def judge(self, cases):
            return iter(())

    class Waiting(Tree):
        while_waiting = staticmethod(lambda: None)

    inner, judge = Waiting({}), Sharing()
    MathRolloutDataModule(
        train=ArithmeticProblems("1", n=4), engine=SearchingEngine(inner, BestOfN(1), NoScores()), judge=judge
    )
    assert judge.engine is inner
    assert inner.while_waiting == STOP.check


def test_a_scorer_that_does_not_fit_is_named():
    class Wrong:
        def scores(self, cases):
            return [[2.0] for _ in cases]

    with pytest.raises(ConfigError, match="Wrong must give one score in"):
        search(WHOLE, BestOfN(1), Wrong())


def test_scores_from_a_judge():
    class Labels(Judge):
        """Calls every step with the word bad INCORRECT; abstains without an answer block, and sees no gold answer."""

        def judge(self, cases):
            for i, case in enumerate(cases):
                assert case.problem.answer == ""
                texts = [case.solution.text[s.start : s.end] for s in case.steps]
                labels = [StepLabel.INCORRECT if "bad" in t else StepLabel.CORRECT for t in texts]
                whole = bool(case.steps) and case.steps[-1].is_answer
                yield i, Verdict(case.steps, tuple(labels)) if whole else abstain(case, "no answer block")

    scorer = JudgeStepScores(Labels())
    steps = ("One good step here.\n\n", "Then a bad step.\n</think>\n\n", "So \\boxed{4}.")
    assert list(scorer.scores([("2 + 2?", steps), ("2 + 2?", steps[:1])])) == [[1.0, 0.0, 1.0], [0.5]]


def test_settings_are_refused():
    for how in (BestOfN, WeightedVoting, GreedyStepSearch, BeamSearch):
        with pytest.raises(ConfigError, match="must be at least 1, got 0"):
            how(0)
    with pytest.raises(ConfigError, match="expected 0 <= negative < positive"):
        GreedyStepSearch(positive=0.2, negative=0.2)
    with pytest.raises(ConfigError, match="step_tokens must be at least 1"):
        SearchingEngine(Tree({}), BestOfN(1), NoScores(), step_tokens=0)


def test_what_may_be_added_up_of_a_searchs_cost():
    """Counts and cost, of a wrapped judge and the one inside; shares, means and latencies are left out."""
    counters = Counters(Counter(requests=3, tokens_prompt=10, tokens_completion=5), [0.5, 1.5], 1e5, 2e5)
    sums = SearchTally(Counts(search_tokens=7), WrapperTally(counters, Counts(labels_flipped=2))).sums()
    assert sums["search_tokens"] == 7
    assert sums["search_judge_requests"] == 3
    assert sums["search_judge_cost"] == pytest.approx(2.0)
    assert sums["search_judge_labels_flipped"] == 2
    assert not [name for name in sums if "latency" in name or "share" in name or "per_case" in name]
    assert sums_of(NotSummable()) == {}


class NotSummable:
    def __add__(self, other):
        return self

    def metrics(self):
        return {"share": 0.5}
