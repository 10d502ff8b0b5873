"""The project's own defences, a file each. Importing this package registers them, and does not import torch."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
