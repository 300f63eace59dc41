"""A tiny project on ``queuepool.django``, with one app, and a suite of its own."""
