"""The guard against foreign packages, in real processes with real search paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import leasebook.guard
from leasebook.guard import OWN_PACKAGES

CHECKOUT = Path(leasebook.guard.__file__).parents[1]

# Where this checkout is itself installed, it must not stand in for what is missing elsewhere.
HIDE_CHECKOUT = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(CHECKOUT)!r}]; "
CHECK = "from leasebook.guard import check_packages_or_exit; check_packages_or_exit(); print('own')"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installation: the real guard, and small packages of ours around it."""
    place = tmp_path / "installed"
    for name in ("leasebook", *OWN_PACKAGES):
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(f'"""{name} of Leasebook."""\n')
    (place / "leasebook" / "guard.py").symlink_to(CHECKOUT / "leasebook" / "guard.py")
    return place


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    place = tmp_path / "elsewhere"
    place.mkdir()
    return place


def foreign(place: Path, name: str) -> Path:
    (place / name).mkdir(parents=True)
    (place / name / "__init__.py").write_text("raise SystemExit('a foreign package ran')\n")
    return place


def check(*path: Path, cwd: Path, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Start a Python with this search path that calls the guard and nothing else of ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, "-c", HIDE_CHECKOUT + prelude + CHECK],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=60,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("leasebook: ")
    for word in (*words, "virtual environment of its own"):
        assert word in line


def test_packages_beside_leasebook_pass(home: Path, elsewhere: Path) -> None:
    done = check(home, cwd=elsewhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, "own\n", "")


def test_the_check_imports_none_of_the_packages(home: Path, elsewhere: Path) -> None:
    for name in OWN_PACKAGES:
        with (home / name / "__init__.py").open("a") as file:
            file.write("raise SystemExit('was imported')\n")
    assert check(home, cwd=elsewhere).stdout == "own\n"


@pytest.mark.parametrize("name", OWN_PACKAGES)
def test_foreign_package_earlier_on_the_path_is_refused(
    home: Path, elsewhere: Path, tmp_path: Path, name: str
) -> None:
    other = foreign(tmp_path / "other", name)
    done = check(other, home, cwd=elsewhere)
    assert_refused(done, f"'{name}'", str(other / name), f"take {other} off PYTHONPATH")


def test_foreign_package_later_on_the_path_does_no_harm(
    home: Path, elsewhere: Path, tmp_path: Path
) -> None:
    assert check(home, foreign(tmp_path / "other", "ledger"), cwd=elsewhere).stdout == "own\n"


def test_package_of_the_current_folder_is_refused_with_the_way_out(
    home: Path, elsewhere: Path
) -> None:
    done = check(home, cwd=foreign(elsewhere, "reports"))
    assert_refused(done, "'reports'", str(elsewhere), "start the `leasebook` command")


def test_single_file_of_the_current_folder_is_refused(home: Path, elsewhere: Path) -> None:
    (elsewhere / "scheduler.py").write_text("raise SystemExit('a foreign module ran')\n")
    done = check(home, cwd=elsewhere)
    assert_refused(done, str(elsewhere / "scheduler.py"), "start the `leasebook` command")


def test_stray_folder_without_code_does_no_harm(home: Path, elsewhere: Path) -> None:
    (elsewhere / "reports").mkdir()
    (elsewhere / "reports" / "2026.csv").write_text("a,b\n")
    assert check(home, cwd=elsewhere).stdout == "own\n"


def test_stray_folder_in_place_of_a_missing_package_is_refused(home: Path, elsewhere: Path) -> None:
    shutil.rmtree(home / "reports")
    (elsewhere / "reports").mkdir()
    assert_refused(check(home, cwd=elsewhere), "'reports'", str(elsewhere / "reports"))


def test_missing_package_is_named(home: Path, elsewhere: Path) -> None:
    shutil.rmtree(home / "projections")
    assert_refused(check(home, cwd=elsewhere), "'projections' is missing", "incomplete")


def test_package_without_its_first_file_is_named(home: Path, elsewhere: Path) -> None:
    (home / "ledger" / "__init__.py").unlink()
    assert_refused(check(home, cwd=elsewhere), "'ledger' is missing", "incomplete")


def test_foreign_package_installed_over_ours_is_refused(home: Path, elsewhere: Path) -> None:
    (home / "ledger" / "__init__.py").write_text('"""Double-entry accounts."""\n')
    done = check(home, cwd=elsewhere)
    assert_refused(done, str(home / "ledger" / "__init__.py"), "installed over it")


def test_foreign_package_that_is_already_imported_is_refused(
    home: Path, elsewhere: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "ledger").mkdir(parents=True)
    (other / "ledger" / "__init__.py").touch()
    prelude = f"sys.path.insert(0, {str(other)!r}); import ledger; del sys.path[0]; "
    assert_refused(check(home, cwd=elsewhere, prelude=prelude), str(other / "ledger"))


def test_installation_reached_through_a_link_passes(
    home: Path, elsewhere: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(home)
    shutil.move(home / "ledger", tmp_path / "moved")
    (home / "ledger").symlink_to(tmp_path / "moved")
    assert check(tmp_path / "link", home, cwd=elsewhere).stdout == "own\n"


def test_installation_in_one_archive_passes(
    home: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Coverage could not show lines of a file inside an archive, and would fail over them.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", home)
    assert check(Path(archive), cwd=elsewhere).stdout == "own\n"


def test_this_checkout_passes() -> None:
    leasebook.guard.check_packages()


def test_library_users_get_an_import_error_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(foreign(tmp_path / "other", "ledger")))
    monkeypatch.delitem(sys.modules, "ledger", raising=False)
    with pytest.raises(leasebook.guard.ForeignPackage) as caught:
        leasebook.guard.check_packages()
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == "ledger"
    assert caught.value.path == str(tmp_path / "other" / "ledger" / "__init__.py")
