"""Converts the rules of deploy/prometheus for the Prometheus operator: `python -m tests.deploy.rules`."""

from typing import Final

from tests.deploy.parts import DEPLOY

FILE: Final = DEPLOY / "kubernetes" / "components" / "monitoring" / "rules.yaml"
RULES: Final = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
_HEAD: Final = """\
# Written by `python -m tests.deploy.rules` from deploy/prometheus/rules: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: drpo-proxy
spec:
  groups:
"""


def written() -> str:
    """Return the content of the file: the groups of all rule files, indented by two spaces."""
    lines = [line for path in RULES for line in path.read_text(encoding="utf-8").split("groups:\n")[1].splitlines()]
    return _HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
