"""Hypothesis without deadlines: on a shared machine they test the machine."""

from hypothesis import settings

settings.register_profile("search", deadline=None)
settings.load_profile("search")
