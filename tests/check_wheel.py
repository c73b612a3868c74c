"""Installs a wheel alone into an empty environment elsewhere and looks at what travels in it: `nox -s wheel`."""

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def main(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    strangers = {top for top in tops if top != "bench" and not top.endswith(".dist-info")}
    assert not strangers, f"the wheel installs {strangers} beside bench"
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "env"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True)
        for what, pattern in (("models", "models/*.toml"), ("devices", "hardware_profiles/*.toml")):
            listed = _list(environment / "bin" / "bench", what, folder)
            assert listed == _expected(what, pattern), f"bench list {what} differs from the checkout's"
            print(f"bench list {what}: all {len(listed)}")


def _list(bench: Path, what: str, folder: str) -> list[str]:
    command = [str(bench), "list", what, "--format", "json"]
    printed = subprocess.run(
        command, cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": folder}, capture_output=True, check=True
    )
    return sorted(row["name"] for row in json.loads(printed.stdout) if row.get("measurable", True))


def _expected(what: str, pattern: str) -> list[str]:
    import tomllib

    files = list(CHECKOUT.glob(pattern))
    if what == "devices":
        return sorted(file.stem for file in files)
    return sorted(name for file in files for name in tomllib.loads(file.read_text())["model"])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
