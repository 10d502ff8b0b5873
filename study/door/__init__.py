"""The Python interface: what `import study` offers to scripts and notebooks. `study/__init__.py` lists the names."""
