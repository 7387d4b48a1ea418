"""The parts to copy in examples/parts do what they say, and train together as the command line names them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.parts.correction import damped
from examples.parts.credit import LastThoughtCredit
from examples.parts.engine import PlainEngine
from examples.parts.format import LastLine
from examples.parts.judge import KeywordJudge
from examples.parts.keep import keep_closed
from examples.parts.reward import Brief
from examples.parts.source import RepeatedSums
from examples.parts.verifier import LastNumberVerifier
from lit_tpgrpo.cli import main
from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.functional.corrections import importance_weights
from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.records import (
    CreditedSolution,
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Problem,
    Solution,
    Step,
    StepLabel,
    StopReason,
    Verdict,
)
from lit_tpgrpo.rewards import RewardCase
from lit_tpgrpo.text.formats import SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.verify.base import Verifier

ROOT = Path(__file__).parent.parent
PROBLEM = Problem("p/0", "1+1", "2")
RIGHT, WRONG, MATCHED, UNMATCHED = StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.MATCHED, StepLabel.UNMATCHED


def solution(text: str) -> Solution:
    """One token a character."""
    n = len(text)
    return Solution("p/0", 0, (1,), (2,) * n, (-1.0,) * n, StopReason.EOS, 0, text, tuple(range(n)))


def case(text: str, outcome: Outcome) -> JudgeCase:
    solved = solution(text)
    return JudgeCase(PROBLEM, solved, outcome, segment_steps(text, solved.token_starts, len(text)))


def test_the_judge_labels_what_the_next_step_takes_back():
    text = "It is 3.\n\nWait, that is wrong.\n\nIt is 2.</think>2"
    judge = KeywordJudge("wait")
    assert isinstance(judge, Judge)
    cases = [case(text, Outcome.CORRECT), case(text, Outcome.INCORRECT), case("It is 3.", Outcome.INCORRECT)]
    verdicts = dict(judge.judge(cases))
    assert verdicts[0].labels == (WRONG, RIGHT, RIGHT, RIGHT)
    assert verdicts[1].labels == (UNMATCHED, UNMATCHED, UNMATCHED, MATCHED)
    assert verdicts[2].abstained
    assert judge.metrics() == {"steps": 8.0}
    assert judge.metrics() == {"steps": 0.0}


def test_the_format_takes_the_last_line():
    format = LastLine("Answer:")
    assert isinstance(format, SolutionFormat)
    text = "It is 3.\n\nIt is 2.\nAnswer: 2\n"
    division = format.divide(text)
    assert division.answer_text(text) == " 2"
    steps = segment_steps(text, range(len(text)), len(text), division)
    assert [text[s.start : s.end] for s in steps] == ["It is 3.\n\n", "It is 2.\n", "Answer: 2\n"]
    assert format.divide("It is 2.").answer is None
    assert format.divide("It is\n2.").answer is None
    assert settings_of(format)["prefix"] == "Answer:"  # stored with a round
    assert format.tags() == ()
    assert format.read_prompt("<think>") == ""


def test_the_credit_is_the_last_thoughts_alone():
    steps = tuple(Step(i, i + 1, i, i + 1, is_answer=i == 2) for i in range(3))

    def judged(outcome: Outcome, labels: Sequence[StepLabel]) -> JudgedSolution:
        return JudgedSolution(solution("abc"), outcome, "2", Verdict(steps, tuple(labels)))

    right, wrong = (
        judged(Outcome.CORRECT, (WRONG, RIGHT, RIGHT)),
        judged(Outcome.INCORRECT, (UNMATCHED, UNMATCHED, MATCHED)),
    )
    credited = LastThoughtCredit(eps=0.0)(JudgedGroup(PROBLEM, (right, wrong), 0.5))
    half = math.sqrt(0.5)  # of +1 and -1 with ddof 1: mean 0, standard deviation sqrt 2
    torch.testing.assert_close(credited[0].advantages, torch.tensor([0.0, half, half]))
    torch.testing.assert_close(credited[1].advantages, torch.tensor([0.0, 0.0, -half]))


def test_the_source_gives_problems_with_uids_of_their_own():
    source = RepeatedSums(times=3)
    assert isinstance(source, ProblemSource)
    problems = source.load()
    assert len({p.uid for p in problems}) == 100
    assert problems[27] == Problem(
        "sums/2+3*7", "Working modulo 10, start with 2, add 7, add 7, add 7. What is the result?", "3", "sums"
    )


def test_the_verifier_compares_the_last_number():
    verifier = LastNumberVerifier()
    assert isinstance(verifier, Verifier)
    pairs = [("4", "it is 3, no, 4"), ("4", "-4"), ("4", None), ("4", "14")]
    right, wrong = Outcome.CORRECT, Outcome.INCORRECT
    assert verifier.verify_all(pairs) == [right, wrong, wrong, wrong]
    assert verifier.metrics() == {"pairs": 4.0}
    assert LastNumberVerifier(10).verify_all(pairs) == [right, wrong, wrong, right]


def test_the_keep_rule_drops_what_was_cut_off():
    steps = (Step(0, 3, 0, 3, is_answer=True),)
    cut = replace(solution("abc"), stop=StopReason.LENGTH)

    def credited(solved: Solution, advantage: float) -> CreditedSolution:
        judged = JudgedSolution(solved, Outcome.INCORRECT, None, Verdict(steps, (MATCHED,)))
        return CreditedSolution(judged, advantage, (), (), torch.full((3,), advantage))

    kept = [keep_closed(credited(solved, a)) for solved in (solution("abc"), cut) for a in (-1.0, 0.0)]
    assert kept == [True, False, False, False]


def test_the_correction_is_the_square_root_within_its_bounds():
    log_ratio = torch.tensor([4.0, 0.25, 100.0, 0.01]).log()
    weights = importance_weights(log_ratio, torch.zeros(4), damped, cap=2.0, floor=0.3)
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.5, 2.0, 0.3]))


@pytest.mark.parametrize(
    ("outcome", "block", "value"),
    [(Outcome.CORRECT, "x" * 50, 0.75), (Outcome.CORRECT, "x" * 300, 0.0), (Outcome.INCORRECT, "x", None)],
)
def test_the_reward_falls_with_the_answer_block(outcome: Outcome, block: str, value: float | None):
    text = "<think>so</think>" + block
    solution = Solution("p", 0, (1,), (2,), (-0.5,), StopReason.EOS, 0, text, (0,))
    case = RewardCase(Problem("p", "?", "1"), solution, outcome, "1", (), ThinkTags().divide(text), ())
    assert Brief()(case) == value


class PolicyOf:
    """What an engine asks of the module that trains."""

    policy_version = 0

    def __init__(self, folder: str) -> None:
        self.policy_model = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)


def test_the_engine_gives_the_log_probs_of_what_it_drew(random_model: str):
    policy, prompts = PolicyOf(random_model), [[5, 6, 7], [8, 9]]
    params = SamplingParams(max_new_tokens=6, temperature=0.7)
    engine = PlainEngine()
    engine.load_weights(policy)
    sampled = dict(engine.sample(prompts, 2, params, [1, 2]))
    assert dict(engine.sample(prompts[1:], 2, params, [2]))[0] == sampled[1]  # whatever is sampled beside it
    assert sampled[0][0] != sampled[0][1]
    drawn = sampled[1][1]
    ids = torch.tensor([prompts[1] + list(drawn.token_ids)])
    logits = policy.policy_model(ids).logits[0, 1:-1] / 0.7
    wanted = logits.log_softmax(-1)[torch.arange(len(drawn.token_ids)), ids[0, 2:]]
    torch.testing.assert_close(torch.tensor(drawn.logprobs), wanted)
    greedy = replace(params, temperature=0.0)
    reference = HFEngine()
    reference.load_weights(policy)
    ours, theirs = dict(engine.sample(prompts, 1, greedy, [1, 2])), dict(reference.sample(prompts, 1, greedy, [1, 2]))
    assert [list(ours[i][0].token_ids) for i in (0, 1)] == [list(theirs[i][0].token_ids) for i in (0, 1)]


@pytest.mark.slow
def test_all_of_them_train_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One step of one group with the overlay of the examples; the callback has logged each round."""
    monkeypatch.chdir(ROOT)
    small = ["--data.problems_per_step", "1", "--data.group_size", "4", "--data.steps_per_round", "1"]
    small += ["--trainer.limit_val_batches", "0", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]
    folders = ["--trainer.logger.save_dir", str(tmp_path), "--trainer.default_root_dir", str(tmp_path)]
    callback = ["--trainer.callbacks", "null", "--trainer.callbacks+", "examples.parts.callback.LongestSolution"]
    configs = ["--config", "configs/quickstart.yaml", "--config", "examples/parts/overlay.yaml"]
    main(["fit", *configs, *small, *folders, *callback])
    events = EventAccumulator(str(tmp_path / "quickstart-overlay" / "version_0"))
    events.Reload()
    assert events.Scalars("train/loss")
    assert events.Scalars("train/capped")
    assert 1 <= events.Scalars("samples/longest")[0].value <= 176
    assert events.Scalars("judge/steps")[0].value > 0
    assert events.Scalars("verify/pairs")[0].value == 4
    assert events.Scalars("mismatch/weight_mean")
    assert events.Scalars("reward/brief_skipped")
