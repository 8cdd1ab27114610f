"""`runner` alone: what can be done here."""

from __future__ import annotations

from pathlib import Path

from runner.cli.shared_options import DEFAULT
from runner.errors import ConfigError

_NO_FILE = f"""\
There is no {DEFAULT} here. The smallest useful one runs a function of plugins/*.py that is marked with `@task`:

  [tasks.hello]
  call = "hello"

  runner run FILE        run another file
  runner check FILE      show every error in it
  runner --help          all commands"""


def start() -> None:
    """The tasks of ./tasks.toml, and three commands to go on with."""
    from runner import config
    from runner.cli.listing import tasks

    if not Path(DEFAULT).exists():
        print(_NO_FILE)
        return
    name = None
    try:
        loaded = config.examine(DEFAULT, lenient=True)
    except ConfigError as error:
        print(f"{error}\n")
    else:
        print(f"{loaded.heading}\n")
        print("\n".join(tasks(loaded)))
        print()
        name = next(iter(loaded.declared), None)
    print("  runner run             run it" + (f"; with a param: runner run -p {name}=VALUE" if name else ""))
    print("  runner graph           draw it")
    print("  runner --help          all commands")
