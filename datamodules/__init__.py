"""``MathRolloutDataModule``, which samples, verifies and judges what the module trains on, and its problem sources.

Sources are in ``lit_tpgrpo.datamodules.sources`` (files, the Hugging Face Hub, memory) and
``lit_tpgrpo.datamodules.arithmetic`` (the embedded domain).
"""

from lit_tpgrpo.datamodules.rollout import MathRolloutDataModule

__all__ = ["MathRolloutDataModule"]

if __name__ == "datamodules":  # imported without the package, in a checkout
    from lit_tpgrpo.checkout import import_as_part_of_package

    import_as_part_of_package(__name__)
