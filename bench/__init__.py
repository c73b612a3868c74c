"""Which backbone, on which runtime, is fast enough on my device, and did my change make it slower?"""

__version__ = "0.1.0"
