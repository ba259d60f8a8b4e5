"""`python -m blemish`, where the folder of scripts is not on the path."""

from blemish.cli import main

if __name__ == "__main__":
    main()
