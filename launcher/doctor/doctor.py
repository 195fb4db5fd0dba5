"""`headrace doctor`: what this machine has, what is missing, and whether that matters.

Each examination is a function that gives findings; a finding has a severity and, unless all is well, what to
do. Severity is the exit code: 0 well, 1 works but something will hurt, 2 training cannot work here. What is
only needed for some inputs (pyarrow, s3fs …) is told and does not count where it is not there.

Of all packages any may be missing or broken, so this file imports none of them before it has asked.
"""

import fcntl
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from launcher import output
from launcher.distributed.respawn import command
from launcher.doctor import package_names
from launcher.doctor.dependencies import examine_packages
from launcher.doctor.finding import Finding

MARKS = {0: "ok", 1: "warning", 2: "FAILED"}
NETWORK_SECONDS = 120.0
NVIDIA = Path("/dev/nvidiactl")
"""Is there where a GPU's driver is loaded."""
STANDS_ON = {"torch", "numpy", "pydantic"}
"""Packages without which GPU, compiler and processes cannot be looked at."""


def examine(folder: str) -> list[Finding]:
    """Everything, in a few seconds. `folder`: where runs will lie."""
    packages = list(examine_packages())
    missed = ", ".join(finding.name for finding in packages if finding.severity and finding.name in STANDS_ON)
    findings = [Finding("python", 0, sys.version.split()[0]), _headrace(), *packages, *_shadows(), _cpu()]
    for name, part in {"gpu": _gpus, "compiler": _compiler, "processes": _network}.items():
        findings += [Finding(name, 2, f"not looked at without {missed}")] if missed else _tried(name, part)
    return [*findings, *_disk(Path(folder))]


def _tried(name: str, part: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a part that calls torch. One that cannot even be asked is a finding as well."""
    try:
        return list(part())
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return [Finding(name, 2, f"cannot be looked at: {said}")]


def tell(findings: list[Finding], json: bool) -> int:
    """Print the findings, for the eye or as JSON; the exit code."""
    if json:
        output.say_json([finding.plain() for finding in findings])
    else:
        _show(findings)
    return max(finding.severity for finding in findings)


def _show(findings: list[Finding]) -> None:
    """The findings as lines for the eye."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        output.say(f"{MARKS[finding.severity]:8}{finding.name.ljust(width)}  {finding.text}")
        if finding.remedy:
            output.say(f"{'':8}{'':{width}}  → {finding.remedy}")


def _headrace() -> Finding:
    try:
        return Finding("headrace", 0, metadata.version("headrace"))
    except metadata.PackageNotFoundError:
        return Finding("headrace", 1, "runs from its sources, not installed", "pip install --editable .")


def _shadows() -> Iterator[Finding]:
    foreign, shared = package_names.shadowed(), _shared()
    for line in foreign:
        yield Finding("packages", 2, line)
    for line in shared:
        yield Finding("packages", 2, line)
    if not foreign and not shared:
        yield Finding("packages", 0, f"{', '.join(package_names.ROOMS)} are headrace's own")


def _shared() -> list[str]:
    """One line a room into whose folder another distribution has installed files as well."""
    owners = metadata.packages_distributions()
    lines = []
    for room in package_names.ROOMS:
        others = sorted(set(owners.get(room, ())) - {"headrace"})
        if others:
            lines.append(
                f"the package '{room}' is installed by {', '.join(others)} too; uninstall one of them"
            )
    return lines


def _cpu() -> Finding:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("cpu", 0, f"{cores} cores, {output.size(memory)} of memory, {_vector_unit()}")


def _gpus() -> Iterator[Finding]:
    import torch  # may be missing or broken, and the doctor starts all the same

    if not torch.cuda.is_available():
        yield no_gpu(torch.version.cuda, NVIDIA.exists())
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        bf16 = "" if facts.major >= 8 else ", no bf16: use precision fp32"
        yield Finding(f"gpu {number}", 0, f"{facts.name}, {output.size(facts.total_memory)}{bf16}")
    nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
    yield Finding("nccl", 0, nccl)


def no_gpu(cuda: str | None, card: bool) -> Finding:
    """cuda: the version that torch is built for; card: a GPU's driver is loaded. Plain pip brings a build for
    CUDA everywhere, so without a card it is only said."""
    built = (
        f"none that torch can use, though it is built for CUDA {cuda}" if cuda else "none that torch can use"
    )
    if not card:
        return Finding("gpu", 0, f"{built}: the machine has none; training runs on the CPU")
    if cuda:
        remedy = "nvidia-smi tells whether the driver is new enough; CUDA_VISIBLE_DEVICES may hide the GPU"
    else:
        remedy = "install a build of torch for CUDA"
    return Finding("gpu", 1, f"{built}: the machine has one; training runs on the CPU", remedy)


def _compiler() -> Iterator[Finding]:
    import torch

    from launcher.engine.compiler import found  # imports torch

    gpu = torch.cuda.is_available()
    needed = "layout.compile and attention: flex need one" if gpu else "layout.compile needs one"
    compiler = found(gpu)
    yield Finding("compiler", 0 if compiler or not gpu else 1, compiler or f"none; {needed}")


def _vector_unit() -> str:
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return next((flag for flag in ("avx512_bf16", "avx512f", "avx2") if flag in flags), "no avx2")


def _network() -> Iterator[Finding]:
    name = "processes"
    try:
        done = subprocess.run(
            command("launcher.doctor.network_probe"),
            capture_output=True,
            text=True,
            timeout=NETWORK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        yield Finding(name, 2, f"two processes did not meet within {NETWORK_SECONDS:.0f} s", _INTERFACE)
        return
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        yield Finding(name, 2, f"two processes cannot talk over gloo: {last}", _INTERFACE)
    else:
        yield Finding(name, 0, f"two talk over gloo, all-reduce at {done.stdout.strip()} MiB/s")


_INTERFACE = "check `ip addr`; GLOO_SOCKET_IFNAME=lo names the interface to use on one machine"


def _disk(folder: Path) -> Iterator[Finding]:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    probe = existing / f".headrace-doctor-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
    except OSError as error:
        yield Finding("disk", 2, f"{existing}: {error.strerror}", "choose another run.folder")
        return
    try:
        yield from _disk_facts(existing, probe)
    except OSError as error:
        yield Finding("disk", 2, f"{existing}: {error.strerror}", "choose another run.folder")
    finally:
        shutil.rmtree(probe)


def _disk_facts(folder: Path, probe: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    small = "choose another run.folder, or keep fewer checkpoints" if free < 2 << 30 else ""
    yield Finding("disk space", 1 if small else 0, f"{output.size(free)} free in {folder}", small)

    begin = time.perf_counter()
    _write(probe / "large", b"\0" * (64 << 20))
    rate = 64 / (time.perf_counter() - begin)
    waits = []
    for number in range(5):
        begin = time.perf_counter()
        _write(probe / f"small-{number}", b"x")
        waits.append(time.perf_counter() - begin)
    slow = "saves will take long; a local disk would be quicker" if rate < 20 else ""
    text = f"{rate:.0f} MiB/s with fsync, {statistics.median(waits) * 1000:.1f} ms for a small one"
    yield Finding("disk speed", 1 if slow else 0, text, slow)

    os.link(probe / "large", probe / "link")
    with (probe / "large").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield Finding("disk locks", 0, "locks and links work")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
