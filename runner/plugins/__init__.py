"""Find plugins, load them, and look task functions up by name.

    files beside tasks.toml ──▶ local      loaded at once: they belong to the project
    runner.std              ──▶ own        loaded when a name leads there
    entry points            ──▶ installed  "runner" when a name leads there, "runner.hooks" at once,
                                           "runner.commands" when the command is called

A name in a file is `function` (of whichever plugin has it), `plugin.function`, or `package.module:function` (any
importable callable, marked or not). Local plugins are loaded under a private package name: nothing enters `sys.path`
in front, and a `plugins/json.py` shadows nothing. A broken plugin stays in the list with its error; only a run that
needs it fails. What is blocked (`PluginPolicy`) is never imported.
"""

from runner.plugins.distributions import PluginPolicy
from runner.plugins.lookup import PluginSet
from runner.plugins.plugin import Plugin
from runner.tasks import TaskFunction

__all__ = ["Plugin", "PluginPolicy", "PluginSet", "TaskFunction"]
