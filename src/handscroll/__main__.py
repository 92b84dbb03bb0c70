"""`python -m handscroll`: for where the command is not on the path, and for `torchrun -m handscroll`."""

from handscroll.cli import main

if __name__ == "__main__":
    main()
