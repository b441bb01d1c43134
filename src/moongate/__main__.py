"""``python -m moongate``: the same as the command ``moongate``."""

from moongate.cli import main

if __name__ == "__main__":
    main()
