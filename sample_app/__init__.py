"""A small shop that runs its background work on RQ: some of its jobs are ill, each has a healthy twin."""
