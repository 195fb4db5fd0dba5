"""What is asked of a run afterwards, and answered from its files.

Doors: `status.state/show`, `summary.show_summary`, `rows.show/trace/seen`,
`metrics_table.metrics_table/evaluations_table`, `next_command.resume_command/further_commands`.
"""
