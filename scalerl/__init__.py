"""Train language models with verifiable rewards and log a compute axis that can be trusted.

Importing this package loads neither torch nor pandas; the modules that need them import them.
"""

__version__ = "0.1.0"
