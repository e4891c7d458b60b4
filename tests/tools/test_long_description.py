"""Tests of the long description that a package index shows."""

import re

from tests.test_repository import ROOT
from tools.long_description import LongDescriptionHook, long_description

README = (ROOT / "README.md").read_text(encoding="utf-8")
RELEASE = "https://host/us/drpo/{}/v1.2.3/"
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def test_without_an_address_relative_links_are_text_and_their_pictures_are_left_out() -> None:
    text = "# drpo\n\n![A page](pictures/page.png)\n\nSee [all `pages`](docs/README.md#a), [below](#b), [x](https://x/y).\n"
    said = long_description(text, None)
    assert said.startswith("# drpo\n\n`pip install ")
    assert said.endswith("names.\n\nSee all `pages`, below, [x](https://x/y).\n")


def test_with_an_address_links_lead_to_the_files_of_the_release() -> None:
    text = "# drpo\n\n![A page](pictures/page.png) [all](docs/README.md#a), [below](#b), [x](https://x/y)"
    assert long_description(text, RELEASE).endswith(
        "names.\n\n![A page](https://host/us/drpo/raw/v1.2.3/pictures/page.png) "
        "[all](https://host/us/drpo/blob/v1.2.3/docs/README.md#a), "
        "[below](https://host/us/drpo/blob/v1.2.3/README.md#b), [x](https://x/y)"
    )


def test_code_of_the_readme_is_not_changed() -> None:
    assert len(FENCED.findall(README)) > 5
    for release in (None, RELEASE):
        assert FENCED.findall(long_description(README, release)) == FENCED.findall(README)


def test_hook_takes_the_address_from_the_project() -> None:
    metadata = {"version": "1.2.3", "urls": {"Repository": "https://host/us/drpo"}}
    LongDescriptionHook(str(ROOT), {}).update(metadata)
    assert metadata["readme"] == {"content-type": "text/markdown", "text": long_description(README, RELEASE)}
