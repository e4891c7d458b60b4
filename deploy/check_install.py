"""The packaging guard: the wheel's top level is our three packages, and here each is this distribution's alone.
Their names are generic: another distribution could overwrite them without a word. Run by the image build:

python -I check_install.py WHEEL
"""

import sys
import zipfile
from importlib.metadata import packages_distributions

PACKAGES = frozenset({"index", "proxy", "optimizer"})
DISTRIBUTION = "drpo-proxy"


def main() -> None:
    """Exit 0, or 1 with what is wrong."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        top = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    owners = packages_distributions()
    wrong = [f"the wheel holds {name}" for name in sorted(top ^ PACKAGES)]
    wrong += [
        f"{name} is of {owners.get(name)}" for name in sorted(PACKAGES) if set(owners.get(name, ())) != {DISTRIBUTION}
    ]
    sys.exit("; ".join(wrong) or None)


if __name__ == "__main__":
    main()
