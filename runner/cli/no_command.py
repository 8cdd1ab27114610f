"""`runner` alone: what can be done here."""

from __future__ import annotations

from pathlib import Path

from runner.cli.shared_options import DEFAULT_FILE
from runner.errors import ConfigError

_NO_FILE = f"""\
There is no {DEFAULT_FILE} here. The smallest useful one runs a function of plugins/*.py that is marked with `@task`:

  [tasks.hello]
  call = "hello"

  runner run FILE        run another file
  runner check FILE      show every error in it
  runner --help          all commands"""


def show_overview() -> None:
    """Print the tasks of ./tasks.toml, and three commands to go on with."""
    from runner import config
    from runner.cli.listing import task_lines

    if not Path(DEFAULT_FILE).exists():
        print(_NO_FILE)
        return
    name = None
    try:
        loaded = config.examine(DEFAULT_FILE, lenient=True)
    except ConfigError as error:
        print(f"{error}\n")
    else:
        print(f"{loaded.display_title}\n")
        print("\n".join(task_lines(loaded)))
        print()
        name = next(iter(loaded.declared_params), None)
    print("  runner run             run it" + (f"; with a param: runner run -p {name}=VALUE" if name else ""))
    print("  runner graph           draw it")
    print("  runner --help          all commands")
