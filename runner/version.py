"""The version of runner, in a module that imports nothing: records, events and pages name it."""

__version__ = "0.1.0"
