"""TP-GRPO for PyTorch Lightning: thought-level process rewards from intrinsic signals.

The package is imported by worker processes that need neither torch nor Lightning, so this file imports nothing heavy:
take what you need from its home, e.g. ``from lit_tpgrpo.module import TPGRPOModule``.
"""

__version__ = "0.1.0"
