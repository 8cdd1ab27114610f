"""stopgap until the real one lands."""

from runner.config.problems import Problem, ordered, render
from runner.errors import ConfigError


def check(config):
    return []


def problem(code, message, place):
    return Problem(code, message, place)


def check_functions(config, functions):
    return [], {name: (task.args, task.kwargs) for name, task in config.tasks.items()}


def raise_for(problems, config):
    if problems:
        raise ConfigError(render(ordered(problems)), problems)
