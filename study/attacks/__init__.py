"""The attack engine: recipes, presets and the one loop that runs them.

`study.attacks.loop` imports torch; recipes and presets do not, so that a spec is checked in milliseconds.
"""

from study.attacks.recipe import Attack, Budget, Goal

__all__ = ["Attack", "Budget", "Goal"]
