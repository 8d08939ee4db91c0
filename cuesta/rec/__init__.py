"""The ranking wing."""
