"""Microcontroller boards: facts, building and flashing their firmware, the wire protocol, and boards that are emulated."""
