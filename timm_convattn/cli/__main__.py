"""`python -m timm_convattn.cli` is `timm-convattn`."""

import sys

from timm_convattn.cli import main

if __name__ == '__main__':
    sys.exit(main())
