#!/usr/bin/env bash
# Builds the wheel, installs it without development dependencies into an environment of its own,
# and uses it there as a newcomer would.   tests/smoke.sh PYTHON
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { printf 'smoke: %s\n' "$*" >&2; exit 1; }
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
unset PYTHONPATH

"$python" -m pip wheel -qq --no-deps --wheel-dir "$place" .
wheel=$(echo "$place"/leasebook-*.whl)
if "$python" -m zipfile -l "$wheel" | grep -E '^(tests|docs|examples|benchmarks)/'; then
    fail "the wheel holds files that do not belong into it, listed above"
fi

"$python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install -qq "$wheel"

# From an empty folder, so that nothing comes from the checkout.
mkdir "$place/empty"
cd "$place/empty"
export LEASEBOOK_LEDGER=$place/smoke.db HOME=$place/home XDG_STATE_HOME=$place/state
mkdir "$HOME"
PATH=$place/venv/bin:$PATH
python - <<'PY'
import importlib.util
import sysconfig

site = sysconfig.get_path("purelib")
for name in ("ledger", "projections", "reports", "scheduler", "leasebook"):
    origin = importlib.util.find_spec(name).origin
    assert origin.startswith(site), f"{name} comes from {origin}, not from the wheel"
for name in ("pytest", "hypothesis", "mypy"):
    assert importlib.util.find_spec(name) is None, f"{name} is a development dependency"
PY

leasebook --version
leasebook pool open smoke cpu=4 memory=8GiB
leasebook allocate smoke cpu=2 memory=1GiB --holder smoke --json |
    python -c 'import json, sys; found = json.load(sys.stdin); assert found["outcome"] == "granted", found'
# Refused is an answer, exit code 3, and never a failure of the program.
code=0
leasebook allocate smoke cpu=3 --holder other --json >refused.json || code=$?
[ "$code" -eq 3 ] || fail "a request beyond what is free ended with $code, not 3: $(cat refused.json)"
leasebook list
leasebook verify
[ -s "$LEASEBOOK_LEDGER" ] || fail "the ledger was not written to $LEASEBOOK_LEDGER"
echo "smoke: the installed wheel works"
