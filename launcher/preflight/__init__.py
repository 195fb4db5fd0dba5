"""All that can be known or refused before it costs anything.

Doors: `check.report`, `check_view.show`, `doctor.examine/tell`, `finding.Finding`, `package_names.shadowed`,
`lossy.require_spelling`, `prompts.require_room`, `edits.refuse_edits`.
"""
