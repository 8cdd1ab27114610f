"""What the tests of the package share: the distributions, built once."""

from __future__ import annotations

import pytest
from fresh_environments import Distributions, build_distributions, copy_repository, repository_files


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build what would be published from the files of this repository as they are."""
    folder = tmp_path_factory.mktemp("distributions")
    copy_repository(folder / "source", repository_files())
    return build_distributions(folder / "source", folder / "dist")
