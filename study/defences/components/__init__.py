"""The project's own defences, one per file.

The import of this package registers all defences. It does not import torch.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
