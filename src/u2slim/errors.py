"""Errors whose message is a sentence for the user."""


class UserError(Exception):
    """A mistake that the user can mend; the message names the cause and the remedy."""


class BadLabels(UserError):
    """A label image that can be read, but holds numbers that cannot be used."""


class Unreadable(UserError):
    """A file that is not an image of a known kind, or is damaged."""


def missing_extra(what: str, package: str, extra: str) -> UserError:
    """The error for an optional package that is not installed.

    Args:
        what: what needs the package, e.g. a setting as the user gave it.
        package: the package that is missing.
        extra: the extra of u2slim that installs it.
    """
    by_itself = f"pip install {package}, or " if extra != "train" else ""  # which is many packages
    return UserError(f"{what} needs {package}: {by_itself}in a clone of the repository pip install -e '.[{extra}]'.")
