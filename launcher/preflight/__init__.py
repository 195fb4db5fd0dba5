"""All that can be known or refused of a run before it costs anything.

Doors: `check.report`, `check_view.show`, `lossy.require_spelling`, `prompts.require_room`,
`edits.refuse_edits`.
"""
