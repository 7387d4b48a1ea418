"""Train the tiny judge: learn a tokenizer, train on questions about noisy chains and their true replies, evaluate, save.

    python -m lit_tpgrpo.datamodules.arithmetic.judge_warmstart --out /tmp/tiny-judge

The model learns to reply with verdicts to the prompts in ``assets/judge-prompts``. Chains are generated from the training
split; evaluation is on held-out problems. The output folder contains ``warmstart.json``: the settings, the loss curves, in
total and per question, and the label scores on each level.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lit_tpgrpo.datamodules.arithmetic import phrases
from lit_tpgrpo.datamodules.arithmetic.chains import Chain, NoiseRates, Paragraph, write_chain
from lit_tpgrpo.datamodules.arithmetic.judge_measure import PROMPTS, measure_judge
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, policy_samples, writer_samples
from lit_tpgrpo.datamodules.arithmetic.judge_training import (
    MARKS,
    BranchRow,
    ExchangeMix,
    branch_row,
    pad_branch_rows,
    render_exchange,
    training_exchanges,
)
from lit_tpgrpo.datamodules.arithmetic.measure import sample_texts
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, TINY_LEVELS, as_problem, draw_task, make_problems
from lit_tpgrpo.datamodules.arithmetic.tiny import MAX_LENGTH, random_policy, tiny_config, tiny_policy_path
from lit_tpgrpo.datamodules.arithmetic.tokenizer import build_tokenizer, equation_tokens
from lit_tpgrpo.datamodules.arithmetic.training_data import IGNORED
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, solution_truth
from lit_tpgrpo.datamodules.arithmetic.warmstart import Phase, Stage, StageOptimizer
from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution, number_solution
from lit_tpgrpo.judges.generative.prompts import PromptSet, Question

# The generation prompt opens no think block: the judge replies without thinking.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% else %}{{ '<|assistant|>' + message['content'] + '<|endoftext|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BUSY = NoiseRates(
    error=0.05,
    error_multiply=0.5,
    notice_now=0.5,
    notice_late=0.3,
    botched=0.15,
    false_alarm=0.05,
    check=0.1,
    filler=0.1,
    omitted=0.1,
    variety=1.0,
)


def tiny_judge_path() -> Path:
    """Return the folder of the packaged judge model and tokenizer, for ``from_pretrained``."""
    return Path(__file__).parent / "assets" / "tiny-judge"


@dataclass(frozen=True, slots=True)
class JudgePhase(Phase):
    """Optimizer steps on one mix of chains: the share ``busy`` has the noise ``rare``, the rest ``noise``."""

    mix: dict[str, float] = field(default_factory=dict)
    busy: float = 0.5
    batch: int = 32
    stubborn: float = 0.0
    """Share of chains with an added correction that asserts what it denies; the policy writes such ones, the writer not."""
    policy: float = 0.0
    """Share of chains sampled from the packaged policy, whose chains differ from those of the writer."""
    rare: NoiseRates = BUSY
    """NoiseRates of the share ``busy``."""


LATE = replace(BUSY, notice_now=0.25, notice_late=0.5, botched=0.1, false_alarm=0.02)
_FAR = {
    "mix": {"1": 0.55, "2": 0.4, "4": 0.05}, "batch": 12, "stubborn": 0.05, "policy": 0.35, "busy": 0.7, "rare": LATE,
}  # fmt: skip
_NEAR_HOME = _FAR | {"mix": {"1": 0.75, "2": 0.25}, "policy": 0.25}
STAGES = (
    Stage(
        phases=(
            JudgePhase(350, NoiseRates(), mix={"1": 1.0}, busy=0.7, batch=12),
            JudgePhase(350, NoiseRates(), mix={"1": 0.55, "2": 0.35, "3": 0.02, "4": 0.06, "5": 0.02}, batch=12),
        ),
        lr=0.003,
        warmup=30,
        hold=0.4,
    ),
    Stage(
        phases=(
            JudgePhase(
                400, NoiseRates(), mix={"1": 0.5, "2": 0.38, "3": 0.03, "4": 0.06, "5": 0.03}, batch=12, stubborn=0.15
            ),
        ),
        lr=0.003,
        warmup=20,
        hold=0.3,
    ),
    # Corrections of earlier steps, and solutions sampled from the policy.
    Stage(phases=(JudgePhase(500, NoiseRates(), **_FAR),), lr=0.003, warmup=20, hold=0.4),
    Stage(phases=(JudgePhase(650, NoiseRates(), **_FAR),), lr=0.003, warmup=20, hold=0.1),
    Stage(phases=(JudgePhase(600, NoiseRates(), **_NEAR_HOME),), lr=0.003, warmup=20, hold=0.05),
)
POLICY_PROBLEMS = 1200


@dataclass(frozen=True, slots=True)
class JudgeWarmStart:
    """Settings of the script; the packaged model was trained with the defaults."""

    seed: int = 0
    stages: tuple[Stage, ...] = STAGES
    mix: ExchangeMix = field(default_factory=ExchangeMix)
    right: float = 0.5
    """Share of chains with a right final answer."""
    shared_weight: float = 0.5
    """Loss weight of a token of the shared text, relative to a token of a reply."""
    mark_weight: float = 0.5
    """Loss weight of each mark of paragraphs, relative to a token of a reply."""
    micro_batch: int = 4
    weight_decay: float = 0.01
    vocab_size: int = 640
    corpus: int = 600
    hidden_size: int = 128
    layers: int = 5
    heads: int = 4
    key_value_heads: int = 2
    intermediate_size: int = 256
    evaluation_problems: int = 200
    """Number of evaluation problems on levels 1 and 2; a quarter of it on the other levels."""
    step_problems: int = 40
    """Number of evaluation problems for ``StepByStep``, which needs one prompt per step."""


def with_stubborn_correction(chain: Chain, rng: random.Random) -> Chain:
    """Return the chain with "6+9=5 is wrong. It should be 6+9=5." inserted after one of its steps."""
    index = rng.choice([i for i, p in enumerate(chain.paragraphs, 1) if p.kind is phrases.Kind.STEP])
    claim = chain.paragraphs[index - 1].claim
    text = rng.choice(phrases.CORRECTIONS).format(denied=claim, claim=claim)
    added = Paragraph(phrases.Kind.CORRECTION, text, claim, right=False)
    return replace(chain, paragraphs=(*chain.paragraphs[:index], added, *chain.paragraphs[index:]))


def draw_chain(
    level: str, noise: NoiseRates, correct: bool, rng: random.Random, stubborn: float = 0.0
) -> tuple[NumberedSolution, ChainTruth]:
    """Draw a chain of the training split with a correct (or incorrect) final answer, and its ground truth."""
    while True:
        task = draw_task(LEVELS[level], rng)
        chain = write_chain(task, noise, rng) if task.split == "train" else None
        if chain is not None and chain.correct is correct:
            break
    if stubborn and rng.random() < stubborn:
        chain = with_stubborn_correction(chain, rng)
    problem = as_problem(task, level)
    truth = solution_truth(problem, chain.text)
    cases, left_out = label_cases([(problem, chain.text)])
    numbered = number_solution(cases[0][0]) if cases else None
    if numbered is None or not isinstance(truth, ChainTruth) or len(numbered.paragraphs) != len(truth.steps) - 1:
        raise RuntimeError(f"the writer wrote a chain that cannot be parsed ({dict(left_out)}): {chain.text!r}")
    return numbered, truth


def judge_tokenizer(settings: JudgeWarmStart, prompts: PromptSet) -> PreTrainedTokenizerBase:
    """Learn a tokenizer on prompts and replies, with ids of digits only, so that no merge is learnt from random ids."""
    rng = random.Random(f"judge corpus/{settings.seed}")
    texts = []
    for i in range(settings.corpus):
        numbered, truth = draw_chain(TINY_LEVELS[i % len(TINY_LEVELS)], BUSY, bool(i % 2), rng)
        for exchange in training_exchanges(numbered, truth, ExchangeMix(1, 1, 1), rng):
            id = f"{rng.randrange(10**4):04d}"
            verdict = exchange.verdict.model_copy(update={"id": id})
            parts = render_exchange(prompts, numbered, type(exchange)(exchange.question, exchange.variables, verdict))
            texts += [part.removeprefix("<|user|>").removesuffix("<|assistant|>") for part in parts]
    tokenizer = build_tokenizer(texts, settings.vocab_size, MAX_LENGTH)
    # The judge must locate an equation elsewhere in the text, which takes one layer for each token that must match. With
    # five tokens per equation this was not learnt in a number of steps that is sufficient with two.
    tokenizer.add_tokens(equation_tokens(max(LEVELS[level].modulus for level in TINY_LEVELS)))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def policy_chains(correct: bool) -> list[tuple[NumberedSolution, ChainTruth]]:
    """Sample solutions of training problems from the packaged policy; return those in the domain's format."""
    path = tiny_policy_path()
    model, tokenizer = Qwen2ForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    chains: list[tuple[NumberedSolution, ChainTruth]] = []
    for level in ("1", "2"):
        problems = make_problems(level, POLICY_PROBLEMS, 1, "train")
        for problem, (text, *_) in zip(problems, sample_texts(model, tokenizer, problems, 1, False), strict=True):
            truth = solution_truth(problem, text)
            cases = label_cases([(problem, text)])[0]
            numbered = number_solution(cases[0][0]) if cases else None
            if not isinstance(truth, ChainTruth) or truth.correct is not correct or numbered is None:
                continue
            if len(numbered.paragraphs) == len(truth.steps) - 1:
                chains.append((numbered, truth))
    return chains


def draw_batch(
    phase: JudgePhase,
    settings: JudgeWarmStart,
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerBase,
    rng: random.Random,
) -> list[BranchRow]:
    """Draw the rows of one optimizer step, sorted by length."""
    rows = []
    for level in rng.choices(list(phase.mix), list(phase.mix.values()), k=phase.batch):
        if phase.policy:
            correct = rng.random() < settings.right
            if rng.random() < phase.policy:
                numbered, truth = rng.choice(policy_chains(correct))
                rows.append(
                    branch_row(
                        prompts, numbered, truth, training_exchanges(numbered, truth, settings.mix, rng), tokenizer
                    )
                )
                continue
        noise = phase.rare if rng.random() < phase.busy else phase.noise
        correct = rng.random() < settings.right
        numbered, truth = draw_chain(level, noise, correct, rng, phase.stubborn)
        rows.append(
            branch_row(prompts, numbered, truth, training_exchanges(numbered, truth, settings.mix, rng), tokenizer)
        )
    return sorted(rows, key=len)


@dataclass(slots=True)
class LossCurve:
    """Loss in nats per token at each step: of all replies, per question, of the ``shared`` text and of the marks."""

    all: list[float] = field(default_factory=list)
    sums: list[dict[str, float]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)

    def means(self, width: int = 50) -> list[float]:
        return [round(sum(self.all[i : i + width]) / width, 4) for i in range(0, len(self.all) // width * width, width)]

    def per_question(self, since: int = 0) -> dict[str, float]:
        """Return the mean of each part of the loss from step ``since`` on."""
        total, count = Counter[str](), Counter[str]()
        for sums, counts in zip(self.sums[since:], self.counts[since:], strict=True):
            total.update(sums)
            count.update(counts)
        return {name: round(total[name] / count[name], 5) for name in sorted(count) if count[name]}


def mark_losses(probe: nn.Linear, states: Tensor, marks: Tensor) -> list[Tensor]:
    """Return the mean loss of each mark, predicted by a linear probe from the states at the ends of paragraphs."""
    # Normalised like the input of the next layer.
    logits = probe(nn.functional.rms_norm(states, states.shape[-1:])).split(MARKS, dim=-1)
    return [
        nn.functional.cross_entropy(of, marks[:, i], ignore_index=IGNORED, reduction="sum") / len(marks)
        for i, of in enumerate(logits)
    ]


def train_judge(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: JudgeWarmStart,
    prompts: PromptSet,
    number: int,
    stop: int | None = None,
) -> LossCurve:
    """Train the model in place on stage ``number`` (up to step ``stop``); return the loss curve."""
    stage, curve, start = settings.stages[number], LossCurve(), time.perf_counter()
    rng = random.Random(f"judge warmstart/{settings.seed + number}")
    # The probe is discarded afterwards: its loss trains the layers below the last one to collect what replies need.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        probe = nn.Linear(settings.hidden_size, sum(MARKS))
    optimizer = StageOptimizer(nn.ModuleDict({"judge": model, "probe": probe}), stage, settings.weight_decay)
    model.train()
    for step in range(stage.steps if stop is None else stop):
        rows = draw_batch(cast(JudgePhase, stage.phase_at(step)), settings, prompts, tokenizer, rng)
        count = sum(len(branch.ids) - branch.reply for row in rows for branch in row.branches)
        sums, counts = defaultdict[str, float](float), defaultdict[str, int](int)
        for i in range(0, len(rows), settings.micro_batch):
            batch = pad_branch_rows(rows[i : i + settings.micro_batch], cast(int, tokenizer.pad_token_id))
            out = model.model(
                input_ids=batch.input_ids,
                position_ids=batch.positions,
                attention_mask=batch.mask,
                use_cache=False,
                output_hidden_states=True,
            )
            hidden = out.last_hidden_state
            marked = mark_losses(probe, out.hidden_states[-2][batch.ends], batch.marks)
            keep = batch.targets != IGNORED
            losses = nn.functional.cross_entropy(model.lm_head(hidden[keep]), batch.targets[keep], reduction="none")
            kinds = batch.kinds[keep]
            weights = torch.where(kinds == 0, settings.shared_weight, 1.0)
            probed = settings.mark_weight * torch.stack(marked).sum() * len(batch.input_ids) / len(rows)
            ((losses * weights).sum() / count + probed).backward()
            for number, value in enumerate(marked):
                sums[f"mark {number}"] += value.item() * len(batch.input_ids)
                counts[f"mark {number}"] += len(batch.input_ids)
            for number, name in enumerate(("shared", *(question.value for question in Question))):
                sums[name] += losses.detach()[kinds == number].sum().item()
                counts[name] += int((kinds == number).sum())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        curve.all.append(sum(sums[question.value] for question in Question) / count)
        curve.sums.append(sums)
        curve.counts.append(counts)
        if step % 50 == 49:
            print(f"step {step + 1:4d}  loss {sum(curve.all[-50:]) / 50:.4f}  {time.perf_counter() - start:6.1f} s  "
                  f"{curve.per_question(step - 49)}", flush=True)  # fmt: skip
    return curve


RECORD = "warmstart.json"


def record_of(settings: JudgeWarmStart, model: Qwen2ForCausalLM, curves: Sequence[LossCurve]) -> dict[str, Any]:
    """Return the part of ``warmstart.json`` about training."""
    return {
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "loss_per_50_steps": [curve.means() for curve in curves],
        "loss_per_question_at_the_end": curves[-1].per_question(max(0, len(curves[-1].all) - 50)),
    }


def save(out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> None:
    """Write the model, the tokenizer and ``warmstart.json``."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def judge_config(settings: JudgeWarmStart, tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """Return the config of the judge model."""
    return tiny_config(
        tokenizer,
        settings.hidden_size,
        settings.layers,
        settings.heads,
        settings.key_value_heads,
        settings.intermediate_size,
    )


@torch.no_grad()
def prime_heads(model: Qwen2ForCausalLM, seed: int) -> None:
    """Initialise heads to attend one and two tokens back (first layer) and to states similar to the query's (other layers).

    Locating an equation elsewhere takes both in sequence; from random heads it was not learnt in a thousand steps.
    """
    width = model.config.hidden_size // model.config.num_attention_heads
    half = width // 2
    # Qwen2's rotary frequencies from fast to slow: fast ones distinguish positions, slow ones carry content.
    frequencies = 10000.0 ** (-torch.arange(half) / half)
    first, *others = (cast(Any, layer).self_attn for layer in model.model.layers)
    strength = 6.0
    first.k_proj.bias[:half] = strength
    for head, back in ((0, 1), (1, 2)):
        angles, at = back * frequencies, head * width
        first.q_proj.bias[at : at + half] = strength * angles.cos()
        first.q_proj.bias[at + half : at + width] = -strength * angles.sin()
    random_state = torch.Generator().manual_seed(seed)
    slow = [i + offset for offset in (0, half) for i in range(half // 2, half)]
    for attention in others:
        square = torch.randn(model.config.hidden_size, len(slow), generator=random_state)
        projection = 1.4 * torch.linalg.qr(square).Q.T
        for matrix in (attention.q_proj.weight, attention.k_proj.weight):
            matrix[slow] = projection


def new_judge(settings: JudgeWarmStart, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Build the untrained judge: random weights and primed heads."""
    model = random_policy(judge_config(settings, tokenizer), settings.seed)
    prime_heads(model, settings.seed)
    return model


def run(settings: JudgeWarmStart, out: Path) -> None:
    """Run the script: tokenizer, training, output, evaluation."""
    prompts = PromptSet(PROMPTS)
    tokenizer = judge_tokenizer(settings, prompts)
    model = new_judge(settings, tokenizer)
    curves = [train_judge(model, tokenizer, settings, prompts, number) for number in range(len(settings.stages))]
    save(out, model, tokenizer, record_of(settings, model, curves))
    measure_levels(settings, out)


def measure_levels(settings: JudgeWarmStart, out: Path) -> None:
    """Add the label scores of the saved judge on each level to ``warmstart.json``."""
    record = json.loads((out / RECORD).read_text())
    record["levels"] = {}
    for level in TINY_LEVELS:
        # Two kinds of solutions: the noisy writer's, and those of the policy that the judge will label.
        few = settings.evaluation_problems if level in ("1", "2") else settings.evaluation_problems // 4
        record["levels"][level] = {
            name: measure_judge(out, make(level, few, settings.seed), settings.step_problems)
            for name, make in (("written", writer_samples), ("sampled", policy_samples))
        }
        print(f"level {level}: {record['levels'][level]}", flush=True)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    run(JudgeWarmStart(seed=arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
