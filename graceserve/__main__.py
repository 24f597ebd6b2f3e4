"""`python -m graceserve`. Shell."""

import sys

from graceserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
