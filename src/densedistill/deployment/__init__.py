"""From a network to a file that ships: export, quantisation, and how fast the result is."""

from .export import export

__all__ = ["export"]
