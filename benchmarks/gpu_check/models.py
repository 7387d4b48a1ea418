"""Random-weight policies of a known architecture, batches for them, and the operations of an optimizer step."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config

from benchmarks.gpu_check.bench import Bench
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import TrainBatch, TrainingSequence

TOKENIZER = "embedded:tiny-qwen2"
"""Any tokenizer works, since the timed code uses no text."""


@dataclass(frozen=True)
class Architecture:
    """Dimensions of a Qwen2 model whose head is tied to the embedding."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int = 32768
    rope_theta: float = 1_000_000.0
    tie_word_embeddings: bool = True

    def config(self) -> Qwen2Config:
        """Return transformers' config, with the tokenizer's special tokens."""
        tokenizer = load_tokenizer(TOKENIZER)
        settings = asdict(self)
        theta = settings.pop("rope_theta")
        return Qwen2Config(
            **settings,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def write(self, folder: Path) -> str:
        """Write a folder with config and tokenizer but no weights, for ``random_init``; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.config().to_dict() | {"architectures": ["Qwen2ForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(settings))
        load_tokenizer(TOKENIZER).save_pretrained(folder)
        return str(folder)

    @property
    def matrix_parameters(self) -> int:
        """Number of parameters in the layers' matrices, by which every token is multiplied, without the head."""
        h, kv = self.hidden_size, self.hidden_size // self.num_attention_heads * self.num_key_value_heads
        return self.num_hidden_layers * (2 * h * h + 2 * h * kv + 3 * h * self.intermediate_size)

    def training_flops(self, lengths: Sequence[tuple[int, int]]) -> float:
        """Compute the floating-point operations of one step, forward and backward, from (prompt, completion) lengths.

        6 P N for the layers' matrices, 6 H V n for the head on the n completion tokens, and 6 L H T^2 for causal
        attention on a sequence of T tokens: 2 T^2 H for the scores and as much for the values forward, half of it
        masked, and twice that backward. Padding and recomputation, which are additional work, do not count.
        """
        tokens = sum(p + c for p, c in lengths)
        completion = sum(c for _, c in lengths)
        squares = sum((p + c) ** 2 for p, c in lengths)
        layers = 6.0 * self.matrix_parameters * tokens
        head = 6.0 * self.hidden_size * self.vocab_size * completion
        return layers + head + 6.0 * self.num_hidden_layers * self.hidden_size * squares


QWEN2_1_5B = Architecture(1536, 8960, 28, 12, 2, 151_936)
TINY = Architecture(64, 128, 2, 4, 2, 512, max_position_embeddings=1024)


def architecture(bench: Bench) -> Architecture:
    """Return the architecture of the timed policy."""
    return TINY if bench.tiny else QWEN2_1_5B


def random_model(
    arch: Architecture, device: str, dtype: torch.dtype, attention: str = "sdpa", layers: int | None = None
) -> PreTrainedModel:
    """Build a model with random weights on its device: initialising 1.5 billion numbers takes half a minute on a CPU."""
    from transformers import AutoModelForCausalLM

    config = arch.config()
    if layers is not None:
        config.num_hidden_layers = layers
        config.layer_types = config.layer_types[:layers]
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


# ---- a step's solutions ----


def solution_lengths(count: int, shortest: int, longest: int, median: float, spread: float = 0.6) -> list[int]:
    """Return completion lengths as of a reasoning model: the quantiles of a log-normal distribution, within bounds."""
    normal = NormalDist(math.log(median), spread)
    quantiles = (math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count))
    return [int(min(longest, max(shortest, q))) for q in quantiles]


@dataclass(frozen=True)
class Mix:
    """Lengths of one step's solutions: prompts of one length, completions of ``solution_lengths``."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, completion) length of each solution."""
        return [(self.prompt, c) for c in self.completions]


def mix(bench: Bench) -> Mix:
    """Return the lengths of 40 solutions of 1k to 8k tokens, or of a few short ones in a rehearsal."""
    if bench.tiny:
        return Mix(8, tuple(solution_lengths(8, 12, 48, 24)))
    return Mix(128, tuple(solution_lengths(40, 1024, 8192, 3000)))


def step_batch(arch: Architecture, solutions: Mix, seed: int = 0, group_size: int = 1) -> TrainBatch:
    """Build a batch of random tokens with the log-probs of a uniform sampler, and advantages of alternating sign.

    Neighbours of a group have one prompt, and lengths from all over the mix.
    """
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    lengths = solutions.lengths
    if group_size > 1:
        lengths = [lengths[i] for i in torch.randperm(len(lengths), generator=generator).tolist()]
    common = torch.zeros(0, dtype=torch.long)
    for i, (prompt, completion) in enumerate(lengths):
        ids = torch.randint(8, arch.vocab_size, (prompt + completion,), generator=generator)
        common = ids[:prompt] if i % group_size == 0 else common
        sequences.append(
            TrainingSequence(
                prompt_ids=common,
                completion_ids=ids[prompt:],
                old_logprobs=torch.full((completion,), -math.log(arch.vocab_size)),
                advantages=torch.full((completion,), (-1.0) ** i),
            )
        )
    return TrainBatch(tuple(sequences), temperature=1.0, round_index=0, policy_version=0)


# ---- the GPU's throughput ----

# Dense bf16 TFLOP/s by the vendor's data sheets; for other GPUs there is only the measured matrix product.
_PEAK = {"H100 PCIe": 756.0, "H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0}


def peak_tflops(bench: Bench) -> float | None:
    """Return the throughput of this GPU's bf16 matrix units by its data sheet, in TFLOP/s; None if unknown."""
    if bench.device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((rate for key, rate in _PEAK.items() if key in name), None)


def matmul_tflops(bench: Bench, dtype: torch.dtype) -> float:
    """Measure the throughput of a large square matrix product on random data, the median of five, in TFLOP/s."""
    n = 256 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, device=bench.device, dtype=dtype)

    def product() -> Tensor:
        return torch.mm(a, b, out=out)

    return 2 * n**3 / sorted(bench.seconds(product, 5))[2] / 1e12
