"""The file: TOML in, a frozen `Config` of `config.model` out, and every problem in it at once."""

from runner.config.build import load

__all__ = ["load"]
