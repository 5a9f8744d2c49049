"""Programs for the native runtime of the firmware: graph -> bytes, their sizes in advance, and C projects."""
