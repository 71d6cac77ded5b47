"""How a run is stopped between two steps."""

from pytorch_lightning.utilities.exceptions import SIGTERMException


class Interrupted(SIGTERMException):
    """Ctrl-C was pressed. Lightning would end the process at once for a KeyboardInterrupt, and with another status."""
