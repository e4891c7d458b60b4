"""Tests of the table of `make coverage`."""

from tools.coverage_table import table


def _summary(share: float, lines: int, branches: int) -> dict[str, float]:
    return {"percent_covered": share, "missing_lines": lines, "missing_branches": branches}


def test_ten_least_covered_modules_are_listed_after_the_total() -> None:
    files = {f"index/m{number:02}.py": {"summary": _summary(50 + number, number, 1)} for number in range(12)}
    files["index/whole.py"] = {"summary": _summary(100, 0, 0)}
    lines = table({"files": files, "totals": _summary(61.25, 66, 12)}).splitlines()
    assert lines[1].split() == ["all", "13", "modules", "61.2", "%", "78", "missed"]
    assert [line.split()[0] for line in lines[2:]] == [f"index/m{number:02}.py" for number in range(10)]
    assert lines[3].split()[1:] == ["51.0", "%", "2", "missed"]


def test_module_without_a_missed_line_is_not_listed() -> None:
    report = {"files": {"a.py": {"summary": _summary(100, 0, 0)}}, "totals": _summary(100, 0, 0)}
    assert len(table(report).splitlines()) == 2
