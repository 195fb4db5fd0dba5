"""A run on disk: its folder, who writes it, its lineage, its progress, and where it goes on.

Doors: `run_folder`, `averaged.average`, `branch.fork/make`, `trunk`, `beginning`, `eval_corpora`,
`eval_rows`, `eval_text`, `lineage`, `longer_rows`, `lr_change`, `plan_history`, `progress.Progress`,
`quarantine.refuse_unknown`, `resume_point`,
`stream_settings`, `versions.versions`, `writer_lock.BEAT_SECONDS`.
"""
