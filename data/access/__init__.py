"""Bytes from wherever they lie: local files, HTTP, fsspec, commands. Trouble that passes is waited
for, and what is fetched is cached.

Doors: `transports`, `http.Http`, `patience.Patience`, `trouble`, `cache`, `compression`; for the config's
refusal `http_login.VARIABLE`.
"""
