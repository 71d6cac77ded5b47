class UserError(Exception):
    """A mistake the user can mend: the message names the cause and the remedy."""
