"""The file: TOML in, a frozen `Config` of `runner.model` out, and every problem in it at once."""

from runner.config.build import examine, select_tasks

__all__ = ["examine", "select_tasks"]
