"""Guards that the README shows the flags of proxy/settings.py; `python -m tests.test_readme` writes them anew."""

from dataclasses import MISSING, fields
from pathlib import Path

from proxy.settings import Settings, flag

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- flags: begin -->\n", "<!-- flags: end -->"


def table() -> str:
    rows = ["| flag | default | what it does |", "| --- | --- | --- |"]
    for setting in fields(Settings):
        default = setting.default if setting.default_factory is MISSING else setting.default_factory()
        shown = ", ".join(default) if isinstance(default, tuple) else {False: "off"}.get(default, default)
        metavar = "" if isinstance(default, bool) else f" {setting.metadata['metavar']}"
        what = setting.metadata["help"].replace("|", r"\|")
        rows.append(f"| `{flag(setting.name)}{metavar}`".replace("|c", r"\|c") + f" | {shown} | {what} |")
    return "\n".join(rows) + "\n"


def rewritten(text: str) -> str:
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def test_flags_in_the_readme_are_the_flags_of_the_command() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == rewritten(text), "run `python -m tests.test_readme`"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
