"""A second plugin, which also has a `twice`."""

from runner import task


@task
def twice(): ...
