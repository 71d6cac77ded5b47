class UserError(Exception):
    """A mistake the user can mend: the message names the cause and the remedy."""


class BadLabels(UserError):
    """A label image that can be read and whose numbers cannot be used."""
