"""``python -m jobdoctor``: the same command line as ``jobdoctor``."""

from jobdoctor.cli import main

if __name__ == "__main__":
    main()
