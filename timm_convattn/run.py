"""Run a script with this package's models registered with timm, such as timm's own train.py.

python -m timm_convattn.run train.py --data-dir DATA --model aresnet50_relmha
"""

import runpy  # noqa: TID251  # a script that the user names
import sys

import timm_convattn  # noqa: F401  registers the models


def main() -> None:
    """Run the script named by the first argument with the arguments after it."""
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print(__doc__)
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
