"""The parts of a pool. Nothing in here imports ``queuepool.pool`` or ``queuepool.resource``."""
