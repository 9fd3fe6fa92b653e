"""Real inputs that are no part of the project: where they lie, and skipping where they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when this is imported: the tests themselves run without the user's own settings.
FOLDER = Path(
    os.environ.get("LEASEBOOK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def real_inputs(name: str) -> Path:
    """A folder of real inputs; skips the test where it is missing."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"needs the real inputs in {name}: set LEASEBOOK_DATA to the folder above it")
    return folder
