"""NVIDIA GPUs: which one is meant, what runs on it, and whether it was in a state to be measured."""
