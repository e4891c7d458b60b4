"""Lists the known vulnerabilities of the pinned packages, and the pinned versions that their authors have yanked.

    python -m tools.audit                      all packages that requirements/*.txt pin
    python -m tools.audit FILE ...             all packages that these files pin
    python -m tools.audit --index URL          asks this index, not the index of pip's configuration

The audit reads NAME/VERSION/json in the JSON interface of a package index. An index that mirrors another one often has
only NAME/json, which lists the vulnerabilities of the newest version. If the index has no data about a pinned version,
the output names the package, and the exit status depends on the other packages.

Some indexes never report a vulnerability. The audit therefore first asks about an old package with known
vulnerabilities. If the index does not report them, a package counts as audited only if the index reports a
vulnerability or a yanked version of it.

Exit status: 0 if no audited package has a known vulnerability or a yanked version; 1 if one has; 2 if no package could
be audited, or the index did not answer.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tools.package_index import PAUSES, NoAnswerError, configured_address, fetch, without_password

ROOT: Final = Path(__file__).parents[1]
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")
_NOWHERE: Final = "sys_platform == 'never'"  # see requirements/override.txt
_ASKED_AT_ONCE: Final = 8
_PROGRESS_INTERVAL: Final = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of a package.

    Attributes:
        name: The normalised name.
        version: The version as the requirements file has it.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


CONTROL: Final = Pin("pycrypto", "2.6.1")
"""The newest version of a package that nobody maintains. Its vulnerabilities have been known since 2017."""


class Verdict(Enum):
    """What is known about one pin."""

    CLEAN = "clean"
    FOUND = "FOUND"
    NOT_AUDITED = "NOT AUDITED"
    NO_ANSWER = "NO ANSWER"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the index says about one pin.

    Attributes:
        pin: The package and its version.
        verdict: Whether something is known about the pin.
        reasons: Each vulnerability, or why there is no result.
    """

    pin: Pin
    verdict: Verdict
    reasons: tuple[str, ...] = ()


Fetch = Callable[[str], Any]
"""Returns the JSON document at a path of the index, and None if there is none. Raises NoAnswerError."""


def main(arguments: Sequence[str] | None = None, pauses: Sequence[float] = PAUSES) -> int:
    """Print the result of an audit and return the exit status."""
    options = _parser().parse_args(arguments)
    index = options.index or configured_address()
    pins = read_pins(options.files or sorted((ROOT / "requirements").glob("*.txt")))
    print(f"Asking {without_password(index)} about {len(pins)} pinned packages", flush=True)
    outcomes = audit(pins, lambda path: fetch(index, path, pauses))
    text, status = report(outcomes)
    print(text)
    return status


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("make audit", description=summary, epilog=rest, formatter_class=raw)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="requirements files with pins")
    parser.add_argument("--index", metavar="URL", help="address of the JSON interface, up to the name of a package")
    return parser


def read_pins(files: Iterable[Path]) -> list[Pin]:
    """Return the pins of requirements files for any platform, each once, sorted."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if _NOWHERE not in line]
    found = [match for line in lines if (match := _PIN.match(line))]
    return sorted({Pin(re.sub(r"[-_.]+", "-", one[1]).lower(), one[2]) for one in found}, key=str)


def audit(pins: Sequence[Pin], fetch: Fetch) -> list[Outcome]:
    """Ask the index about CONTROL, and then about all pins. Returns the outcomes in the order of the pins."""
    control = examine(CONTROL, fetch)
    if control.verdict is Verdict.NO_ANSWER:
        return [Outcome(pin, Verdict.NO_ANSWER, control.reasons) for pin in pins]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        outcomes = list(_with_progress(pool.map(lambda pin: examine(pin, fetch), pins), len(pins)))
    if control.verdict is Verdict.FOUND:
        return outcomes
    blind = f"the index does not report the known vulnerabilities of {CONTROL}, so it may report none at all"
    return [Outcome(one.pin, Verdict.NOT_AUDITED, (blind,)) if _is_silent(one) else one for one in outcomes]


def _is_silent(outcome: Outcome) -> bool:
    return outcome.verdict is Verdict.CLEAN


def _with_progress(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    said = time.monotonic()
    for number, outcome in enumerate(outcomes, 1):
        if time.monotonic() - said > _PROGRESS_INTERVAL:
            said = time.monotonic()
            print(f"{number} of {total}", flush=True)
        yield outcome


def examine(pin: Pin, fetch: Fetch) -> Outcome:
    """Return what the index says about one pin."""
    try:
        document = fetch(f"{pin.name}/{pin.version}/json")
        if document is not None:
            return _judged(pin, document.get("vulnerabilities"), document.get("urls"))
        document = fetch(f"{pin.name}/json")
        if document is None:
            return Outcome(pin, Verdict.NOT_AUDITED, ("the index has no metadata for this package",))
        return _judged_by_project(pin, document)
    except NoAnswerError as error:
        return Outcome(pin, Verdict.NO_ANSWER, (str(error),))
    except (AttributeError, KeyError, TypeError, ValueError):
        return Outcome(pin, Verdict.NOT_AUDITED, ("the answer of the index does not have the form of PyPI's",))


def _judged_by_project(pin: Pin, document: Mapping[str, Any]) -> Outcome:
    """Judge a pin by NAME/json, which lists the vulnerabilities of the newest version and the files of all versions."""
    newest, files = document["info"]["version"], document.get("releases", {}).get(pin.version)
    if newest == pin.version:
        return _judged(pin, document.get("vulnerabilities"), files)
    if files is None:
        return Outcome(pin, Verdict.NOT_AUDITED, ("the index does not know this version",))
    taken_back = _taken_back(files)
    reason = f"the index has metadata for the newest version alone, {newest}"
    return Outcome(pin, Verdict.FOUND if taken_back else Verdict.NOT_AUDITED, taken_back or (reason,))


def _judged(pin: Pin, vulnerabilities: Sequence[Mapping[str, Any]] | None, files: Any) -> Outcome:
    found = _taken_back(files or ()) + tuple(_described(one) for one in vulnerabilities or () if _is_valid(one))
    if found:
        return Outcome(pin, Verdict.FOUND, found)
    if vulnerabilities is None:
        return Outcome(pin, Verdict.NOT_AUDITED, ("the metadata does not say which vulnerabilities are known",))
    return Outcome(pin, Verdict.CLEAN)


def _is_valid(vulnerability: Mapping[str, Any]) -> bool:
    return not vulnerability.get("withdrawn")


def _taken_back(files: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    reasons = {str(file.get("yanked_reason") or "no reason given") for file in files if file.get("yanked")}
    return tuple(f"taken back by its authors (yanked): {_one_line(reason)}" for reason in sorted(reasons))


def _described(vulnerability: Mapping[str, Any]) -> str:
    """Return one line about a vulnerability: its identifiers, the versions in which it is fixed, and a summary."""
    names = " ".join([vulnerability["id"], *(vulnerability.get("aliases") or ())])
    what = _one_line(vulnerability.get("summary") or vulnerability.get("details") or "")
    fixed = ", ".join(vulnerability.get("fixed_in") or ()) or "no version"
    return _one_line(f"{names} (fixed in {fixed}) {what}")


def _one_line(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"\s+", " ", plain).strip()[:200]


def report(outcomes: Sequence[Outcome]) -> tuple[str, int]:
    """Return the text of the result and the exit status."""
    count = {verdict: sum(one.verdict is verdict for one in outcomes) for verdict in Verdict}
    audited = count[Verdict.CLEAN] + count[Verdict.FOUND]
    lines = [*_lines(outcomes), f"{audited} of {len(outcomes)} packages were audited."]
    if count[Verdict.FOUND]:
        lines.append(f"Something is known against {count[Verdict.FOUND]} of them.")
    elif audited:
        lines.append("Nothing is known against them.")
    is_undone = count[Verdict.NO_ANSWER] > 0 or not audited
    if is_undone:
        lines.append("The audit is not complete: try again later, or name another index (ARGS='--index URL').")
    return "\n".join(lines), 1 if count[Verdict.FOUND] else 2 if is_undone else 0


def _lines(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line for each reason, with its pins. The worst verdicts come last, where a reader looks first."""
    pins: dict[tuple[Verdict, str], list[str]] = {}
    for verdict in (Verdict.NOT_AUDITED, Verdict.NO_ANSWER, Verdict.FOUND):
        for outcome in outcomes:
            for reason in outcome.reasons if outcome.verdict is verdict else ():
                pins.setdefault((verdict, reason), []).append(str(outcome.pin))
    return [f"{verdict.value}: {' '.join(names)}: {reason}" for (verdict, reason), names in pins.items()]


if __name__ == "__main__":
    sys.exit(main())
