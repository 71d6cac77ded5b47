"""Nets by name: published, shipped, and those in files of one's own."""

from u2slim.zoo.open import NetHandle, open_net
from u2slim.zoo.records import PUBLISHED, Published, PublishedFile
from u2slim.zoo.shipped import DEFAULT, SHIPPED, Shipped

__all__ = ["DEFAULT", "PUBLISHED", "SHIPPED", "NetHandle", "Published", "PublishedFile", "Shipped", "open_net"]
