"""Checks the installed packages when an image is built: python -I check_install.py WHEEL

The wheel must contain exactly the three packages of this project, and no other installed distribution may own one of
them. Their names are generic, so another distribution could overwrite them silently.
"""

import sys
import zipfile
from importlib.metadata import packages_distributions

PACKAGES = frozenset({"index", "proxy", "optimizer"})
DISTRIBUTION = "drpo-proxy"


def main() -> None:
    """Exit with status 0, or print the problems and exit with status 1."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        top = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    owners = packages_distributions()
    problems = [f"the wheel holds {name}" for name in sorted(top ^ PACKAGES)]
    problems += [
        f"{name} is of {owners.get(name)}" for name in sorted(PACKAGES) if set(owners.get(name, ())) != {DISTRIBUTION}
    ]
    sys.exit("; ".join(problems) or None)


if __name__ == "__main__":
    main()
