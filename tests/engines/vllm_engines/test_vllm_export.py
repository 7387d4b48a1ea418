"""What a trained adapter makes of the policy reaches vLLM, in process and as an exported folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.huggingface import RunCard, write_folder
from tests.engines.vllm_engines.conftest import PROMPTS, gaps, spread

LOAD = """
import os, sys
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1")
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=256, enable_chunked_prefill=False)
params = SamplingParams(max_tokens=12, temperature=0, detokenize=False)
(made,) = llm.generate([{"prompt_token_ids": [5, 6, 7]}], params, use_tqdm=False)
print("made", list(made.outputs[0].token_ids))
"""


class Adapted(TPGRPOModule):
    policy_version = 3  # pyright: ignore


def adapted(folder: str) -> TPGRPOModule:
    torch.manual_seed(0)
    module = Adapted(folder, adapter=LoRA(4, 8.0))
    module.configure_model()
    with torch.no_grad():
        for name, parameter in module.policy_model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.3)
    return module


def test_merged_weights_are_sampled_with(random_model):
    module = adapted(random_model)
    engine = VLLMEngine(max_num_seqs=16, kv_cache_gib=0.125)
    try:
        engine.load_weights(module)
        done = dict(engine.sample(PROMPTS, 2, SamplingParams(20), spread(0, PROMPTS)))
    finally:
        engine.close()
    assert float(gaps(module, done, 1.0).max()) < 1e-4  # pyright: ignore
    plain = TPGRPOModule(random_model)
    plain.configure_model()
    assert float(gaps(plain, done, 1.0).mean()) > 0.01  # pyright: ignore


def test_an_exported_folder_is_served(random_model, tmp_path: Path):
    module = adapted(random_model)
    out = write_folder(
        tmp_path / "out", module.policy_model, module.tokenizer, module.named_tensors(), RunCard(random_model, 3)
    )
    run = subprocess.run([sys.executable, "-c", LOAD, str(out)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    made = next(line for line in run.stdout.splitlines() if line.startswith("made"))
    ids = torch.tensor([[5, 6, 7]])
    config = module.policy_model.generation_config
    with torch.no_grad():
        expected = module.policy_model.eval().generate(ids, max_new_tokens=12, do_sample=False)[0, 3:].tolist()
    assert config.eos_token_id not in expected[:-1]
    assert made == f"made {expected}"
