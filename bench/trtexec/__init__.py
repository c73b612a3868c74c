"""NVIDIA's `trtexec`: its definitions, reproduced, and the import of its `--exportTimes` files."""
