"""Explanations of predictions: contributions of input tokens, and the logit lens.

The methods work on functions of coalitions and on arrays; `models.tasks.explaining` applies them to models.
"""

from .methods import Attribution, occlusion, rollout, shapley
from .result import Explanation, LensToken, LogitLens

__all__ = ["Attribution", "Explanation", "LensToken", "LogitLens", "occlusion", "rollout", "shapley"]
