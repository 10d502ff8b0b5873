"""The project's own components, one file each. Importing this package registers them, without importing torch."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
