"""Video-based person re-identification by Appearance and Motion Enhancement (AMEM, AAAI 2020)."""

__version__ = "0.1.0"
