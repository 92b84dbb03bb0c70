"""`python -m handscroll.cli`, for where the command is not on the path."""

from handscroll.cli import main

if __name__ == "__main__":
    main()
