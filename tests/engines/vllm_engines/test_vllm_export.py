"""What a trained adapter makes of the policy reaches vLLM as an exported folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from lit_tpgrpo.training.huggingface import write_folder
from lit_tpgrpo.training.model_card import RunCard
from tests.engines.vllm_engines.adapted_policy import adapted_policy

LOAD = """
import os, sys
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1")
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=256, enable_chunked_prefill=False)
params = SamplingParams(max_tokens=12, temperature=0, detokenize=False)
(made,) = llm.generate([{"prompt_token_ids": [5, 6, 7]}], params, use_tqdm=False)
print("made", list(made.outputs[0].token_ids))
"""


def test_an_exported_folder_is_served(random_model, tmp_path: Path):
    module = adapted_policy(random_model)
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
