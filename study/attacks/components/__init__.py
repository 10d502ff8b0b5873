"""The attack components that belong to this project, such as views, losses and steps.

An import of this package imports every file in it. Each file then registers its components under their names. The
import does not load torch.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
