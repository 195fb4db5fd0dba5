"""Who this process is among those that train together, read from the environment of whatever started it.

    headrace train --processes N    RANK, WORLD_SIZE, LOCAL_RANK, HEADRACE_RENDEZVOUS (local_launch.py)
    torchrun, deepspeed             RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
    srun, one task a process        SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_NODELIST
    nothing                         one process alone

Where variables are missing or contradict each other, the line names those to set or to unset: they are often
left from something else that ran in the same shell. Slurm's variables are read here and nowhere else. The
port of a Slurm job is made from its id and its restart count: after a network cut the ranks of an old
incarnation can live on for a while, and must not find the new one's rendezvous.
"""

import ipaddress
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from data.errors import BadInput
from launcher.distributed.mesh import Degrees, Mesh, mesh

FIRST_PORT, PORTS = 20000, 12000
"""Below the range from which Linux gives out ports by itself (32768 …)."""
PATIENCE = 600.0
START = "start with torchrun or srun"


@dataclass(frozen=True)
class SlurmJob:
    """The job in which this process runs."""

    id: str
    restart: int
    """How often Slurm has requeued the job; 0 in its first run."""
    nodes: str
    """The node list as Slurm writes it: n[001-004,007]."""


@dataclass(frozen=True)
class World:
    """This process's place. `rendezvous` is where all meet: file://PATH on one machine; tcp://HOST:PORT,
    which rank 0 opens; agent://HOST:PORT, which torchrun has opened; empty for one process. `degrees` are the
    layout's, known once a config is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rendezvous: str = ""
    started_by: str = "alone"
    job: SlurmJob | None = None
    patience: float = PATIENCE
    """Seconds that a rank waits for the others when they meet."""
    degrees: Degrees = field(default_factory=Degrees)

    @property
    def looks(self) -> bool:
        """This is the process that looks at files for all processes of its machine, which take its word."""
        return self.local_rank == 0 or self.rank == 0

    @property
    def mesh(self) -> Mesh:
        """Its coordinates."""
        return mesh(self.rank, self.size, self.degrees)


def discover(environment: Mapping[str, str] = os.environ) -> World:
    """The World that the environment describes. BadInput names a variable that is missing or no number."""
    job = slurm_job(environment)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _from_rank_variables(environment, job)
    if job is not None and "SLURM_PROCID" in environment and not _is_batch_shell(environment):
        return _from_srun(environment, job)
    if "RANK" in environment or _number(environment, "WORLD_SIZE", 1) > 1:
        here, gone = ("RANK", "WORLD_SIZE") if "RANK" in environment else ("WORLD_SIZE", "RANK")
        raise BadInput(f"{here} is set, but {gone} is not: {START}, or unset {here} to train in one process")
    return World(job=job)


def slurm_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The Slurm job around this process, or None."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST")
    nodes = nodes or environment.get("SLURM_JOB_NODELIST", "")
    if "SLURM_JOB_ID" not in environment and "SLURM_PROCID" not in environment:
        return None
    return SlurmJob(
        id=environment.get("SLURM_JOB_ID", "0"),
        restart=_number(environment, "SLURM_RESTART_COUNT", 0),
        nodes=nodes,
    )


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: 'n[003-005,9],x' → 'n003'."""
    names = node_names(nodes)
    if not names:
        raise BadInput(f"SLURM_NODELIST={nodes!r}: expected the names of the job's nodes, such as n[01-04]")
    return names[0]


def node_names(nodes: str) -> list[str]:
    """The hosts of a Slurm node list: 'n[003-005,9],x' → n003 n004 n005 n9 x; none of text that is no
    such list."""
    names: list[str] = []
    parts = re.findall(r"(?:[^\[\],]|\[[^\]]*\])+", nodes)
    if ",".join(parts) != nodes:
        return []
    for part in parts:
        ends = [""]
        for text, group in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            choices = [text] if text else list(_numbers(group))
            ends = [start + choice for start in ends for choice in choices]
        names += ends
    return names


def _numbers(group: str) -> Iterator[str]:
    """'003-005,9' → 003 004 005 9."""
    for run in group.split(","):
        first, _, last = run.partition("-")
        if first.isdigit() and last.isdigit():
            yield from (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        else:
            yield run


def _from_rank_variables(environment: Mapping[str, str], job: SlurmJob | None) -> World:
    rendezvous = environment.get("HEADRACE_RENDEZVOUS", "")
    size = _number(environment, "WORLD_SIZE")
    if not rendezvous and size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in environment:
                raise BadInput(
                    f"RANK and WORLD_SIZE={size} are set, but {name} is not: {START}, or unset RANK "
                    "WORLD_SIZE to train in one process"
                )
        # torchrun's agent has opened the port already, unless it was told where to meet.
        kind = "agent" if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "tcp"
        rendezvous = f"{kind}://{_place(environment, environment['MASTER_ADDR'])}"
    rank = _number(environment, "RANK")
    return _checked(
        World(
            rank=rank,
            size=size,
            local_rank=_number(environment, "LOCAL_RANK", rank),
            rendezvous=rendezvous,
            started_by="headrace" if "HEADRACE_RENDEZVOUS" in environment else "torchrun or deepspeed",
            job=job,
            patience=_patience(environment),
        )
    )


def _from_srun(environment: Mapping[str, str], job: SlurmJob) -> World:
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    size = _number(environment, name, 1)
    rendezvous = ""
    if size > 1:
        host = environment.get("MASTER_ADDR") or first_host(job.nodes)
        key = f"{job.id}.{environment.get('SLURM_STEP_ID', '')}.{job.restart}".encode()
        rendezvous = f"tcp://{_place(environment, host, FIRST_PORT + zlib.crc32(key) % PORTS)}"
    return _checked(
        World(
            rank=_number(environment, "SLURM_PROCID"),
            size=size,
            local_rank=_number(environment, "SLURM_LOCALID", 0),
            rendezvous=rendezvous,
            started_by="srun",
            job=job,
            patience=_patience(environment),
        )
    )


def _is_batch_shell(environment: Mapping[str, str]) -> bool:
    """sbatch's own shell has the job's task numbers too, but is no task: it starts srun, or is alone."""
    return environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if text == "" and default is not None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise BadInput(f"{name}={text!r} in the environment: expected a whole number")
    return int(text)


def _place(environment: Mapping[str, str], host: str, port: int | None = None) -> str:
    """HOST:PORT, each of a form that can be one."""
    if not _can_be_a_host(host):
        raise BadInput(
            f"MASTER_ADDR={host!r} in the environment: expected the name or the address of rank 0's machine"
        )
    number = _number(environment, "MASTER_PORT", port)
    if not 0 < number < 2**16:
        raise BadInput(f"MASTER_PORT={number} in the environment: expected a port, 1 to 65535")
    return f"{host}:{number}"


def _can_be_a_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        labels = host.rstrip(".").split(".")
        return len(host) <= 253 and all(
            0 < len(label) <= 63 and all(c.isalnum() or c in "-_" for c in label) for label in labels
        )
    return True


def _patience(environment: Mapping[str, str]) -> float:
    return float(_number(environment, "HEADRACE_MEETING_SECONDS", round(PATIENCE)))


def _checked(world: World) -> World:
    if world.size < 1 or world.rank >= world.size:
        raise BadInput(
            f"rank {world.rank} of {world.size} processes in the environment: expected a rank below "
            f"{world.size}; see who sets RANK and WORLD_SIZE, or SLURM_PROCID and SLURM_NTASKS"
        )
    return world
