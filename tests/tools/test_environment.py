"""Tests of the import path that tools/environment.py writes into .venv."""

import subprocess
import venv
from pathlib import Path

import pytest

from tools.environment import path_line


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX", "tr_TR.UTF-8", "tr_TR.ISO-8859-9"])
@pytest.mark.parametrize("utf8", ["0", "1"])
def test_environment_in_a_folder_of_any_name_starts_in_any_locale(tmp_path: Path, locale: str, utf8: str) -> None:
    folder = tmp_path / "Prüf Ordner ß 'şı\" 漢字"
    folder.mkdir()
    (folder / "here.py").write_text("", encoding="ascii")
    venv.create(folder / ".venv", symlinks=True)
    site = next((folder / ".venv").glob("lib/python*/site-packages"))
    (site / "project.pth").write_bytes(path_line(folder))
    command = [folder / ".venv" / "bin" / "python", "-c", "import here"]
    variables = {"LC_ALL": locale, "PYTHONUTF8": utf8}
    done = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
