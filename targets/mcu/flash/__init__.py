"""Writing firmware into flash: one protocol (base.py), a file for each way to do it, one that chooses (choose.py)."""
