"""What tests share: the demo model, and the folder of larger fixtures."""

import os
from pathlib import Path

import pytest

import brooklet

# `check` runs a copy of these tests beside what it installed.
ROOT = Path(os.environ.get("BROOKLET_ROOT", Path(__file__).parents[3])).resolve()
DEMO = ROOT / "models" / "rwkv7-nano-int8.brk"


@pytest.fixture(scope="session")
def model() -> brooklet.Model:
    return brooklet.Model.open(DEMO)


@pytest.fixture
def session(model: brooklet.Model) -> brooklet.Session:
    return brooklet.Session(model)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Fixtures that are not in the repository."""
    folder = Path(os.environ.get("BROOKLET_SHARED", ROOT.parent / "shared"))
    if not folder.exists():
        pytest.skip(f"SKIPPED: no {folder}")
    return folder
