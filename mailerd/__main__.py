"""`python -m mailerd` is `mailerd`."""

from mailerd.cli import main

if __name__ == "__main__":
    main()
