"""All that can be known or refused before it costs anything.

Doors: `check.report/show`, `doctor.examine/tell`, `finding.Finding`, `package_names.shadowed`,
`prompts.require_room`.
"""
