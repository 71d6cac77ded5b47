"""Errors that end in a sentence."""


class UserError(Exception):
    """A mistake the user can mend: the message names the cause and the remedy."""


class BadLabels(UserError):
    """A label image that can be read and whose numbers cannot be used."""


class Unreadable(UserError):
    """A file that is no image of a known kind, or a damaged one."""


def missing_extra(what: str, package: str, extra: str) -> UserError:
    """The sentence for an optional part that is not installed.

    Args:
        what: needs it, e.g. a setting as the user gave it.
        package: that is missing.
        extra: of u2slim, which brings it.
    """
    by_itself = f"pip install {package}, or " if extra != "train" else ""  # which is many packages
    return UserError(f"{what} needs {package}: {by_itself}in a clone of the repository pip install -e '.[{extra}]'.")
