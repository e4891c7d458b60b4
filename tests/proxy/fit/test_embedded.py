"""Tests `drpo-proxy fit` on the real embedded model with the default bundle, on a fixed sample of the questions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAMPLE = 16


@pytest.mark.slow
def test_the_default_bundle_helps_the_embedded_model() -> None:
    command = [sys.executable, "-m", "proxy", "fit", "--backend", "embedded", "--limit", str(SAMPLE), "--json"]
    # On busy cores, a query that is embedded late would get an answer without retrieved examples.
    done = subprocess.run(
        [*command, "--retrieval-timeout", "30"], capture_output=True, text=True, timeout=500, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (verdict,) = result["verdicts"]
    assert verdict["verdict"] == "helps", verdict["sentence"]
    assert result["compared"] == SAMPLE
    measures = {arm["variant"]: arm["measures"] for arm in result["arms"]}
    assert measures["raw"]["ends_by_itself"]["estimate"] < 0.3 < 0.8 < measures["aligned"]["ends_by_itself"]["estimate"]
    assert measures["aligned"]["injected_tokens"]["estimate"] > 300
    assert measures["aligned"]["uncached_tokens"]["estimate"] < measures["aligned"]["injected_tokens"]["estimate"]
    assert measures["aligned"]["marker_leaks"]["estimate"] == 0.0
