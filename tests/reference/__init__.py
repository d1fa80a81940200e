"""The NumPy twin: every operation of the core and any model that `lapwing.spec` can describe, slowly and simply.

One sequence at a time, no cache, no threads, no tiles; in float64 unless the weights are given in another type.
``Twin`` (`model`) runs a whole spec, the other files hold one operation each, under the names that ``rust/`` has.
"""

from .model import Twin

__all__ = ["Twin"]
