"""An app that ends its importer."""

import sys

sys.exit(0)
