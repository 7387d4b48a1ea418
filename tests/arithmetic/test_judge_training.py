"""The tiny judge: the replies it is taught, the rows it is taught with, and the script that made what ships."""

import json
import random
from dataclasses import asdict

import pytest
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

from lit_tpgrpo.datamodules.arithmetic import judge_warmstart
from lit_tpgrpo.datamodules.arithmetic.judge_measure import PROMPTS, measure_judge
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, writer_samples
from lit_tpgrpo.datamodules.arithmetic.judge_training import (
    ExchangeMix,
    branch_row,
    labelling_exchange,
    pad_branch_rows,
    paragraph_marks,
    render_exchange,
    segmentation_exchange,
    stage_exchanges,
    step_exchange,
    training_exchanges,
)
from lit_tpgrpo.datamodules.arithmetic.judge_warmstart import (
    BUSY,
    JudgePhase,
    JudgeWarmStart,
    draw_chain,
    tiny_judge_path,
)
from lit_tpgrpo.datamodules.arithmetic.problems import TINY_LEVELS, Operation, Task, as_problem
from lit_tpgrpo.datamodules.arithmetic.tiny import random_policy
from lit_tpgrpo.datamodules.arithmetic.training_data import IGNORED
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, solution_truth
from lit_tpgrpo.datamodules.arithmetic.warmstart import Stage
from lit_tpgrpo.judges.generative.numbered_solution import number_solution
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.generative.verdicts import SourcesVerdict
from tests.arithmetic.test_warmstart import FIRST_LOSSES

# 3+5=8, 8*7=6, 6-9=7
PROBLEM = as_problem(Task(10, 3, (Operation("+", 5), Operation("*", 7), Operation("-", 9))), "1")
OPENING = "Okay, I start with 3 and work modulo 10."
RIGHT_ANSWER = "So 6-9=7, 8*7=6, 3+5=8, and the answer is \\boxed{7}."
IDS = ("00aa", "00bb", "00cc")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_judge_path())


@pytest.fixture(scope="module")
def prompts():
    return PromptSet(PROMPTS)


@pytest.fixture(scope="module")
def record():
    return json.loads((tiny_judge_path() / "warmstart.json").read_text())


def read(*paragraphs: str):
    *think, answer = paragraphs
    text = "\n\n".join(think) + "\n</think>\n\n" + answer
    truth = solution_truth(PROBLEM, text)
    assert isinstance(truth, ChainTruth), truth
    ((case, _),), _ = label_cases([(PROBLEM, text)])
    numbered = number_solution(case)
    assert numbered is not None
    return numbered, truth


def stages(*paragraphs: str) -> list[str]:
    numbered, truth = read(*paragraphs)
    return [f"{e.question.value} {e.verdict.model_dump_json()}" for e in stage_exchanges(numbered, truth, IDS)]


def judged(**wrong: bool) -> str:
    return ",".join(f'{{"step":{n.removeprefix("s")},"wrong":{str(w).lower()}}}' for n, w in wrong.items())


# --- the replies


def test_a_late_correction_points_back_to_the_step_that_first_asserted_the_error():
    assert stages(
        OPENING,
        "First, 3+5=9.",  # 2
        "Let me double-check 3+5=9. Yes, that is right.",  # 3, a check is a reflection and corrects nothing
        "Next, 9*7=3.",  # 4
        "Wait, I should keep the order in mind.",  # 5, a filler is not wrong
        "Wait, 3+5=9 is wrong. It should be 3+5=8.",  # 6
        "With that, 8*7=6.",
        "Then 6-9=7.",
        RIGHT_ANSWER,
    ) == [
        'reflections {"id":"00aa","reflections":[3,6]}',
        'sources {"id":"00bb","sources":[{"reflection":3,"intervals":[]},{"reflection":6,"intervals":[[2,5]]}]}',
        'verification {"id":"00cc","judgements":[' + judged(s2=True, s3=True, s4=True, s5=False) + "]}",
    ]


def test_a_false_alarm_has_no_source_and_a_botched_correction_is_one():
    assert stages(
        OPENING,
        "First, 3+5=8.",
        "Hmm, 3+5=8 is not right. Actually, 3+5=7.",  # 3, false alarm
        "Wait, is 3+5=7 right? No, 3+5=9.",  # 4, botched
        "I made a mistake: 3+5=9 is wrong, because 3+5=8.",  # 5
        "So now 8*7=6.",
        "Then 6-9=7.",
        RIGHT_ANSWER,
    ) == [
        'reflections {"id":"00aa","reflections":[3,4,5]}',
        'sources {"id":"00bb","sources":[{"reflection":3,"intervals":[]},{"reflection":4,"intervals":[[3,3]]},'
        '{"reflection":5,"intervals":[[4,4]]}]}',
        'verification {"id":"00cc","judgements":[' + judged(s3=True, s4=True) + "]}",
    ]


def test_what_was_denied_is_looked_for_at_its_place_and_not_where_it_was_taken_back():
    """3+5=9 is asserted, taken back and asserted again: the second denial means the second assertion."""
    _, truth = read(
        OPENING,
        "First, 3+5=9.",
        "Wait, 3+5=9 is wrong. It should be 3+5=7.",
        "Wait, 3+5=7 is wrong. It should be 3+5=9.",
        "Wait, 3+5=9 is wrong. It should be 3+5=8.",
        "With that, 8*7=6.",
        "Then 6-9=7.",
        RIGHT_ANSWER,
    )
    assert [step.denied for step in truth.steps] == [None, None, 1, 2, 3, None, None, None]


def test_without_a_reflection_or_without_a_source_the_later_questions_are_not_asked():
    plain = ("First, 3+5=8.", "Next, 8*7=6.", "Then 6-9=7.")
    assert stages(OPENING, *plain, RIGHT_ANSWER) == ['reflections {"id":"00aa","reflections":[]}']
    checked = (*plain, "Let me verify that 6-9=7. That holds.", RIGHT_ANSWER)
    assert stages(OPENING, *checked) == [
        'reflections {"id":"00aa","reflections":[5]}',
        'sources {"id":"00bb","sources":[{"reflection":5,"intervals":[]}]}',
    ]


def test_a_wrong_solution_is_matched():
    assert stages(
        OPENING,
        "First, 3+5=9.",
        "Wait, 3+5=9 is wrong. It should be 3+5=8.",
        "With that, 8*7=5.",
        "Let me verify that 8*7=5. That holds.",
        "Then 5-9=6.",
        "So 5-9=6, 8*7=5, 3+5=8, and the answer is \\boxed{6}.",
    ) == ['matching {"id":"00aa","matched":[3,4,5,6]}']


def test_the_questions_for_any_solution():
    _, truth = read(OPENING, "First, 3+5=9.", "Next, 9*7=3.", "So 9*7=3, 3+5=9, and the answer is \\boxed{3}.")
    assert segmentation_exchange(truth, "12ab").verdict.model_dump_json() == (
        '{"id":"12ab","steps":[[1,1],[2,2],[3,3]]}'
    )
    labelling = labelling_exchange(truth, "12ab")
    assert labelling.variables["asked"] == [1, 2, 3]
    assert labelling.verdict.model_dump_json() == (
        '{"id":"12ab","judgements":[' + judged(s1=False, s2=True, s3=True) + "]}"
    )
    replies = [step_exchange(truth, n, "12ab").verdict.model_dump_json() for n in (1, 2)]
    assert replies == ['{"id":"12ab","wrong":false}', '{"id":"12ab","wrong":true}']


def test_the_marks_of_paragraphs():
    numbered, truth = read(
        OPENING,
        "First, 3+5=9.",
        "Next, 9*7=3.",  # true arithmetic on a wrong value
        "Wait, 3+5=9 is wrong. It should be 3+5=8.",
        "With that, 8*7=5.",
        "Let me verify that 8*7=5. That holds.",
        "Then 5-9=6.",
        "So 5-9=6, 8*7=5, and the answer is \\boxed{6}.",
    )
    assert paragraph_marks(numbered, truth) == [
        # reflects, right, restated, of the table; number, reflection before, restated before, source
        (0, 1, 0, 1, 1, 0, 0, 0),
        (0, 0, 0, 0, 2, 0, 0, 0),
        (0, 0, 0, 1, 3, 0, 0, 0),
        (1, 1, 0, 1, 4, 0, 0, 2),
        (0, 0, 1, 0, 5, 4, 0, 0),
        (1, 0, 1, 0, 6, 4, 5, 0),
        (0, 0, 1, 1, 7, 6, 6, 0),
    ]


# --- the rows


def drawn(n: int, seed: int = 0, levels: str = "12345"):
    rng = random.Random(seed)
    for i in range(n):
        numbered, truth = draw_chain(levels[i % len(levels)], BUSY, bool(i % 2), rng)
        yield numbered, truth, training_exchanges(numbered, truth, ExchangeMix(1, 1, 2), rng)


def test_chains_come_from_the_training_split_and_end_as_asked():
    for i, (numbered, truth, _) in enumerate(drawn(40)):
        assert Task.from_prompt(numbered.case.problem.prompt).split == "train"
        assert truth.correct is numbered.correct is bool(i % 2)


def test_a_stubborn_correction_changes_nothing_but_is_wrong_and_has_no_source():
    rng = random.Random(0)
    for correct in (True, False) * 5:
        numbered, truth = draw_chain("1", BUSY, correct, rng, stubborn=1.0)
        stubborn = [
            (n, step)
            for n, step in enumerate(truth.steps)
            if step.denied is not None and truth.steps[step.denied].claim == step.claim
        ]
        assert stubborn
        assert not any(step.right for _, step in stubborn)
        assert truth.correct is correct
        for exchange in stage_exchanges(numbered, truth, IDS):
            if isinstance(exchange.verdict, SourcesVerdict):
                given = {s.reflection: s.intervals for s in exchange.verdict.sources}
                for n, step in stubborn:
                    assert step.denied is not None
                    assert bool(given[n + 1]) is (not truth.steps[step.denied].right)


def test_a_prompt_cut_in_two_has_the_tokens_of_the_whole(tokenizer, prompts):
    """The whole is what the chat template makes of the user turn in use."""
    for numbered, truth, exchanges in drawn(60):
        row = branch_row(prompts, numbered, truth, exchanges, tokenizer)
        for exchange, branch in zip(exchanges, row.branches, strict=True):
            content = prompts.shared(numbered, 1, len(numbered.paragraphs)) + prompts.question(
                exchange.question, exchange.verdict.id, **exchange.variables
            )
            chat = [{"role": "user", "content": content}]
            whole = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            assert tokenizer.encode(whole, add_special_tokens=False) == row.shared + branch.ids[: branch.reply]
            assert tokenizer.decode(branch.ids[branch.reply :]) == exchange.verdict.model_dump_json() + "<|endoftext|>"


def test_a_prompt_that_cannot_be_cut_is_refused(tokenizer, tmp_path):
    for file in PromptSet(PROMPTS).folder.glob("*.txt"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "step.txt").write_text("{# variables: id, step #}\n. step {{ step }} id {{ id }}\n")
    numbered, truth = read(OPENING, "First, 3+5=9.", "So 3+5=9, and the answer is \\boxed{9}.")
    with pytest.raises(ValueError, match="cannot be cut"):
        render_exchange(PromptSet(tmp_path), numbered, step_exchange(truth, 1, "12ab"))


def test_branches_are_to_the_model_what_separate_rows_are(tokenizer, prompts):
    rows = [
        branch_row(prompts, numbered, truth, exchanges, tokenizer)
        for numbered, truth, exchanges in drawn(3, levels="1")
    ]
    batch = pad_branch_rows(rows, tokenizer.pad_token_id)
    config = judge_warmstart.judge_config(JudgeWarmStart(hidden_size=64, layers=3, heads=2), tokenizer)
    model = random_policy(config, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from uniform attention, so that a leak shows
        together = model(input_ids=batch.input_ids, position_ids=batch.positions, attention_mask=batch.mask).logits
        for i, row in enumerate(rows):
            at = len(row.shared)
            for branch in row.branches:
                alone = model(input_ids=torch.tensor([row.shared + branch.ids])).logits[0]
                end = at + len(branch.ids)
                torch.testing.assert_close(together[i, : len(row.shared)], alone[: len(row.shared)], atol=1e-3, rtol=0)
                torch.testing.assert_close(together[i, at:end], alone[len(row.shared) :], atol=1e-3, rtol=0)
                at = end


def test_the_shared_text_and_the_replies_are_predicted_and_the_questions_are_not(tokenizer, prompts):
    rows = [branch_row(prompts, numbered, truth, exchanges, tokenizer) for numbered, truth, exchanges in drawn(4)]
    batch = pad_branch_rows(rows, tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        replies = [t for b in row.branches for t in b.ids[b.reply :]]
        kept = batch.targets[i] != IGNORED
        assert batch.targets[i][kept & (batch.kinds[i] > 0)].tolist() == replies
        assert batch.targets[i][kept & (batch.kinds[i] == 0)].tolist() == row.shared[1:]


def test_marks_stand_at_the_last_tokens_of_paragraphs(tokenizer, prompts):
    drawn_rows = list(drawn(3))
    rows = [branch_row(prompts, numbered, truth, exchanges, tokenizer) for numbered, truth, exchanges in drawn_rows]
    batch = pad_branch_rows(rows, tokenizer.pad_token_id)
    expected = [
        (i, mark) for i, (numbered, truth, _) in enumerate(drawn_rows) for mark in paragraph_marks(numbered, truth)
    ]
    assert [*zip(batch.ends[0].tolist(), map(tuple, batch.marks.tolist()), strict=True)] == expected
    for (i, _), at, number in zip(expected, batch.ends[1].tolist(), batch.marks[:, 4].tolist(), strict=True):
        text = tokenizer.decode(rows[i].shared[: at + 1])
        assert text.endswith(".\n")
        assert text.splitlines()[-1].startswith(f"[{number}] ")


# --- the script


def test_training_lowers_the_loss_and_is_reproducible(tokenizer, prompts):
    stage = Stage((JudgePhase(8, BUSY, mix={"1": 1.0}, batch=4),), lr=0.01, warmup=2, hold=0.5)
    settings = JudgeWarmStart(stages=(stage,), hidden_size=32, layers=1, heads=1, key_value_heads=1)

    def losses() -> list[float]:
        model = random_policy(judge_warmstart.judge_config(settings, tokenizer), seed=1)
        return judge_warmstart.train_judge(model, tokenizer, settings, prompts, 0, stop=5).all

    first = losses()
    assert len(first) == 5
    assert first[-1] < first[0] - 0.2
    assert losses() == pytest.approx(first, rel=1e-4)


# --- what ships


def test_the_shipped_folder_is_small_and_plain(record):
    sizes = {p.name: p.stat().st_size for p in tiny_judge_path().iterdir()}
    assert sum(sizes.values()) <= 4.2 * 2**20
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    model = Qwen2ForCausalLM.from_pretrained(tiny_judge_path())
    assert model.dtype is torch.float32
    assert model.num_parameters() == record["parameters"]


def test_the_shipped_judge_was_made_by_this_script_with_its_defaults(record):
    assert record["settings"] == json.loads(json.dumps(asdict(JudgeWarmStart())))
    assert set(record["levels"]) == set(TINY_LEVELS)


@pytest.mark.slow
def test_the_shipped_tokenizer_is_the_built_one(tokenizer, prompts):
    built = judge_warmstart.judge_tokenizer(JudgeWarmStart(), prompts)
    assert tokenizer.get_vocab() == built.get_vocab()
    assert tokenizer.chat_template == built.chat_template == judge_warmstart.CHAT_TEMPLATE


def test_an_equation_costs_two_tokens_and_survives(tokenizer):
    ids = tokenizer.encode("So 12*3=10, 6+9=5.", add_special_tokens=False)
    assert [t for t in tokenizer.convert_ids_to_tokens(ids) if any(c in t for c in "+*=")] == [
        "12*3",
        "=10",
        "6+9",
        "=5",
    ]
    assert tokenizer.decode(ids) == "So 12*3=10, 6+9=5."


def test_the_chat_template_does_not_open_a_think_block(tokenizer):
    chat = [{"role": "user", "content": "step 1"}]
    assert (
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == "<|user|>step 1<|assistant|>"
    )


@pytest.mark.slow
def test_the_shipped_judge_labels_as_recorded(record):
    """The first of the recorded solutions, so the counts behind an F1 are smaller."""
    scores = measure_judge(tiny_judge_path(), writer_samples("1", 100, seed=0), step_by_step_solutions=10)
    recorded = record["levels"]["1"]["written"]
    for method in ("intrinsic", "llm_as_judge"):
        for name in ("correct", "matched", "unmatched", "incorrect"):
            key = f"f1_{name}"
            assert scores[method][key] == pytest.approx(recorded[method][key], abs=0.1), (method, key)
        assert scores[method]["abstained"] < 0.05
    assert scores["genprm"]["solutions"] == 10


def test_the_first_losses_are_those_of_the_shipped_judge(record):
    losses = FIRST_LOSSES["judge"]
    assert sum(losses) / len(losses) == pytest.approx(record["loss_per_50_steps"][0][0], rel=0.02)


@pytest.mark.slow
def test_the_script_follows_the_recorded_loss_curve(prompts):
    """Step by step, to within what sums differ by between machines."""
    settings = JudgeWarmStart()
    built = judge_warmstart.judge_tokenizer(settings, prompts)
    model = judge_warmstart.new_judge(settings, built)
    losses = judge_warmstart.train_judge(model, built, settings, prompts, 0, stop=8).all
    assert losses == pytest.approx(FIRST_LOSSES["judge"][:8], rel=0.01)
