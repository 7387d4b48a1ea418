"""The parts by priority; those that may run in parallel come first."""

from __future__ import annotations

from benchmarks.gpu_check.bench import GpuCheck

_TRAINING, _STEP, _SAMPLING, _KERNELS = (
    f"benchmarks.gpu_check.{m}" for m in ("training", "step", "sampling", "kernels")
)
# Rounds are loaded with pydantic.
_MATHS = ("math_verify", "pydantic")
_GENERATIVE = ("pydantic", "tenacity", "aiolimiter", "llguidance")

PARTS = (
    GpuCheck(
        "quickstart",
        "half the steps of `configs/quickstart.yaml` with HFEngine: held-out accuracy and seconds",
        f"{_TRAINING}.quickstart",
        240,
        needs=_MATHS,
    ),
    GpuCheck(
        "precision",
        "two steps in 32, bf16-mixed, 16-mixed and bf16-true; log-probs of engine and trainer",
        f"{_TRAINING}.precisions",
        150,
        needs=_MATHS,
    ),
    GpuCheck(
        "fsdp",
        "FSDP2 with one rank (NCCL on a GPU)",
        f"{_TRAINING}.fsdp",
        90,
        ("--model.sharding.param_dtype=bfloat16",),
        needs=_MATHS,
    ),
    GpuCheck(
        "fsdp_offload",
        "FSDP2 with shards, gradients and optimizer in host memory",
        f"{_TRAINING}.fsdp",
        90,
        ("--model.sharding.cpu_offload=true",),
        needs=_MATHS,
    ),
    GpuCheck(
        "fsdp_lora",
        "FSDP2 with LoRA",
        f"{_TRAINING}.fsdp",
        90,
        ("--config", "configs/memory/lora.yaml"),
        needs=(*_MATHS, "peft"),
    ),
    GpuCheck(
        "resume",
        "a checkpoint of this device is resumed on the CPU, and back",
        f"{_TRAINING}.resume",
        90,
        needs=_MATHS,
    ),
    GpuCheck("lora", "LoRA, with its base model as the reference", f"{_TRAINING}.lora", 90, needs=(*_MATHS, "peft")),
    GpuCheck("references", "references `frozen` and `offloaded`", f"{_TRAINING}.references", 90, needs=_MATHS),
    GpuCheck(
        "bitsandbytes",
        "nf4 under LoRA, 8-bit and paged AdamW",
        f"{_TRAINING}.bitsandbytes",
        120,
        needs=(*_MATHS, "peft", "bitsandbytes"),
    ),
    GpuCheck("judge", "the tiny judge with LocalChat", f"{_SAMPLING}.judge", 90, needs=_GENERATIVE),
    GpuCheck(
        "trainer_step",
        "an optimizer step on 40 solutions of 1k to 8k tokens, 1.5B, against TRL's on the same batch",
        f"{_STEP}.trainer_step",
        300,
        alone=True,
    ),
    GpuCheck(
        "logprob_head",
        "the log-prob head, compiled and not, against log_softmax, TRL's tiles and Liger",
        f"{_KERNELS}.logprob_head",
        120,
        alone=True,
    ),
    GpuCheck(
        "engine",
        "HFEngine's tokens/s at 64 and 256 sequences, 1.5B",
        f"{_SAMPLING}.engine_rate",
        90,
        alone=True,
    ),
    GpuCheck(
        "schedules",
        "serial, streamed and pipelined rounds and rounds ahead: their periods, with the engine in a process of its own",
        "benchmarks.gpu_check.schedules.schedules",
        240,
        alone=True,
        needs=(*_MATHS, *_GENERATIVE, "openai"),
    ),
    GpuCheck(
        "vllm",
        "vLLM in the training process: tokens/s and log-probs with the weights that it is sent, 1.5B",
        "benchmarks.gpu_check.vllm_engine.vllm_rate",
        240,
        alone=True,
        needs=("vllm",),
        cuda_only=True,  # its CPU build takes minutes beside a suite that has vLLM's own tests
    ),
    GpuCheck(
        "static_cache",
        "transformers' generate with a static cache and CUDA graphs: what HFEngine could gain, 1.5B",
        f"{_SAMPLING}.static_cache",
        180,
        alone=True,
    ),
    GpuCheck(
        "attention", "sdpa, flash and flex attention, with and without a mask", f"{_KERNELS}.attention", 120, alone=True
    ),
    GpuCheck("compile", "torch.compile of the decoder layers", f"{_STEP}.compiled_layers", 150, alone=True),
)
