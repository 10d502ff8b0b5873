"""Studies of adversarial transfer between image classifiers.

    import study

    mi = study.attack("mi+di", epsilon=8)
    adversarial = mi(model, images, labels)
    run = study.launch("quickstart", output="runs/q")
    run = study.load("runs/q")
    run.matrix("single-source", attack="mi")

This package never imports Ray. Each name above is imported when it is first used, so `import study` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.door.adversarial_images import AdversarialImages
    from study.door.attacking import Recipe, attack
    from study.door.launching import launch
    from study.door.run import Run, load
    from study.errors import StudyError
    from study.spec.schema import Spec

__version__ = "0.1.0"

__all__ = ["AdversarialImages", "Recipe", "Run", "Spec", "StudyError", "__version__", "attack", "launch", "load"]

_HOMES = {
    "AdversarialImages": "study.door.adversarial_images",
    "Recipe": "study.door.attacking",
    "Run": "study.door.run",
    "Spec": "study.spec.schema",
    "StudyError": "study.errors",
    "attack": "study.door.attacking",
    "launch": "study.door.launching",
    "load": "study.door.run",
}

# Type checkers must not see `__getattr__`, because they would then accept every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module 'study' has no attribute '{name}'")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found


def __dir__() -> list[str]:
    return __all__
