"""TP-GRPO inside a Lightning project of your own, in a plain Trainer: python -m examples.foreign_project"""

import lightning as L
import torch

from lit_tpgrpo.callbacks import MathEvaluation
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.module import TPGRPOModule

L.seed_everything(0)
data = MathRolloutDataModule(
    train=ArithmeticProblems(split="train"),
    val=ArithmeticProblems(split="heldout", n=16),
    problems_per_step=4,
    steps_per_round=1,
    sampling=SamplingParams(max_new_tokens=256),
    prompt_template="{problem}",
)
module = TPGRPOModule(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-4))
trainer = L.Trainer(accelerator="auto", devices=1, max_steps=2, num_sanity_val_steps=0, callbacks=[MathEvaluation()])
trainer.fit(module, datamodule=data)
