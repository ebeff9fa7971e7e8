"""`python -m timm_convattn_cli` is `timm-convattn`."""

import sys

from timm_convattn_cli import main

if __name__ == '__main__':
    sys.exit(main())
