"""The systems of the vision wing; they are siblings and do not import each other."""
