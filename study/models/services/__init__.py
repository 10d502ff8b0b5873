"""Black boxes behind HTTP."""
