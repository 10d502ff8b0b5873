"""The attack engine: recipes (attacks as data), presets (recipes from papers), and the loop that runs a recipe.

Recipes and presets do not import torch, so that a spec is checked in milliseconds. `study.attacks.loop` imports torch.
"""

from study.attacks.recipe import Attack, Budget, Goal

__all__ = ["Attack", "Budget", "Goal"]
