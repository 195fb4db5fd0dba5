"""Whether a run may go on from a checkpoint under an edited config, without starting it: for a branch.

What a resume would refuse is refused with its line: the plan that cannot be edited so, a shard that is not
there, text to evaluate on that is trained on, a document to skip that nobody knows, prompts without room,
more left out than the budget.
"""

from data.stream.skipping import LeftOut
from launcher.checkpoint.read import StoredCheckpoint
from launcher.config.run_config import Config
from launcher.preflight.lossy import require_spelling
from launcher.preflight.prompts import require_room
from launcher.runs.eval_corpora import open_all
from launcher.runs.lr_change import lr_change_from
from launcher.runs.plan_history import go_on, left_out_before, run_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.quarantine import refuse_unknown
from launcher.runs.run_folder import RunFolder
from launcher.runs.stream_settings import require_held_out


def refuse_edits(run: RunFolder, stored: StoredCheckpoint, before: Config, config: Config) -> list[str]:
    """BadInput for what a resume of `run` from that checkpoint would refuse; what it would warn of. before:
    the config that the edits change."""
    at = Progress.from_json(stored.progress)
    tokenizer = run_tokenizer(run, at.history.newest.tokenizer)
    require_room(config, tokenizer)
    same = [name for name, text in config.texts.items() if before.texts.get(name) == text]
    corpora, evaluated = open_all(config, read_before=same)
    texts = {**corpora, **evaluated}
    warnings = list(refuse_unknown(config, texts, before=before))
    warnings += require_spelling(config, tokenizer, lambda: texts)
    history = go_on(run, config, corpora, tokenizer.hash, at)
    plan = history.newest
    require_held_out(config, plan, corpora)
    LeftOut(left_out_before(run, plan)).require_within(plan.on_bad.budget)
    change = lr_change_from(stored, run, config.timetable(history))
    return [*warnings, *([change.line] if change else [])]
