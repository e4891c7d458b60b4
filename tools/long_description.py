"""Makes the long description of the package from README.md, with links that work outside the repository.

Hatchling loads this module when it builds wheel and sdist, because pyproject.toml names it. A package index shows the
long description on a page of its own, where the relative links of README.md lead nowhere. If [project.urls] of
pyproject.toml contains `Repository`, they become links to the files of the release. Otherwise, only their text stays.
"""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from hatchling.metadata.plugin.interface import MetadataHookInterface

_README: Final = "README.md"
_PICTURE: Final = re.compile(r"^!\[[^]]*\]\((?!https?:)[^)\s]+\)\n+", re.MULTILINE)
_LINK: Final = re.compile(r"(!?)\[([^]]*)\]\((?!https?:)([^)\s]+)\)")
_INSTALLATION: Final = """\
`pip install 'drpo-proxy[embedded]'` installs this package with a small base model, and `drpo-proxy` starts the proxy
with this model. In the source distribution, `make run` does both. It also contains the pages and files that this text
names.
"""


class LongDescriptionHook(MetadataHookInterface):
    """The hook by which hatchling gets the long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the long description to the table [project]."""
        text = Path(self.root, _README).read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        release = f"{repository}/{{}}/v{metadata['version']}/" if repository else None
        metadata["readme"] = {"content-type": "text/markdown", "text": long_description(text, release)}


def long_description(text: str, release: str | None) -> str:
    """Return README.md as a text for a page outside the repository.

    Args:
        text: README.md.
        release: The address of the files of the release; None if there is no address. It contains {} in the place of
            `blob` (for pages) or `raw` (for pictures).
    """
    title, _, text = text.partition("\n\n")
    text = f"{title}\n\n{_INSTALLATION}\n{text}"
    if release is None:
        return _LINK.sub(r"\2", _PICTURE.sub("", text))
    return _LINK.sub(lambda link: f"{link[1]}[{link[2]}]({_address(release, link[1], link[3])})", text)


def _address(release: str, mark: str, target: str) -> str:
    return urljoin(release.format("raw" if mark else "blob") + _README, target)
