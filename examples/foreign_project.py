"""Use TP-GRPO in your Lightning project with a plain Trainer: python -m examples.foreign_project

The model, the problems and the verifier are objects in memory here; names, files and the built-in verifier work as well.
"""

import lightning as L
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_tpgrpo.callbacks import MathEvaluation
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import resolve_model

L.seed_everything(0)
folder = resolve_model("embedded:tiny-qwen2")  # or any causal language model of transformers
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
problems = [{"problem": p.prompt, "answer": p.answer} for p in ArithmeticProblems(n=64).load()]


def same_number(gold: str, answer: str) -> bool:
    return answer.strip() == gold


data = MathRolloutDataModule(
    train=problems,
    val=ArithmeticProblems(split="heldout", n=16),
    verifier=same_number,
    problems_per_step=4,
    steps_per_round=1,
    sampling=SamplingParams(max_new_tokens=256),
    prompt_template="{problem}",
)
module = TPGRPOModule(model, tokenizer=tokenizer, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-4))
trainer = L.Trainer(accelerator="auto", devices=1, max_steps=2, num_sanity_val_steps=0, callbacks=[MathEvaluation()])
trainer.fit(module, datamodule=data)
