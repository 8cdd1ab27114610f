"""Shared memory for large payloads: written by one worker, read by others without a copy."""
