"""A library whose import fails otherwise than for want of a module."""

raise RuntimeError("the driver is too old")
