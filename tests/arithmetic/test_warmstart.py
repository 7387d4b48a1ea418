"""The tokenizer, the shipped policy and the script that made it."""

import json
import random
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2ForCausalLM

from lit_tpgrpo.datamodules.arithmetic import warmstart
from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, NoiseRates
from lit_tpgrpo.datamodules.arithmetic.measure import Measurement, is_correct, measure, prompt_text, sample_texts
from lit_tpgrpo.datamodules.arithmetic.problems import DEFAULT_LEVEL, TINY_LEVELS, Task, make_problems
from lit_tpgrpo.datamodules.arithmetic.tiny import MAX_LENGTH, random_policy, tiny_config, tiny_policy_path
from lit_tpgrpo.datamodules.arithmetic.tokenizer import build_tokenizer, corpus
from lit_tpgrpo.datamodules.arithmetic.training_data import IGNORED, chain_rows, pad_rows, sheet_rows

# Of the scripts' first 50 steps, made by train_stage and train_judge with stop=50: what ships has the mean of them alone.
FIRST_LOSSES = json.loads(Path(__file__).with_name("first_losses.json").read_text())
MARKS = ("Wait", "Hmm", "mistake", "double-check", "verify")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_policy_path())


@pytest.fixture(scope="module")
def policy():
    return Qwen2ForCausalLM.from_pretrained(tiny_policy_path())


@pytest.fixture(scope="module")
def record():
    return json.loads((tiny_policy_path() / "warmstart.json").read_text())


# --- the tokenizer


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_unicode_text_survives_the_tokenizer(tokenizer, text):
    """Up to NFC: Qwen2's tokenizer class normalises, and transformers takes no other for a Qwen2 model."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    "text", ["a , b . it 's", "  two  spaces\n\n\n", "naïve x² 😀 \u4e2d", "<think>\n</think>", ""]
)
def test_texts_that_clean_up_would_change_survive(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_shipped_tokenizer_is_the_built_one(tokenizer, record):
    """What AutoTokenizer makes of the folder splits text as the tokenizer the model was trained with did."""
    made = record["settings"]
    texts = corpus(made["corpus"], made["seed"])
    built = build_tokenizer(texts, made["vocab_size"], MAX_LENGTH)
    assert tokenizer.get_vocab() == built.get_vocab()
    for text in [*texts[:60], "Ünïcode 123 \\frac{1}{2}"]:
        assert tokenizer.encode(text) == built.encode(text)


def test_special_tokens_are_what_sampling_needs(tokenizer):
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    for tag in ("<think>", "</think>"):
        assert len(tokenizer.encode(tag)) == 1
        assert tokenizer.decode(tokenizer.encode(tag), skip_special_tokens=True) == tag


def test_an_equation_modulo_ten_costs_five_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("6+9=5")) == ["6", "+", "9", "=", "5"]


def test_chat_template_opens_the_think_block(tokenizer):
    assert prompt_text(tokenizer, "1 + 1?") == "<|user|>1 + 1?<|assistant|><think>\n"


def test_chat_template_drops_the_thinking_of_earlier_turns(tokenizer):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"},
        {"role": "user", "content": "Sure?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "Be brief.<|user|>1 + 1?<|assistant|>\n\n2<|endoftext|><|user|>Sure?<|assistant|><think>\n"


# --- the training data


def test_chain_rows_come_from_the_training_split_and_only_completions_are_predicted(tokenizer):
    rows = chain_rows(16, {"1": 0.5, "4": 0.5}, NoiseRates(), tokenizer, random.Random(0))
    input_ids, targets = pad_rows(rows, tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        prompt, completion = tokenizer.decode(row.ids).split("<|assistant|>")
        assert Task.from_prompt(prompt.removeprefix("<|user|>")).split == "train"
        assert completion.startswith("<think>\n")
        assert completion.endswith("}.<|endoftext|>")
        kept = [(int(p), int(t)) for p, t in enumerate(targets[i]) if t != IGNORED]
        assert all(row.ids[p + 1] == t for p, t in kept)  # each position's target is the next token
        predicted = tokenizer.decode([t for _, t in kept])
        assert "<think>\n" + predicted == completion
        assert input_ids[i, len(row.ids) :].eq(tokenizer.pad_token_id).all()


def test_numbered_rows_hold_right_equations_and_predict_their_results(tokenizer):
    rows = sheet_rows(6, 5, {"2": 0.5, "4": 0.5}, tokenizer, random.Random(0))
    _, targets = pad_rows(rows, tokenizer.pad_token_id)
    for row, kept in zip(rows, targets.tolist(), strict=True):
        text = tokenizer.decode(row.ids)
        modulus = int(re.search(r"modulo (\d+)", text)[1])
        numbered = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", text)
        assert len(numbered) == 5
        for left, symbol, operand, result in numbered:
            assert eval(left + symbol + operand) % modulus == int(result)
        predicted = tokenizer.decode([t for t in kept if t != IGNORED])
        assert predicted == "".join(result for *_, result in numbered)


def test_a_phase_decides_what_a_batch_holds(tokenizer):
    made = warmstart.WarmStart(batch=32)
    clean = warmstart.draw_batch(warmstart.Phase(1, NO_NOISE, sheets=8), made, tokenizer, random.Random(0))
    noisy = warmstart.draw_batch(warmstart.Phase(1, NoiseRates()), made, tokenizer, random.Random(0))
    texts = [[tokenizer.decode(row.ids) for row in rows] for rows in (clean, noisy)]
    assert [len(rows) for rows in texts] == [32, 32]
    assert [sum("start with" not in text for text in rows) for rows in texts] == [8, 0]  # the sheets
    reflections = [sum(mark in text for text in rows for mark in MARKS) for rows in texts]
    assert reflections[0] == 0
    assert reflections[1] > 10
    lengths = [len(row.ids) for row in noisy]
    assert lengths == sorted(lengths)


def test_a_stage_walks_through_its_phases_and_its_rates():
    first, second = warmstart.Phase(2, NO_NOISE), warmstart.Phase(8, NoiseRates())
    stage = warmstart.Stage((first, second), lr=0.01, warmup=2, hold=0.5)
    assert stage.steps == 10
    assert [stage.phase_at(step) for step in (0, 1, 2, 9)] == [first, first, second, second]
    assert [stage.rate(step) for step in (0, 1, 5, 7, 9)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2])
    with pytest.raises(ValueError, match="step 10 lies beyond the stage's 10 steps"):
        stage.phase_at(10)


def test_training_lowers_the_loss_and_is_reproducible(tokenizer):
    stage = warmstart.Stage((warmstart.Phase(8, NoiseRates()),), lr=0.01, warmup=2, hold=0.5)

    def losses() -> list[float]:
        model = random_policy(tiny_config(tokenizer, hidden_size=32, layers=1, heads=1, key_value_heads=1), seed=1)
        return warmstart.train_stage(model, tokenizer, warmstart.WarmStart(stages=(stage,), batch=8), 0, stop=6)

    first = losses()
    assert len(first) == 6
    assert first[-1] < first[0] - 0.2
    assert losses() == pytest.approx(first, rel=1e-4)


def test_random_policy_leaves_the_global_random_state_alone(tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = random_policy(tiny_config(tokenizer), seed=0)
    assert torch.equal(torch.rand(1), expected)
    again = random_policy(tiny_config(tokenizer), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


# --- the measurement


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("hm\n</think>\n\nso \\boxed{7}.", True),
        ("hm\n</think>\n\nso \\boxed{3}, no, \\boxed{7}.", True),
        ("hm\n</think>\n\nso \\boxed{7}, no, \\boxed{3}.", False),
        ("so \\boxed{7}.\n</think>\n\nyes", False),
        ("so \\boxed{7}.", False),
    ],
)
def test_the_last_box_of_the_answer_block_counts(text, correct):
    problem = next(p for p in make_problems("1", 200, 0, "heldout") if p.answer == "7")
    assert is_correct(problem, text) is correct


# --- the shipped policy


def binomial_tolerance(share: float, n: int) -> float:
    """Four standard deviations of the difference between two measured shares of n draws each."""
    return 4 * (2 * max(share * (1 - share), 0.01) / n) ** 0.5


def test_the_shipped_folder_is_small_and_plain(record, policy):
    sizes = {p.name: p.stat().st_size for p in tiny_policy_path().iterdir()}
    assert sum(sizes.values()) <= 4 * 2**20
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert policy.dtype is torch.float32
    assert policy.num_parameters() == record["parameters"]
    assert policy.config.max_position_embeddings >= 4096
    assert policy.config.model_type == "qwen2"


def test_the_shipped_policy_was_made_by_this_script_with_its_defaults(record):
    assert record["settings"] == json.loads(json.dumps(warmstart.asdict(warmstart.WarmStart())))
    assert set(record["levels"]) == set(TINY_LEVELS)


@pytest.mark.slow
def test_the_shipped_policy_samples_as_recorded_and_has_work_to_do(policy, tokenizer, record):
    recorded = Measurement(**{k: v for k, v in record["levels"][DEFAULT_LEVEL].items() if k in Measurement.__slots__})
    assert 0.3 <= recorded.sampled <= 0.6
    assert recorded.greedy >= recorded.sampled + 0.2  # the mode is right: sharpening pays
    n = 128
    problems = make_problems(DEFAULT_LEVEL, n, seed=1, split="heldout")  # others than the recorded ones
    now = measure(policy, tokenizer, problems, seed=1)
    assert now.sampled == pytest.approx(recorded.sampled, abs=binomial_tolerance(recorded.sampled, n))
    assert 0.3 <= now.sampled <= 0.6
    assert now.ended >= 0.99
    assert now.unparsable <= recorded.unparsable + binomial_tolerance(recorded.unparsable, n)


@pytest.mark.slow
def test_greedy_sampling_is_deterministic_and_independent_of_padding(policy, tokenizer):
    problems = make_problems("1", 4, 0, "heldout") + make_problems("5", 2, 0, "heldout")
    together = sample_texts(policy, tokenizer, problems, seed=0, greedy=True)
    alone = [sample_texts(policy, tokenizer, [p], seed=1, greedy=True)[0] for p in problems]
    assert together == alone


def test_the_shipped_policy_knows_its_domain(policy, tokenizer):
    """Nats per token on fresh chains: a broken export (untied head, wrong ids) is far above."""
    rng = random.Random("fresh")
    rows = chain_rows(32, {DEFAULT_LEVEL: 1.0}, NoiseRates(), tokenizer, rng)
    input_ids, targets = pad_rows(rows, tokenizer.pad_token_id)
    with torch.inference_mode():
        logits = policy(input_ids=input_ids).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert loss < 0.5


def test_the_first_losses_are_those_of_the_shipped_policy(record):
    losses = FIRST_LOSSES["policy"]
    assert losses[0] > 2 * losses[-1]
    assert sum(losses) / len(losses) == pytest.approx(record["loss_per_50_steps"][0][0], rel=0.02)


@pytest.mark.slow
def test_the_script_follows_the_recorded_loss_curve():
    """Step by step, from guessing to the form of chains, to within what sums differ by between machines."""
    settings = warmstart.WarmStart()
    built = build_tokenizer(corpus(settings.corpus, settings.seed), settings.vocab_size, MAX_LENGTH)
    model = random_policy(tiny_config(built), settings.seed)
    losses = warmstart.train_stage(model, built, settings, 0, stop=8)
    assert losses == pytest.approx(FIRST_LOSSES["policy"][:8], rel=0.01)
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.slow
def test_the_script_writes_a_folder_that_loads(tmp_path):
    """The whole script with two steps: what it writes is what the package ships."""
    phase = warmstart.Phase(1, NoiseRates())
    stage = warmstart.Stage((phase, phase), lr=0.01, warmup=1, hold=0.5)
    warmstart.run(warmstart.WarmStart(stages=(stage,), corpus=300, batch=8, evaluation_problems=2), tmp_path)
    again = json.loads((tmp_path / "warmstart.json").read_text())
    assert set(again["levels"]) == set(TINY_LEVELS)
    assert len(again["loss_per_50_steps"]) == 1
    assert {p.name for p in tiny_policy_path().iterdir()} == {p.name for p in tmp_path.iterdir()}
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == Qwen2ForCausalLM.from_pretrained(tmp_path).config.vocab_size
