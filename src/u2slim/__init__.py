"""Cut subjects out of photos with small nets, and make such nets from published ones.

    import u2slim

    u2slim.cut_out("photo.jpg").save("cut.png")

Nothing heavy is imported before it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from u2slim.cutout.segmenter import Segmenter, cut_out
    from u2slim.cutout.single import Cutout
    from u2slim.errors import UserError
    from u2slim.images.preprocess import Preprocess
    from u2slim.zoo import open_net

__version__ = "0.2.0"
__all__ = ["Cutout", "Preprocess", "Segmenter", "UserError", "__version__", "cut_out", "open_net"]

_HOMES = {
    "Cutout": "u2slim.cutout.single",
    "Preprocess": "u2slim.images.preprocess",
    "Segmenter": "u2slim.cutout.segmenter",
    "UserError": "u2slim.errors",
    "cut_out": "u2slim.cutout.segmenter",
    "open_net": "u2slim.zoo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
