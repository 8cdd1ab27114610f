"""Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing."""

__version__ = "0.1.0"
