"""Hardware, OpenMP and file locks."""
