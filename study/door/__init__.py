"""The Python door: what `import study` offers to scripts and notebooks. `study/__init__.py` names it."""
