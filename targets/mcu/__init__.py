"""Microcontroller boards: facts, firmware (building, flashing), the wire protocol, and boards that are emulated."""
