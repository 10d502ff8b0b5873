"""The command `study launch`, in four steps: prepare, select images, execute, summarise."""
