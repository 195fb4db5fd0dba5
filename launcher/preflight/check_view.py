"""The facts of `headrace check` as lines for the eye."""

from typing import Any

from launcher import output
from launcher.preflight import corpus_shares, evaluation, mixing, token_room
from launcher.preflight.packed_blocks import packing_lines
from launcher.preflight.schedule import show_schedule


def _standing(run: dict[str, Any]) -> str:
    if run["init_from"]:
        return f" (begins from the weights of {run['init_from']})"
    if not run["exists"]:
        return ""
    if run["complete"]:
        return f" (is complete, {run['step']:,} steps: nothing would be started)"
    return f" (exists: training goes on after step {run['step']:,})"


def _stages(facts: dict[str, Any]) -> str:
    stages = facts["stages"]
    blocks = ", ".join(str(stage["blocks"]) for stage in stages)
    sizes = ", ".join(output.size(stage["memory"]["total"]) for stage in stages)
    dearest = max(stage["cost"] for stage in stages)
    return (
        f"{len(stages)} stages of {blocks} blocks; the dearest costs {dearest:.2f} of the mean; each waits "
        f"{100 * facts['bubble']:.1f} % of a step; memory ≈ {sizes}"
    )


def _memory(held: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {output.size(held[name])}" for name in held if name not in ("total", "host"))
    beside = f"; and of the host ≈ {output.size(held['host'])}: the optimizer" if held["host"] else ""
    return f"≈ {output.size(held['total'])} a process: {parts}{beside}"


def show(facts: dict[str, Any]) -> None:
    """The facts as lines for the eye."""
    run, model, step, whole = facts["run"], facts["model"], facts["step"], facts["whole"]
    shared = "" if step["data_ranks"] == step["processes"] else f" ({step['data_ranks']} of the data)"
    output.say(f"run          {run['folder']}{_standing(run)}")
    output.say(f"model        {model['parameters']:,} parameters, vocabulary {model['vocabulary']:,}")
    output.say(
        f"step         {step['rows']:,} rows × {step['length']:,} = {step['positions']:,} positions, on "
        f"{output.counted(step['processes'], 'process', 'es')}{shared} in "
        f"{output.counted(step['micro_batches'], 'micro-batch', 'es')} each"
    )
    output.say(
        f"whole run    {whole['steps']:,} steps, {whole['rows']:,} rows, {whole['positions']:,} positions, "
        f"{whole['flops']:.3g} FLOPs"
    )
    if len(facts["stages"]) > 1:
        output.say(f"pipeline     {_stages(facts)}")
    output.say(f"memory       {_memory(facts['memory'])}")
    host = {
        name: f"{output.size(part)} ({part / model['parameters']:.3g} bytes a parameter)"
        for name, part in facts["host_memory"].items()
    }
    samples = f"; samples {host['samples']}, on rank 0" if facts["host_memory"]["samples"] else ""
    output.say(
        f"host         ≈ {host['start']} a process beside it at the start; a load {host['load']}, "
        f"saves {host['save']}{samples}"
    )
    text, blocks = facts["data_memory"], facts["open_blocks"]
    output.say(
        f"data         ≤ {output.size(sum(text.values()))} a process on its host: "
        f"{output.counted(blocks['number'], 'open block')} and those to come {output.size(text['blocks'])}, "
        f"encoding {output.size(text['encoding'])}"
    )
    if facts["token_cache"]:
        output.say(f"token cache  {token_room.line(facts['token_cache'])}")
    saves = facts["checkpoints"]
    kept = f"kept {saves['whole']} whole and {saves['weights_only']} of weights"
    room = f"{output.size(saves['disk'])} of {output.size(saves['free'])} free"
    output.say(f"checkpoints  {output.size(saves['bytes'])} each; {kept}: {room}")
    output.say("")
    show_schedule(facts["schedule"])
    output.say("")
    corpus_shares.show(facts["corpora"])
    for line in packing_lines(facts["corpora"]):
        output.say(f"packing      {line}")
    for corpus in facts["corpora"]:
        if corpus["held_out_asked"]:
            output.say(
                f"held out     {corpus['name']}: {output.size(corpus['held_out_bytes'])} of text, "
                f"{100 * corpus['held_out_share']:.3g} % ({100 * corpus['held_out_asked']:.3g} % asked)"
            )
    mixing.show(facts["mixing"])
    evaluation.show(facts["eval_corpora"])
    output.say("")
    output.table(
        ["objective", "share", "≈ measured", "at the end", "coefficient"],
        [list(objective.values()) for objective in facts["objectives"]],
    )
    for line in facts["warnings"]:
        output.say(f"warning: {line}")
