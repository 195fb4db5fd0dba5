"""What headrace stands on: the packages that it asks for, their versions, and whether they can be imported.

A version says little of a package: a shared library may be missing, it may be built for another Python, or a
folder of its name may lie before it. So all are imported, in another process.
"""

import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from launcher.distributed.respawn import command
from launcher.doctor.finding import Finding

OPTIONAL = {
    "pyarrow": "packing .parquet",
    "aiohttp": "shards behind http(s)://",
    "s3fs": "shards behind s3://",
    "gcsfs": "shards behind gs://",
}
MODULES = {"protobuf": "google.protobuf", "pyyaml": "yaml"}
"""What is imported of a distribution, where that has another name."""
IMPORT_SECONDS = 120.0
_LONGEST = 300


@dataclass(frozen=True)
class Requirement:
    """A distribution that must be there, in this version or a newer one."""

    name: str
    least: str | None
    text: str
    """As pip understands it."""


def examine_packages() -> Iterator[Finding]:
    """One finding a package, those that only some inputs need last."""
    wanted = list(_requirements())
    versions = {name: _version(name) for name in [*(one.name for one in wanted), *OPTIONAL]}
    trouble = import_trouble([name for name, version in versions.items() if version])
    for one in wanted:
        yield _required(one, versions[one.name], trouble)
    for name, purpose in OPTIONAL.items():
        if name in trouble:
            yield Finding(name, 1, f"{versions[name]}, cannot be imported: {trouble[name]}", _again(name))
        else:
            yield Finding(name, 0, versions[name] or f"not installed; only needed for {purpose}")
    if together := trouble.get(""):
        yield Finding("packages", 2, f"each can be imported alone, but not all of them together: {together}")


def _required(wanted: Requirement, installed: str | None, trouble: Mapping[str, str]) -> Finding:
    install = f"pip install '{wanted.text}'"
    if installed is None:
        return Finding(wanted.name, 2, "is missing", install)
    if wanted.least and _numbers(installed) < _numbers(wanted.least):
        return Finding(wanted.name, 2, f"{installed}, needed is {wanted.least} or newer", install)
    if wanted.name in trouble:
        text = f"{installed}, cannot be imported: {trouble[wanted.name]}"
        return Finding(wanted.name, 2, text, _again(wanted.text))
    return Finding(wanted.name, 0, installed)


def _again(requirement: str) -> str:
    return f"pip install --force-reinstall --no-deps '{requirement}', unless the fault is another package's"


def _requirements() -> Iterator[Requirement]:
    """Those of every user: extras are left out. From pyproject.toml where headrace runs from its sources."""
    try:
        lines = metadata.requires("headrace") or []
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        lines = tomllib.loads(project.read_text())["project"]["dependencies"] if project.exists() else []
    for line in lines:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:>=([0-9.]+))?", line)
        if match is not None and ";" not in line:
            yield Requirement(match[1], match[2], line)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3]]


def import_trouble(names: Sequence[str]) -> dict[str, str]:
    """Distribution → what went wrong when it was imported; "": when all were, though each can be alone."""
    together = _trial(names)
    if together is None:
        return {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        alone = dict(zip(names, pool.map(lambda name: _trial([name]), names), strict=True))
    return {name: text for name, text in alone.items() if text} or {"": together}


def _trial(names: Sequence[str]) -> str | None:
    """What went wrong, in one line; None: nothing."""
    modules = [MODULES.get(name, name) for name in names]
    try:
        done = subprocess.run(
            command("launcher.doctor.import_trial", *modules),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"not within {IMPORT_SECONDS:.0f} s"
    if done.returncode < 0:
        return f"{signal.Signals(-done.returncode).name} ended the process"
    if done.returncode:
        return (done.stderr.strip() or "no message").splitlines()[-1][:_LONGEST]
    return None
