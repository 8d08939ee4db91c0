"""`UserError`: a mistake of the person at the keyboard, told in one line that names the input and
the remedy.
"""


class UserError(ValueError):
    """Say in one line what was given, what is wrong with it and what to do; the command prints it
    and exits with 2.
    """
