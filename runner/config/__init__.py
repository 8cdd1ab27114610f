"""The file: TOML in, a frozen `Config` of `runner.model` out, and every problem in it at once."""

from runner.config.build import examine

__all__ = ["examine"]
