"""Imported once by the fork server: what nearly every part needs, and nothing that would initialise CUDA."""

import lightning.pytorch.strategies
import transformers.models.qwen2.modeling_qwen2

import lit_tpgrpo.callbacks
import lit_tpgrpo.datamodules
import lit_tpgrpo.module
import train

__all__ = ["lightning", "lit_tpgrpo", "train", "transformers"]
