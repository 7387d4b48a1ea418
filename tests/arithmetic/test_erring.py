"""The erring policy: its level, the chains that it was trained on, and the shipped weights."""

import json
import math
import random
from dataclasses import asdict, replace
from itertools import pairwise
from statistics import fmean

import pytest
from transformers import AutoTokenizer, Qwen2ForCausalLM

from lit_tpgrpo.datamodules.arithmetic import erring_warmstart, warmstart
from lit_tpgrpo.datamodules.arithmetic.chains import NoiseRates, write_chain
from lit_tpgrpo.datamodules.arithmetic.erring_warmstart import ERRING, LEVEL, ErringStage, ErringWarmStart
from lit_tpgrpo.datamodules.arithmetic.measure import is_correct, sample_texts
from lit_tpgrpo.datamodules.arithmetic.phrase_tokenizer import phrase_tokenizer
from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, Level, as_problem, draw_task, make_problems
from lit_tpgrpo.datamodules.arithmetic.tiny import erring_policy_path, tiny_policy_path
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, solution_truth
from lit_tpgrpo.pretrained import resolve_model
from lit_tpgrpo.records import StepLabel


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((erring_policy_path() / "warmstart.json").read_text())


def test_a_wrong_result_that_is_visible_is_not_below_the_modulus():
    noise = NoiseRates(error=1, error_multiply=1, visible=1, notice_now=1, botched=0, check=0, filler=0, omitted=0)
    task = draw_task(LEVELS["1"], random.Random(0))
    seen = set()
    for seed in range(50):
        chain = write_chain(task, noise, random.Random(seed))
        wrong = [p.claim.result for p in chain.paragraphs if p.kind is Kind.STEP and p.claim]
        assert all(10 <= result <= 19 for result in wrong)
        assert [p.claim for p in chain.paragraphs if p.kind is Kind.CORRECTION] == list(task.equations)
        seen |= set(wrong)
    assert seen == set(range(10, 20))


def test_a_correction_that_is_wrong_again_is_corrected_at_once():
    noise = NoiseRates(error=1, error_multiply=1, visible=1, notice_now=1, notice_again=1, botched=0.5, check=0, filler=0,
                       omitted=0, max_reflections=1000)  # fmt: skip
    task = draw_task(LEVELS["1"], random.Random(0))
    longest = 0
    for seed in range(50):
        chain = write_chain(task, noise, random.Random(seed))
        kinds = [p.kind for p in chain.paragraphs]
        first, second = kinds.index(Kind.STEP), [*kinds, Kind.STEP].index(Kind.STEP, kinds.index(Kind.STEP) + 1)
        attempts = chain.paragraphs[first + 1 : second]
        # all wrong but the last; a correction that repeats the denied result reads as a check of it, and ends them
        assert all(p.kind is Kind.CORRECTION and p.claim and p.claim.result >= 10 for p in attempts[:-1])
        assert attempts[-1].kind is Kind.CHECK or attempts[-1].claim == task.equations[0]
        longest = max(longest, len(attempts))
    assert longest >= 4


def test_no_operation_occurs_twice_at_a_distinct_level():
    rng = random.Random(0)
    for _ in range(50):
        operations = draw_task(LEVELS[LEVEL], rng).operations
        assert len(operations) == len(set(operations)) == 16
    # all 21 operations modulo 10: nine operands for + and -, and 3, 7, 9, the multipliers coprime with 10
    everything = draw_task(Level(21, 10, distinct=True), rng).operations
    assert sorted((o.symbol, o.operand) for o in everything) == sorted(
        [(s, n) for s in "+-" for n in range(1, 10)] + [("*", n) for n in (3, 7, 9)]
    )


def test_a_chain_is_two_tokens_an_equation_and_one_a_phrase():
    task = draw_task(LEVELS[LEVEL], random.Random(0))
    tokenizer = phrase_tokenizer(LEVELS[LEVEL])
    text = (
        "Okay, I start with 3 and work modulo 10.\n\nFirst, 3-7=15.\n\nWait, 3-7=15 is wrong. It should be 3-7=6.\n</think>\n\n"
        "So 3-7=6, and the answer is \\boxed{6}."
    )
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in ids] == [
        *("Okay, I start with ", "3", " and work modulo ", "1", "0", ".\n\n"),
        *("First, ", "3-7", "=15", ".\n\n"),
        *("Wait, ", "3-7", "=15", " is wrong. It should be ", "3-7", "=6", ".", "\n", "</think>", "\n\n"),
        *("So ", "3-7", "=6", ", and the answer is \\boxed{", "6", "}", "."),
    ]
    # the statement: an operation is one token with the comma before it
    words = [tokenizer.decode([i]) for i in tokenizer.encode(task.prompt)]
    assert words[:5] == ["Working modulo ", "1", "0", ", start with ", str(task.start)]
    assert words[5:] == [*(f", {o.words}" for o in task.operations), ". What is the result?"]


def test_every_chain_of_the_level_is_read_back_and_short():
    tokenizer, rng = phrase_tokenizer(LEVELS[LEVEL]), random.Random(0)
    lengths = []
    for _ in range(100):
        text = write_chain(draw_task(LEVELS[LEVEL], rng), replace(ERRING, variety=1.0), rng).text
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        lengths.append(len(ids))
    assert fmean(lengths) <= 260


def test_the_number_of_tasks_of_a_distinct_level():
    assert Level(2, 10, distinct=True).tasks == 10 * 21 * 20
    assert Level(2, 10).tasks == 10 * 21**2
    assert LEVELS[LEVEL].tasks == 10 * math.factorial(21) // math.factorial(5)
    with pytest.raises(ValueError, match=r"steps must be at most 21, the number of distinct operations, got 22"):
        Level(22, 10, distinct=True)


def test_the_chains_are_what_process_rewards_are_for():
    """Long, right in one case of five, and by way of corrected errors."""
    rng = random.Random(0)
    lengths, right, corrected, thoughts = [], [], [], []
    for _ in range(300):
        task = draw_task(LEVELS[LEVEL], rng)
        chain = write_chain(task, ERRING, rng)
        truth = solution_truth(as_problem(task, LEVEL), chain.text)
        assert isinstance(truth, ChainTruth)
        assert truth.labels == chain.labels
        lengths.append(len(chain.paragraphs))
        right.append(chain.correct)
        if chain.correct:
            corrected.append(chain.has_corrected_error)
            wrong = [label is StepLabel.INCORRECT for label in chain.labels]
            thoughts.append(1 + sum(a != b for a, b in pairwise(wrong)))
    assert fmean(lengths) >= 28
    assert 0.13 <= fmean(right) <= 0.28
    assert fmean(corrected) >= 0.9  # the others' errors cancelled out
    assert fmean(thoughts) >= 10


def test_the_shipped_policy_was_trained_by_this_script_with_its_defaults(record):
    assert record["settings"] == json.loads(json.dumps(asdict(ErringWarmStart())))
    sizes = {p.name: p.stat().st_size for p in erring_policy_path().iterdir()}
    assert sum(sizes.values()) <= 4 * 2**20
    assert set(sizes) == {p.name for p in tiny_policy_path().iterdir()}
    assert resolve_model("embedded:tiny-erring") == str(erring_policy_path())
    shipped = AutoTokenizer.from_pretrained(erring_policy_path())
    assert shipped.get_vocab() == phrase_tokenizer(LEVELS[LEVEL]).get_vocab()


@pytest.mark.slow
def test_the_shipped_policy_errs_and_corrects_itself(record):
    """64 problems that no figure of the record comes from; bounds are four standard deviations wide."""
    path = erring_policy_path()
    model, tokenizer = Qwen2ForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    n = 64
    problems = make_problems(LEVEL, n, seed=1, split="heldout")
    solutions = sample_texts(model, tokenizer, problems, seed=1, greedy=False, max_new_tokens=ErringWarmStart().longest)
    truths = [solution_truth(p, text) for p, (text, _, _) in zip(problems, solutions, strict=True)]
    parsed = [t for t in truths if isinstance(t, ChainTruth)]
    recorded, recorded_n = record["levels"][LEVEL], record["settings"]["evaluation_problems"]
    share = fmean(is_correct(p, text) for p, (text, _, _) in zip(problems, solutions, strict=True))
    for now, then in ((share, recorded["sampled"]), (1 - len(parsed) / n, recorded["unparsable"])):
        assert now == pytest.approx(then, abs=4 * (then * (1 - then) * (1 / n + 1 / recorded_n)) ** 0.5)
    wrong = [
        s.claim.result >= 10 for t in parsed for s in t.steps if s.kind in (Kind.STEP, Kind.CORRECTION) and s.claim
    ]
    pairs = [(a, b) for t in parsed for a, b in pairwise(t.steps) if a.kind in (Kind.STEP, Kind.CORRECTION)]
    denied = [b.kind is Kind.CORRECTION for a, b in pairs if a.claim and a.claim.result >= 10]
    assert 0.55 <= fmean(wrong) <= 0.62  # 0.583 of 6,569 results
    assert 0.67 <= fmean(denied) <= 0.79  # 0.736 of those, and nine in ten until one stays
    assert fmean(len(t.steps) for t in parsed) >= 25
    corrections = [any(s.kind is Kind.CORRECTION and s.right for s in t.steps) for t in parsed if t.correct]
    assert fmean(corrections) >= 0.5


@pytest.mark.slow
def test_the_script_writes_a_folder_that_loads(tmp_path):
    phases = (warmstart.Phase(2, ERRING),)
    stage = ErringStage(phases=phases, lr=0.001, warmup=1, hold=0.5, batch=4, mix={LEVEL: 1.0})
    settings = ErringWarmStart(stages=(stage, stage), evaluation_problems=2, longest=40, levels=(LEVEL,))
    erring_warmstart.run(settings, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in erring_policy_path().iterdir()}
    assert set(json.loads((tmp_path / "warmstart.json").read_text())["levels"]) == {LEVEL}
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == Qwen2ForCausalLM.from_pretrained(tmp_path).config.vocab_size
